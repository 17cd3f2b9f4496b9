"""Judges as constraints, calibrated rewards and several tasks in the online stage, end to end."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from fairlead.recipes.execute import resume
from fairlead.rollouts import WithBaseline
from fairlead.runs import Interrupted, StageRun
from tiny_runs import assert_same_run, exported, logged, run_stages, tiny_recipe, write_records

CRPG = {
    "shaping": ["calibrated", {"part": "constrained", "channel": "ok"}, {"part": "kl-factor", "maximum": 4.0}],
    "credit": {"part": "reinforce", "baseline": "responses"},
}
CODPO = {
    "shaping": ["calibrated"],
    "selection": [{"part": "pairs", "pairing": {"part": "feasible", "channel": "ok"}}],
    "credit": "dpo",
}
CRRAFT = {
    "shaping": ["calibrated"],
    "selection": [{"part": "best-feasible", "channel": "ok", "maximum": 4.0}],
    "credit": {"part": "reinforce", "baseline": "none"},
}


def online(shelf: Path, folder: Path, **fields: Any) -> dict[str, Any]:
    """A reward for the symbol a, and a judge who wants at most a half of b."""
    rows = [{"prompt": "a b", "task": "one"}, {"prompt": "b c", "task": "two"}, {"prompt": "c d", "task": "one"}]
    judge = {"reward": {"part": "test-share-of", "symbol": "b", "weight": -1}, "threshold": -0.5}
    stage: dict[str, Any] = {
        "model": str(shelf / "world"),
        "prompts": write_records(folder / "tasks.jsonl", rows),
        "rewards": {
            "share": {"part": "test-share-of"},
            "ok": {"part": "judges", "judges": {"b": judge}, "whole": False, "weight": 0},
        },
        "rollout": {"part": "with-baseline", "n": 4, "sampling": {"maximum_tokens": 4}},
        "regulariser": {"part": "kl", "coefficient": 0},
        "objective": {"part": "reinforce", "aggregation": "sequence-mean-token-sum"},
        "steps": 3,
        "batch_size": 6,
        "optimiser": {"learning_rate": 1e-3},
    }
    return {"online": stage | fields}


@pytest.mark.parametrize("method", [CRPG, CODPO, CRRAFT], ids=["crpg", "codpo", "crraft"])
def test_it_learns(shelf: Path, tmp_path: Path, method: dict[str, Any]) -> None:
    stages = online(shelf, tmp_path, **method, steps=12, batch_size=12, optimiser={"learning_rate": 1e-2})
    rows = logged(run_stages(tmp_path / "run", stages).directory, "online")
    assert all(math.isfinite(row["policy/loss"]) and math.isfinite(row["kl/k1"]) for row in rows)
    assert rows[0]["reward/ok/violation/b"] == pytest.approx(1 - rows[0]["channel/ok"], abs=0.2)
    assert rows[-1]["channel/share"] > rows[0]["channel/share"] and rows[-1]["channel/ok"] > 0.8
    assert all(math.isfinite(row["mismatch"]) for row in rows)


def by_task(key: str, others: Any, one: Any) -> dict[str, Any]:
    return {"part": "by-task", "tasks": {"one": one}, "others": others}


def mixed() -> dict[str, Any]:
    """CRPG for one task, CODPO for the other."""
    return {
        "shaping": [by_task("shaping", CODPO["shaping"], CRPG["shaping"])],
        "selection": [by_task("selection", CODPO["selection"], [])],
        "credit": by_task("credit", CODPO["credit"], CRPG["credit"]),
        "objective": {"part": "reinforce", "aggregation": "sequence-mean-token-sum", "task": "task"},
    }


def test_tasks_with_optimisers_of_their_own(shelf: Path, tmp_path: Path) -> None:
    drawn = {"part": "with-baseline", "sampling": {"maximum_tokens": 4}}
    rollout = {"part": "by-task", "tasks": {"one": drawn | {"n": 3}}, "others": drawn | {"n": 5}}
    rows = logged(run_stages(tmp_path / "run", online(shelf, tmp_path, **mixed(), rollout=rollout)).directory)
    assert all(math.isfinite(row["policy/loss"]) and 0 < row["counted_rows"] < 1 for row in rows)


@pytest.mark.parametrize("method", [CRPG, CRRAFT], ids=["crpg", "crraft"])
def test_one_task_is_the_stage_without_tasks(shelf: Path, tmp_path: Path, method: dict[str, Any]) -> None:
    plain = run_stages(tmp_path / "a", online(shelf, tmp_path, **method)).directory
    tasks = {
        name: [{"part": "by-task", "tasks": {}, "others": method[name]}]
        for name in ("shaping", "selection")
        if name in method
    }
    for part in tasks.values():
        part[0]["tasks"] = {"nobody": []}
    tasks["credit"] = {"part": "by-task", "tasks": {"nobody": "rloo"}, "others": method["credit"]}  # type: ignore[assignment]
    other = run_stages(tmp_path / "b", online(shelf, tmp_path, **tasks)).directory
    first, second = exported(plain, "online"), exported(other, "online")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_resuming_is_the_same_to_the_last_bit(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = online(shelf, tmp_path, **mixed(), save_every=2)
    whole = run_stages(tmp_path / "whole", stages).directory
    log = StageRun.log

    def stop(self: StageRun, step: int, *args: Any, **options: Any) -> None:
        log(self, step, *args, **options)
        self.run.stopping = step == 2

    monkeypatch.setattr(StageRun, "log", stop)
    with pytest.raises(Interrupted):
        run_stages(tmp_path / "run", stages)
    monkeypatch.setattr(StageRun, "log", log)
    resume(tmp_path / "run", quiet=True)
    assert_same_run(whole, tmp_path / "run", ["online"])


def test_every_rollout_holds_the_sources_in_their_proportions(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {"p": "a b", "q": "b c"}
    sources = [write_records(tmp_path / f"{name}.jsonl", [{"prompt": text}] * 4) for name, text in texts.items()]
    asked: list[list[str]] = []
    roll = WithBaseline.__call__

    def watched(self: WithBaseline, policy: Any, prompts: Any) -> Any:
        asked.append(sorted(row["prompt"] for row in prompts.rows))
        return roll(self, policy, prompts)

    monkeypatch.setattr(WithBaseline, "__call__", watched)
    run_stages(tmp_path / "run", online(shelf, tmp_path, **CRPG, prompts=sources, stratified=True, batch_size=2))
    assert asked == [["a b", "b c"]] * 3


def test_what_does_not_fit_is_told(shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"shaping calibrated compares with another response.*with-baseline"):
        tiny_recipe(online(shelf, tmp_path, **CRPG, rollout={"part": "sample", "n": 4}))
    rounds = {
        "part": "preference-rounds",
        "model": str(shelf / "world"),
        "prompts": str(shelf / "world.jsonl"),
        "rewards": {"share": "test-share-of"},
    }
    with pytest.raises(ValidationError, match=r"set rollout\.part to with-baseline"):
        tiny_recipe({"rounds": rounds | {"shaping": ["calibrated"]}})
    with pytest.raises(ValidationError, match="asks the reference about every response"):
        tiny_recipe({"rounds": rounds | {"shaping": [{"part": "kl-factor", "maximum": 1}]}})
