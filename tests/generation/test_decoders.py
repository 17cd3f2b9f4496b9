"""The fast decoder against the model's own forward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fairlead.generation import Sampling, generate, shared
from fairlead.generation.decoders import fast_weights
from fairlead.models import LoraSpec, ModelSpec, load_model
from generation.test_engine import NO_END, Codec, assert_same, make_prompts, plain_logprobs
from tiny_models import save_tiny_model, tiny_model

CASES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama-biased": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False},
    "llama-long": {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {},
    "gemma": {"layer_types": ["full_attention", "full_attention"]},
    "gemma2": {"sliding_window": 128, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    "gemma3_text": {"sliding_window": 128},
}


@pytest.mark.parametrize("saved", [0, shared.SAVED], ids=["shared", "copied"])
@pytest.mark.parametrize("case", CASES)
def test_same_samples_and_log_probabilities_as_the_plain_decoder(
    case: str, saved: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "SAVED", saved)
    model = tiny_model(case.split("-")[0], **CASES[case])
    assert fast_weights(model) is not None
    # Past 32 and 64 columns, so that the cache grows; padded, shared and compacted.
    prompts = make_prompts([20, 3, 31, 12], copies=3)
    codec, sampling = Codec(tuple(range(2, 12))), Sampling(maximum_tokens=45)
    fast = generate(model, codec, prompts, sampling)
    assert len(set(fast.mask.sum(1).tolist())) > 3
    assert_same(fast, generate(model, codec, prompts, sampling, fast=False))


@pytest.mark.parametrize("family", ["gpt2", "mixtral"])
def test_other_families_take_the_plain_decoder(family: str) -> None:
    assert fast_weights(tiny_model(family)) is None


def test_rows_longer_than_a_window_take_the_plain_decoder() -> None:
    model = tiny_model("gemma2")
    weights = fast_weights(model)
    assert weights is not None
    assert weights.window == 8
    prompts, sampling = make_prompts([4, 6]), Sampling(maximum_tokens=20)
    assert_same(generate(model, NO_END, prompts, sampling), generate(model, NO_END, prompts, sampling, fast=False))


def test_weights_are_not_copied_without_a_cast() -> None:
    model = tiny_model("llama")
    weights = fast_weights(model)
    assert weights is not None
    assert weights.layers[0].qkv.weights[1].data_ptr() == model.model.layers[0].self_attn.k_proj.weight.data_ptr()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = fast_weights(model)
    assert cast is not None
    assert [weight.dtype for weight in cast.layers[0].qkv.weights] == [torch.bfloat16]


def test_adapters_count(tmp_path: Any) -> None:
    path = save_tiny_model(tmp_path / "model", "llama")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # peft draws new adapters
        model = load_model(ModelSpec(path=str(path), lora=LoraSpec(rank=4)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(len(name)))
    prompts, sampling = make_prompts([5, 9]), Sampling(maximum_tokens=12)
    adapted = generate(model, NO_END, prompts, sampling)
    assert_same(adapted, generate(model, NO_END, prompts, sampling, fast=False))
    with model.disable_adapter():
        plain = generate(model, NO_END, prompts, sampling)
        assert_same(plain, generate(model, NO_END, prompts, sampling, fast=False))
    assert not torch.equal(plain.tokens, adapted.tokens)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_half_precision_is_as_near_as_the_plain_decoder(family: str) -> None:
    """Log-probabilities of both decoders under autocast against a single-precision pass over their samples."""
    model, prompts = tiny_model(family), make_prompts([20, 3, 31])
    errors = []
    for fast in (True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            samples = generate(model, NO_END, prompts, Sampling(maximum_tokens=8), fast=fast)
        differences = [
            (samples.logprobs[row] - plain_logprobs(model, samples, row).gather(1, samples.tokens[row][:, None])[:, 0])
            for row in range(3)
        ]
        errors.append(float(torch.stack(differences).abs().mean()))
    assert errors[0] < 1.5 * errors[1] < 0.05
