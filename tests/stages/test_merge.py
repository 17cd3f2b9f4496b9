"""Merging checkpoints of any family, in shards and half precision, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from fairlead.models import ModelError, ModelSpec, load_model
from fairlead.runs import read_json
from fairlead.worlds import TokenWorld
from tiny_models import FAMILIES, save_tiny_model, tiny_model
from tiny_runs import exported, logged, run_stages, tiny_recipe


def weights(directory: Path) -> dict[str, Tensor]:
    return {
        name: tensor for file in sorted(directory.glob("*.safetensors")) for name, tensor in load_file(file).items()
    }


def merge(folder: Path, **fields: Any) -> Path:
    run = run_stages(folder / "run", {"merge": {"models": {n: str(folder / n) for n in "ab"}, **fields}})
    return run.directory / "stages" / "merge" / "model"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_middle_of_two_models_of_every_family(tmp_path: Path, family: str) -> None:
    for seed, name in enumerate("ab"):
        save_tiny_model(tmp_path / name, family, seed=seed)
    made = merge(tmp_path)
    a, b, middle = (weights(folder) for folder in (tmp_path / "a", tmp_path / "b", made))
    assert middle.keys() == a.keys()
    assert all(torch.equal(middle[name], 0.5 * a[name] + 0.5 * b[name]) for name in a)
    # An ordinary checkpoint, with the tied output matrix that is not in the file.
    model = AutoModelForCausalLM.from_pretrained(made)
    assert model.config.tie_word_embeddings == tiny_model(family).config.tie_word_embeddings
    if model.config.tie_word_embeddings:
        assert "lm_head.weight" not in middle
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert load_model(ModelSpec(path=str(made))).num_parameters() == model.num_parameters()


@pytest.fixture
def three(tmp_path: Path) -> Path:
    for seed, name in enumerate("abc"):
        save_tiny_model(tmp_path / name, seed=seed)
    return tmp_path


def test_ends_copies_and_what_is_written_about_the_parents(three: Path) -> None:
    made = merge(three, merger={"weights": {"a": 1, "b": 0}})
    a = weights(three / "a")
    assert all(torch.equal(tensor, a[name]) for name, tensor in weights(made).items())
    record = read_json(made / "merge.json")
    assert record["parents"]["a"]["path"] == str(three / "a") and record["settings"]["merger"]["part"] == "linear"
    assert record["parents"]["a"]["sha256"] != record["parents"]["b"]["sha256"] and record["tensors"] == len(a)
    assert (made / "generation_config.json").exists() and (made / "tokenizer.json").exists()


def test_shards_and_half_precision(three: Path) -> None:
    """Read from shards and written in shards, in bfloat16; the sum is taken in float32."""
    AutoModelForCausalLM.from_pretrained(three / "a").bfloat16().save_pretrained(three / "a", max_shard_size="20KB")
    (three / "a" / "model.safetensors").unlink()
    made = merge(three, dtype="bfloat16", shard_size=20_000)
    assert len(list(made.glob("*.safetensors"))) > 2 and read_json(made / "config.json")["dtype"] == "bfloat16"
    index = read_json(made / "model.safetensors.index.json")
    found = weights(made)
    assert set(index["weight_map"]) == set(found)
    assert index["metadata"]["total_size"] == sum(2 * tensor.numel() for tensor in found.values())
    assert all(file.stat().st_size < 45_000 for file in made.glob("*.safetensors"))  # one embedding has 16,640 bytes
    a, b = weights(three / "a"), weights(three / "b")
    for name, tensor in found.items():
        assert torch.equal(tensor, (0.5 * a[name].float() + 0.5 * b[name]).bfloat16())
    assert AutoModelForCausalLM.from_pretrained(made, dtype="auto").dtype == torch.bfloat16


def test_two_stages_and_a_base(three: Path) -> None:
    """stage:ID among the models, and the same weights by task arithmetic."""
    paths = {name: str(three / name) for name in "abc"}
    stages = {
        "sft": {"part": "merge", "models": {"a": paths["a"], "b": paths["b"]}},
        "start": {
            "part": "merge",
            "models": {"base": paths["c"], "sft": "stage:sft"},
            "merger": {"weights": {"base": 0.1, "sft": 0.9}},
        },
        "again": {
            "part": "merge",
            "models": {"a": paths["a"], "b": paths["b"]},
            "base": paths["c"],
            "merger": {"part": "task-arithmetic", "weights": {"a": 0.5, "b": 0.5}, "scale": 0.9},
        },
    }
    run = run_stages(three / "run", stages)
    a, b, c = (weights(three / name) for name in "abc")
    for name, tensor in exported(run.directory, "start").items():
        torch.testing.assert_close(tensor, 0.1 * c[name] + 0.45 * a[name] + 0.45 * b[name])
        torch.testing.assert_close(tensor, exported(run.directory, "again")[name])


def test_exceptions_by_name_and_rows_of_special_tokens(three: Path) -> None:
    made = weights(
        merge(
            three,
            exceptions={r"layers\.1\.": {"weights": {"a": 0, "b": 1}}, r"layers\.": {"part": "slerp", "fraction": 0}},
            token_rows_of="b",
        )
    )
    a, b = weights(three / "a"), weights(three / "b")
    for name, tensor in made.items():
        if "layers.1." in name:
            assert torch.equal(tensor, b[name])
        elif "layers.0." in name:
            torch.testing.assert_close(tensor, a[name])
        elif "embed_tokens" in name:
            assert torch.equal(tensor[:4], b[name][:4])  # padding, ends and turns
            assert torch.equal(tensor[4:], 0.5 * a[name][4:] + 0.5 * b[name][4:])


def test_an_exception_that_fits_no_tensor_is_an_error(three: Path) -> None:
    with pytest.raises(ModelError, match=r"'layers\.7' is found in no name; the first is"):
        merge(three, exceptions={"layers.7": "linear"})


def test_reward_models_and_integers(three: Path) -> None:
    for name in "ab":
        AutoModelForSequenceClassification.from_pretrained(three / name, num_labels=1).save_pretrained(three / name)
        state = weights(three / name)
        save_file(state | {"table": torch.tensor([1, 2])}, three / name / "model.safetensors", {"format": "pt"})
    made = weights(merge(three))
    assert "score.weight" in made and made["table"].tolist() == [1, 2]
    save_file(
        weights(three / "b") | {"table": torch.tensor([1, 3])}, three / "b" / "model.safetensors", {"format": "pt"}
    )
    (three / "other").mkdir()
    with pytest.raises(ModelError, match=r"table holds torch.int64, which cannot be merged, and differs"):
        run_stages(three / "other" / "run", {"merge": {"models": {n: str(three / n) for n in "ab"}}})


def test_models_that_do_not_belong_together(three: Path, tmp_path: Path) -> None:
    save_tiny_model(three / "b", intermediate_size=32)
    with pytest.raises(
        ModelError, match=r"model\.layers\.0\.mlp\.down_proj\.weight is \[32, 64\] in a and \[32, 32\] in b"
    ):
        merge(three)
    save_tiny_model(three / "b", tokenizer="words")
    with pytest.raises(ModelError, match=r"different tokenizers: '.*' is .* in a and .* in b"):
        merge(three)
    (three / "b" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no model\.safetensors; only checkpoints of safetensors"):
        merge(three)
    config = three / "b" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": {"quant_method": "fp8"}}))
    with pytest.raises(ModelError, match="are quantised"):
        merge(three)
    config.unlink()
    with pytest.raises(ModelError, match=r"no config\.json"):
        merge(three)
    (three / "b" / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="adapters alone; merge them"):
        merge(three)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"merger": "ties"}, "set `base` to the model that all began from"),
        ({"base": "c"}, "has no use for `base`"),
        ({"merger": {"weights": {"a": 1, "b": 1}}}, "must sum to 1"),
        ({"token_rows_of": "c"}, "the models are a, b"),
        ({"exceptions": {"(": "linear"}}, "no regular expression"),
        ({"models": {"a": {"path": "a", "lora": {}}}}, "a: checkpoints are merged as they are"),
    ],
    ids=str,
)
def test_what_is_refused_in_the_recipe(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        tiny_recipe({"merge": {"models": {"a": "a", "b": "b"}, **fields}})


def test_a_soup_as_reference(shelf: Path, tmp_path: Path) -> None:
    """A soup of one model, or of the same one twice, is that model: PPO to the last bit. Another pulls from the first step on."""
    start, other = shelf / "world", TokenWorld(symbols=4, maximum_tokens=4, seed=1).save_model(tmp_path / "other")

    def online(reference: str | None) -> dict[str, Any]:
        return {
            "part": "online",
            "model": str(start),
            "reference": reference,
            "prompts": str(shelf / "world.jsonl"),
            "rewards": {"share": "test-share-of"},
            "rollout": {"part": "sample", "n": 2, "sampling": {"maximum_tokens": 4}},
            "steps": 2,
            "batch_size": 3,
            "optimiser": {"learning_rate": 1e-3},
        }

    soups = {
        "plain": None,
        "first": {"models": {"a": str(start), "b": str(other)}, "merger": {"weights": {"a": 1, "b": 0}}},
        "twice": {"models": {"a": str(start), "b": str(start)}},
        "middle": {"models": {"a": str(start), "b": str(other)}},
    }
    made, rows = {}, {}
    for name, soup in soups.items():
        stages: dict[str, Any] = {} if soup is None else {"merge": soup}
        stages["online"] = online(None if soup is None else "stage:merge")
        run = run_stages(tmp_path / name, stages)
        made[name], rows[name] = exported(run.directory, "online"), logged(run.directory, "online")
    for name in ("first", "twice"):
        assert all(torch.equal(made["plain"][key], made[name][key]) for key in made["plain"])
    assert abs(rows["plain"][0]["kl/k1"]) < 1e-5 and rows["middle"][0]["kl/k3"] > 1e-3
    assert any(not torch.equal(made["plain"][key], made["middle"][key]) for key in made["plain"])
