"""The stages that only look, or only count."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from transformers import AutoTokenizer

from fairlead.data import DataError
from fairlead.recipes.execute import resume
from fairlead.rollouts import SampleRollout
from fairlead.runs import Interrupted, RunError, read_json, read_json_lines
from tiny_models import save_tiny_model
from tiny_runs import PROMPTS, Cycle, run_stages, tiny_recipe, write_records


def evaluation(shelf: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    """Two models and one of them again, asked four prompts."""
    save_tiny_model(folder / "other", seed=3)
    return {
        "models": {"before": str(shelf / "tiny"), "after": str(folder / "other"), "same": str(shelf / "tiny")},
        "prompts": str(shelf / "prompts.jsonl"),
        "judges": {"length": {"part": "length"}, "odd": {"part": "test-cycle", "values": [None, 1.0]}},
        "rollout": {"part": "sample", "sampling": {"maximum_tokens": 6}},
        "maximum_prompts": 4,
        **changes,
    }


def found(directory: Path) -> dict[str, Any]:
    """What the stage found out, without the time that it took."""
    result: dict[str, Any] = read_json(directory / "stages" / "evaluate" / "result.json")
    return {key: value for key, value in result.items() if key != "seconds"}


def test_evaluate(shelf: Path, tmp_path: Path) -> None:
    run = run_stages(tmp_path / "run", {"evaluate": evaluation(shelf, tmp_path)})
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


def test_batches_of_prompts_change_nothing(shelf: Path, tmp_path: Path) -> None:
    one, other = (
        run_stages(tmp_path / f"run{size}", {"evaluate": evaluation(shelf, tmp_path, batch_size=size)}).directory
        for size in (2, 256)
    )
    assert found(one)["texts"] == found(other)["texts"] and found(one)["channels"] == found(other)["channels"]
    assert found(one)["distances"]["after"] == pytest.approx(found(other)["distances"]["after"], rel=1e-4)
    assert (one / "samples.jsonl").read_text().count("\n") == 3 * 2
    assert (other / "samples.jsonl").read_text().count("\n") == 3 * 4


def test_answers_are_compared_with_each_other_and_with_nothing_else() -> None:
    stage = {"models": {"a": "x"}, "prompts": "p.jsonl", "judges": {"j": "length"}, "rollout": "against-opponent"}
    with pytest.raises(
        ValidationError, match=r"rollout against-opponent draws others beside them: set rollout\.part to sample"
    ):
        tiny_recipe({"evaluate": stage})
    tiny_recipe({"evaluate": stage | {"rollout": "sample"}})


def test_no_prompt_at_all_is_an_error(shelf: Path, tmp_path: Path) -> None:
    stage = evaluation(shelf, tmp_path, prompts=write_records(tmp_path / "none.jsonl", []))
    with pytest.raises(DataError, match="no "):
        run_stages(tmp_path / "run", {"evaluate": stage})


def test_an_evaluation_that_is_stopped_between_batches_goes_on_where_it_was(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind every batch, the last one too; nothing is asked twice."""
    stages = {"evaluate": evaluation(shelf, tmp_path, batch_size=3, rollout={"part": "sample", "n": 2})}
    whole = run_stages(tmp_path / "whole", stages).directory
    asked: list[int] = []
    roll = SampleRollout.__call__

    def watched(self: SampleRollout, policy: Any, prompts: Any) -> Any:
        asked.append(int(prompts.batch_size[0]))
        os.kill(os.getpid(), signal.SIGTERM)
        return roll(self, policy, prompts)

    monkeypatch.setattr(SampleRollout, "__call__", watched)
    stopped = tmp_path / "stopped"
    for step in range(1, 7):
        with pytest.raises(Interrupted, match=f"in stage evaluate after step {step}"):
            run_stages(stopped, stages)
        assert not (stopped / "stages" / "evaluate" / "result.json").exists()
    resume(stopped, quiet=True)
    assert asked == [3, 1] * 3
    assert json.dumps(found(stopped)) == json.dumps(found(whole))  # as text, where NaN equals NaN
    assert (stopped / "samples.jsonl").read_bytes() == (whole / "samples.jsonl").read_bytes()


def test_an_evaluation_notices_prompts_that_have_gone(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_records(tmp_path / "prompts.jsonl", PROMPTS)
    stages = {"evaluate": evaluation(shelf, tmp_path, batch_size=2, prompts=data)}
    judge = Cycle.__call__
    monkeypatch.setattr(Cycle, "__call__", lambda self, samples: os.kill(os.getpid(), 15) or judge(self, samples))
    with pytest.raises(Interrupted):
        run_stages(tmp_path / "run", stages)
    write_records(tmp_path / "prompts.jsonl", PROMPTS[:2])
    with pytest.raises(RunError, match="there were 4 prompts and are 2 now"):
        run_stages(tmp_path / "run", stages)


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


def test_a_tokenizer_is_learned_from_prompts_and_responses(tmp_path: Path) -> None:
    """Both the turns of the prompt and the response count; feedback is a source like any other."""
    data = tmp_path / "completions.jsonl"
    rows = [
        {"prompt": "zebra zebra zebra", "completion": "quagga quagga quagga"},
        {"prompt": [{"role": "user", "content": "okapi okapi okapi"}], "completion": "gnu gnu gnu"},
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = run_stages(tmp_path / "run", {"tokenizer": {"data": str(data), "vocabulary": 300}})
    tokenizer = AutoTokenizer.from_pretrained(run.directory / "stages" / "tokenizer" / "model")
    for word in ("zebra", "quagga", "okapi", "gnu"):
        assert len(tokenizer(word)["input_ids"]) < len(word)
