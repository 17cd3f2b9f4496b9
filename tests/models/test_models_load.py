"""Opening and writing checkpoints, and adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from fairlead.models import (
    LoraSpec,
    ModelError,
    ModelSpec,
    adapter_off,
    backbone,
    checkpoint_weights,
    export_model,
    load_model,
    load_tokenizer,
    merged_weights,
    plain_model,
    resolve_path,
)
from tiny_models import FAMILIES, save_tiny_model, tiny_config

Kind = Literal["causal", "scalar"]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    for family in FAMILIES:
        save_tiny_model(folder / family, family)
    return folder


def ids() -> torch.Tensor:
    return torch.randint(4, 260, (2, 20), generator=torch.Generator().manual_seed(0))


def logits(model: Any, **arguments: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids(), **arguments).logits  # type: ignore[no-any-return]


def disturb(model: Any, names: str = "") -> None:
    """Move the parameters whose name contains `names`, as training would."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if names in name:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def assert_near(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal but for the rounding of another attention implementation."""
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_causal_export_round_trip(checkpoints: Path, tmp_path: Path, family: str) -> None:
    spec = ModelSpec(path=str(checkpoints / family))
    model = load_model(spec)
    assert_near(logits(model), logits(AutoModelForCausalLM.from_pretrained(spec.path)))
    disturb(model)
    export_model(model, tmp_path, spec)
    assert_near(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(model))
    assert torch.equal(logits(load_model(ModelSpec(path=str(tmp_path)))), logits(model))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    message = [{"role": "user", "content": "hé"}]
    text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\nhé<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("family", FAMILIES)
def test_scalar_export_round_trip(checkpoints: Path, tmp_path: Path, family: str) -> None:
    spec = ModelSpec(path=str(checkpoints / family))
    model = load_model(spec, "scalar", labels=3)
    assert not logits(model).any(), "a new head starts flat"
    disturb(model)
    export_model(model, tmp_path, spec)
    assert logits(model).any()
    assert_near(logits(AutoModelForSequenceClassification.from_pretrained(tmp_path)), logits(model))
    assert torch.equal(logits(load_model(ModelSpec(path=str(tmp_path)), "scalar", labels=3)), logits(model))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["causal", "scalar"])
def test_adapters(checkpoints: Path, tmp_path: Path, family: str, kind: Kind) -> None:
    path = str(checkpoints / family)
    base = load_model(ModelSpec(path=path), kind)
    spec = ModelSpec(path=path, lora=LoraSpec(rank=2, alpha=4))
    model = load_model(spec, kind)
    before = logits(model)
    torch.testing.assert_close(before, logits(base))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert any("lora_" in name for name in trained)
    assert all("lora_" in name or "score" in name for name in trained)
    disturb(model, "lora_")
    disturb(model, "score.modules_to_save")
    changed = logits(model)
    assert (changed - before).abs().max() > 1e-3
    with adapter_off(model):
        assert torch.equal(logits(model), before)
    assert set(merged_weights(model)) == set(base.state_dict())
    assert torch.equal(logits(model), changed), "reading the weights leaves the adapters as they were"
    export_model(model, tmp_path, spec)
    auto: Any = AutoModelForCausalLM if kind == "causal" else AutoModelForSequenceClassification
    torch.testing.assert_close(logits(auto.from_pretrained(tmp_path)), changed, atol=1e-5, rtol=1e-4)
    assert torch.equal(logits(model), changed), "writing a checkpoint leaves the model as it was"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lora", [None, LoraSpec(rank=2, alpha=8.0)])
def test_weights_as_a_checkpoint_has_them(
    checkpoints: Path, tmp_path: Path, family: str, lora: LoraSpec | None
) -> None:
    """Experts one by one, tied weights once, adapters merged: what `export_model` writes."""
    spec = ModelSpec(path=str(checkpoints / family), lora=lora)
    model = load_model(spec)
    disturb(model)
    export_model(model, tmp_path, spec)
    written, found = load_file(tmp_path / "model.safetensors"), checkpoint_weights(model)
    assert written.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in written.items())


