"""Online learning under constraints, end to end."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from fairlead.recipes.execute import resume
from fairlead.runs import Interrupted, StageRun
from tiny_runs import assert_same_run, exported, logged, run_stages, tiny_recipe, write_records


def online(shelf: Path, **fields: Any) -> dict[str, Any]:
    stage: dict[str, Any] = {
        "model": str(shelf / "world"),
        "prompts": str(shelf / "world.jsonl"),
        "rewards": {
            "share": {"part": "test-share-of"},
            "harm": {"part": "test-share-of", "symbol": "b", "weight": 0},
        },
        "constraints": {"harm": {"channel": "harm", "limit": 0.1}},
        "steps": 3,
        "batch_size": 3,
        "rollout": {"part": "sample", "n": 4, "sampling": {"maximum_tokens": 4}},
        "optimiser": {"learning_rate": 1e-3},
    }
    return {"online": stage | fields}


@pytest.mark.parametrize("credit", ["gae", "macro-gae", "group-relative", "rloo", "reinforce", "reinforce++", "remax"])
@pytest.mark.parametrize("part", ["lagrangian", "high-confidence"])
def test_under_every_credit(shelf: Path, tmp_path: Path, credit: str, part: str) -> None:
    rollout = {
        "part": "greedy-baseline" if credit == "remax" else "sample",
        "n": 4,
        "sampling": {"maximum_tokens": 4},
    }
    constraints = {"harm": {"part": part, "channel": "harm", "limit": -1.0, "rate": 0.1}}
    run = run_stages(tmp_path / "run", online(shelf, credit=credit, rollout=rollout, constraints=constraints))
    rows = logged(run.directory, "online")
    multipliers = [row["constraint/harm/multiplier"] for row in rows]
    assert 1 < multipliers[0] < multipliers[1] < multipliers[2]
    assert all(("constraint/harm/critic/loss" in row) == (credit in ("gae", "macro-gae")) for row in rows)
    assert all(row["score"] == pytest.approx(row["channel/share"], abs=1e-6) for row in rows)
    assert all(math.isfinite(row["policy/loss"]) for row in rows)


def test_a_multiplier_of_zero_changes_nothing(shelf: Path, tmp_path: Path) -> None:
    nothing = {"harm": {"channel": "harm", "initial": 0, "rate": 0}}
    with_it = run_stages(tmp_path / "a", online(shelf, constraints=nothing))
    without = run_stages(tmp_path / "b", online(shelf, constraints={}))
    first, second = exported(with_it.directory, "online"), exported(without.directory, "online")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert logged(without.directory)[0].items() <= logged(with_it.directory)[0].items()


def test_a_cost_is_lowered(shelf: Path, tmp_path: Path) -> None:
    """The reward is the share of a, the cost that of a as well: the limit and not the reward decides where it ends."""
    stages = online(
        shelf,
        rewards={"share": {"part": "test-share-of"}, "harm": {"part": "test-share-of", "weight": 0}},
        constraints={"harm": {"channel": "harm", "limit": 0.1, "initial": 2.0}},
        regulariser={"part": "kl", "coefficient": 0},
        credit="rloo",
        steps=15,
        batch_size=6,
        optimiser={"learning_rate": 1e-2},
    )
    rows = logged(run_stages(tmp_path / "run", stages).directory, "online")
    assert rows[0]["channel/harm"] > 0.2 and sum(row["channel/harm"] for row in rows[-3:]) / 3 < 0.12


def test_a_cost_that_failed_leaves_its_row_out(shelf: Path, tmp_path: Path) -> None:
    rewards = {"share": {"part": "test-share-of"}, "harm": {"part": "test-cycle", "values": [1.0, None], "weight": 0}}
    row = logged(run_stages(tmp_path / "run", online(shelf, rewards=rewards)).directory, "online")[0]
    assert row["counted_rows"] == 0.5 and row["constraint/harm/cost"] == 1.0 and math.isfinite(row["policy/loss"])


def test_resuming_is_the_same_to_the_last_bit(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constraints = {
        "harm": {"channel": "harm", "limit": 0.1, "rate": 0.5},
        "careful": {"part": "high-confidence", "channel": "harm", "rate": 0.5},
    }
    stages = online(shelf, constraints=constraints, save_every=2, credit="gae")
    whole = run_stages(tmp_path / "whole", stages).directory
    log = StageRun.log

    def stop(self: StageRun, step: int, *args: Any, **options: Any) -> None:
        log(self, step, *args, **options)
        self.run.stopping = step == 2

    monkeypatch.setattr(StageRun, "log", stop)
    with pytest.raises(Interrupted):
        run_stages(tmp_path / "run", stages)
    monkeypatch.setattr(StageRun, "log", log)
    resume(tmp_path / "run")
    assert_same_run(whole, tmp_path / "run", ["online"])


def test_a_judge_that_is_not_there(shelf: Path) -> None:
    with pytest.raises(ValidationError, match=r"constraint harm is on the judge 'harn'.*did you mean 'harm'"):
        tiny_recipe(online(shelf, constraints={"harm": {"channel": "harn"}}))


def test_a_cost_model_is_trained_and_begins_the_critic_of_its_cost(shelf: Path, tmp_path: Path) -> None:
    pair = {"prompt": "a", "chosen": "a a", "rejected": "b c", "chosen_harmful": False, "rejected_harmful": True}
    pairs = write_records(tmp_path / "pairs.jsonl", [pair] * 4)
    cost = {
        "part": "reward",
        "model": str(shelf / "world"),
        "data": pairs,
        "validation": pairs,
        "objective": "cost",
        "steps": 12,
        "validate_every": 6,
        "optimiser": {"learning_rate": 1e-2},
    }
    rewards = {"share": {"part": "test-share-of"}, "harm": {"part": "model", "model": "stage:cost", "weight": 0}}
    constraints = {"harm": {"channel": "harm", "critic": "stage:cost"}}
    run = run_stages(tmp_path / "run", {"cost": cost, **online(shelf, rewards=rewards, constraints=constraints)})
    assert run.results["cost"]["validation"]["accuracy"] == 1.0  # the harmful response costs more
    assert logged(run.directory, "cost")[-1]["validation/accuracy"] == 1.0
    row = logged(run.directory, "online")[0]
    assert row["constraint/harm/cost"] == pytest.approx(row["channel/harm"]) and row["failed/harm"] == 0
    assert row["constraint/harm/critic/mean"] != 0  # the head of the cost model, not a new one
