"""Small runs for tests: records, stages as plain dictionaries, and what they logged and made.

run = run_stages(tmp_path / "run", {"sft": {"model": tiny, "data": write_records(tmp_path / "a.jsonl", CHATS), ...}})
logged(run.directory, "sft")[0]["policy/loss"]
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor

from fairlead.batch import Samples
from fairlead.recipes import Recipe
from fairlead.recipes.execute import execute, resume
from fairlead.rewards import Reward
from fairlead.runs import Interrupted, Run, StageRun, read_json_lines

CHATS = [
    {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
    for question, answer in [("hi", "hello"), ("1+1", "2"), ("sky?", "blue"), ("bye", "see you"), ("ok", "fine!")]
]
PROMPTS = [{"prompt": [{"role": "user", "content": text}]} for text in ("a", "bb", "say c", "d?", "e")]
PAIRS = [
    {
        "prompt": [{"role": "user", "content": f"q{i}"}],
        "chosen": "yes" + "!" * (i % 3),
        "rejected": "no" + "?" * (i % 2),
        "margin": 0.5 * i,
    }
    for i in range(8)
]


def write_records(path: Path, records: list[dict[str, Any]]) -> str:
    """Write JSON lines; returns the path as a recipe wants it."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def tiny_recipe(stages: dict[str, Any], **others: Any) -> Recipe:
    """A recipe of these stages on one thread."""
    return Recipe.model_validate({"name": "tiny", "runtime": {"threads": 1}, "stages": stages, **others})


def run_stages(directory: Path, stages: dict[str, Any], quiet: bool = True, **others: Any) -> Run:
    """Run stages in `directory`."""
    return execute(tiny_recipe(stages, **others), directory, quiet=quiet)


def logged(directory: Path, stage: str | None = None) -> list[dict[str, Any]]:
    """The metrics of a stage (or of all), without what a clock says."""
    rows = [row for row in read_json_lines(directory / "metrics.jsonl") if stage in (None, row["stage"])]
    timed = ("time", "tokens_per_second", "peak_memory")
    return [{k: v for k, v in row.items() if k not in timed and not k.startswith("seconds/")} for row in rows]


def exported(directory: Path, stage: str) -> dict[str, Tensor]:
    """The weights that a stage made."""
    return load_file(directory / "stages" / stage / "model" / "model.safetensors")


def assert_same_run(one: Path, other: Path, stages: list[str]) -> None:
    """Weights, metrics (but for times), samples and warnings are equal to the last bit."""
    for stage in stages:
        first, second = exported(one, stage), exported(other, stage)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first), stage
    assert json.dumps(logged(one)) == json.dumps(logged(other))  # as text, where NaN equals NaN
    for file in ("samples.jsonl", "warnings.jsonl"):
        assert (one / file).read_bytes() == (other / file).read_bytes()


def assert_resumes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stages: dict[str, Any], stopped_after: int
) -> None:
    """A run that is stopped after a step and resumed ends as one that was never stopped, to the last bit."""
    whole = run_stages(tmp_path / "whole", stages)
    log = StageRun.log

    def stop(self: StageRun, step: int, *args: Any, **options: Any) -> None:
        log(self, step, *args, **options)
        self.run.stopping = step == stopped_after

    monkeypatch.setattr(StageRun, "log", stop)
    with pytest.raises(Interrupted):
        run_stages(tmp_path / "stopped", stages)
    monkeypatch.setattr(StageRun, "log", log)
    resume(tmp_path / "stopped", quiet=True)
    assert_same_run(whole.directory, tmp_path / "stopped", list(stages))


class ShareOf(Reward, name="test-share-of"):
    """Share of the response's symbols that are `symbol`.

    Source: none; it exists for tests.
    """

    symbol: str = Field("a", description="what is rewarded")

    def __call__(self, samples: Samples) -> Tensor:
        texts = [row["response"].split() for row in samples.rows]
        return torch.tensor([text.count(self.symbol) / max(len(text), 1) for text in texts])


class Cycle(Reward, name="test-cycle"):
    """The same numbers again and again, row by row; null stands for a failure.

    Source: none; it exists for tests.
    """

    values: list[float | None] = Field(description="one number a row")

    def __call__(self, samples: Samples) -> Tensor:
        values = [float("nan") if value is None else value for value in self.values]
        return torch.tensor([values[i % len(values)] for i in range(samples.batch_size[0])], dtype=torch.float32)

    def metrics(self) -> dict[str, float]:
        return {"asked": 1.0}