def test_export_in_another_precision(checkpoints: Path, tmp_path: Path) -> None:
    spec = ModelSpec(path=str(checkpoints / "llama"))
    model = load_model(spec)
    export_model(model, tmp_path, spec, dtype="bfloat16")
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert again.dtype == torch.bfloat16
    assert model.dtype == torch.float32
    assert "bfloat16" not in str(model.config.dtype)
    assert load_model(ModelSpec(path=spec.path, dtype="bfloat16")).dtype == torch.bfloat16


def test_random_start() -> None:
    fields = tiny_config("llama").to_diff_dict()
    torch.manual_seed(3)
    first = load_model(ModelSpec(initialise=fields))
    torch.manual_seed(3)
    assert torch.equal(logits(load_model(ModelSpec(initialise=fields))), logits(first))
    assert not logits(load_model(ModelSpec(initialise=fields), "scalar")).any()
    with pytest.raises(ModelError, match="model_type"):
        load_model(ModelSpec(initialise={"hidden_size": 8}))


def test_dropout_is_overridden_unless_told_otherwise(tmp_path: Path) -> None:
    save_tiny_model(tmp_path, "gpt2", resid_pdrop=0.3, attn_pdrop=0.3)
    assert load_model(ModelSpec(path=str(tmp_path))).config.resid_pdrop == 0.0
    assert load_model(ModelSpec(path=str(tmp_path), dropout=0.1)).config.attn_pdrop == 0.1
    assert load_model(ModelSpec(path=str(tmp_path), dropout=None)).config.resid_pdrop == 0.3


def test_attention_is_what_the_model_supports(checkpoints: Path) -> None:
    assert load_model(ModelSpec(path=str(checkpoints / "llama"))).config._attn_implementation == "fairlead"
    assert load_model(ModelSpec(path=str(checkpoints / "gemma2"))).config._attn_implementation == "eager"
    assert (
        load_model(ModelSpec(path=str(checkpoints / "llama"), attention="eager")).config._attn_implementation == "eager"
    )
    with pytest.raises(ModelError, match=r"cannot be opened.*attention"):
        load_model(ModelSpec(path=str(checkpoints / "gemma2"), attention="sdpa"))


@pytest.mark.parametrize("lora", [None, LoraSpec(rank=2)])
def test_gradient_checkpointing_gives_the_same_gradients(checkpoints: Path, lora: LoraSpec | None) -> None:
    gradients = []
    for checkpointing in (False, True):
        spec = ModelSpec(path=str(checkpoints / "llama"), gradient_checkpointing=checkpointing, lora=lora)
        torch.manual_seed(0)
        model = load_model(spec).train()
        model(input_ids=ids()).logits.logsumexp(-1).sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    assert len(gradients[0]) > 0
    torch.testing.assert_close(*gradients)


def test_backbone_and_plain_model_look_through_adapters(checkpoints: Path) -> None:
    model = load_model(ModelSpec(path=str(checkpoints / "gpt2"), lora=LoraSpec(rank=2)))
    assert type(plain_model(model)).__name__ == "GPT2LMHeadModel"
    assert backbone(model) is plain_model(model).transformer
    with pytest.raises(ModelError, match="no adapters"):
        adapter_off(plain_model(model))


def test_a_tokenizer_without_padding_pads_with_its_end(checkpoints: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoints / "llama")
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(ModelSpec(path=str(tmp_path))).pad_token == "<|im_end|>"
    assert load_tokenizer(ModelSpec(path="elsewhere", tokenizer=str(checkpoints / "llama"))).pad_token == "<|pad|>"


def test_errors_name_the_path(tmp_path: Path) -> None:
    spec = ModelSpec(path=str(tmp_path))
    with pytest.raises(ModelError, match=str(tmp_path)):
        load_model(spec)
    with pytest.raises(ModelError, match=str(tmp_path)):
        load_tokenizer(spec)
    with pytest.raises(ModelError, match="not shipped"):
        resolve_path("fairlead:nothing")
    assert resolve_path("somewhere/else") == "somewhere/else"
    assert ModelSpec.coerce("here") == {"path": "here"}
