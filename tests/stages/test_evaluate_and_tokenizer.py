"""The stages that only look, or only count."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from fairlead.runs import read_json_lines
from tiny_models import save_tiny_model
from tiny_runs import run_stages, write_records


def test_evaluate(shelf: Path, tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "other", seed=3)
    stage = {
        "models": {"before": str(shelf / "tiny"), "after": str(tmp_path / "other"), "same": str(shelf / "tiny")},
        "prompts": str(shelf / "prompts.jsonl"),
        "judges": {"length": {"part": "length"}, "odd": {"part": "test-cycle", "values": [None, 1.0]}},
        "rollout": {"part": "sample", "sampling": {"maximum_tokens": 6}},
        "maximum_prompts": 4,
    }
    run = run_stages(tmp_path / "run", {"evaluate": stage})
    result = run.results["evaluate"]
    assert result["prompts"] == 4 and result["models"] == ["before", "after", "same"]
    distances = result["distances"]
    assert distances["before"]["kl_k1"] == distances["same"]["kl_k1"] == pytest.approx(0, abs=1e-5)
    assert distances["after"]["kl_k3"] > 0.1
    assert 0 <= distances["after"]["truncated"] <= 1 and 0 < distances["after"]["tokens"] <= 6
    assert result["channels"]["before"]["length"]["count"] == 4
    assert result["channels"]["before"]["odd"]["failed"] == 2
    # Same prompts and seeds: the same model says the same, so the last ties with the first everywhere.
    assert result["versus"]["channels"]["length"]["tie"] == 1
    samples = read_json_lines(run.directory / "samples.jsonl")
    assert {row["model"] for row in samples} == {"before", "after", "same"}
    assert [row["response"] for row in samples[:4]] == [row["response"] for row in samples[8:]]


def test_a_tokenizer_is_learned_and_used(shelf: Path, tmp_path: Path) -> None:
    text = "the cat sees the dog and the dog sees the cat. "
    data = write_records(tmp_path / "texts.jsonl", [{"text": text * 5}, {"text": text * 3}])
    config = {"model_type": "llama", "vocab_size": 300, "hidden_size": 16, "intermediate_size": 16}
    config |= {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0}
    stages = {
        "tokenizer": {"data": [data, str(shelf / "chats.jsonl")], "vocabulary": 300},
        "sft": {
            "model": {"path": "stage:tokenizer", "initialise": config},
            "data": data,
            "learn": "all",
            "maximum_length": 32,
            "steps": 2,
            "batch_size": 2,
        },
    }
    run = run_stages(tmp_path / "run", stages)
    assert run.results["tokenizer"]["vocabulary"] <= 300
    tokenizer = AutoTokenizer.from_pretrained(run.directory / "stages" / "tokenizer" / "model")
    ids = tokenizer("the cat sees")["input_ids"]
    assert tokenizer.decode(ids) == "the cat sees" and len(ids) < len("the cat sees")
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat == "<|user|>hi<|end|><|assistant|>"
    assert tokenizer.convert_tokens_to_ids(["<|pad|>", "<|end|>"]) == [0, 1]
    # What was trained carries its tokenizer along.
    assert (
        AutoTokenizer.from_pretrained(run.directory / "stages" / "sft" / "model").get_vocab() == tokenizer.get_vocab()
    )
