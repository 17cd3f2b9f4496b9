"""Stages that learn from pairs: reward models and preference optimisation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from fairlead.runtime import LocalGroup
from tiny_runs import PAIRS, exported, logged, run_stages, write_records


def stage(shelf: Path, **fields: Any) -> dict[str, Any]:
    return {
        "model": str(shelf / "tiny"),
        "data": str(shelf / "pairs.jsonl"),
        "validation": str(shelf / "pairs.jsonl"),
        "steps": 6,
        "batch_size": 8,
        "validate_every": 3,
        "optimiser": {"learning_rate": 3e-3},
    } | fields


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The roles of all groups that are opened from here on."""
    roles: list[str] = []
    original = LocalGroup.__init__

    def record(self: LocalGroup, spec: Any) -> None:
        roles.append(spec.role)
        original(self, spec)

    monkeypatch.setattr(LocalGroup, "__init__", record)
    return roles


def test_reward_model(shelf: Path, tmp_path: Path) -> None:
    train = write_records(tmp_path / "train.jsonl", PAIRS * 2)
    run = run_stages(tmp_path / "run", {"reward": stage(shelf, data=train)})
    rows = logged(run.directory, "reward")
    # A new head is zero: every score is 0 and the loss log 2, whatever the backbone says.
    assert rows[0]["policy/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert rows[0]["policy/accuracy"] == 0.5
    assert rows[-1]["policy/loss"] < 0.5 and rows[-1]["policy/accuracy"] == 1
    assert [row["step"] for row in rows if "validation/loss" in row] == [3, 6]
    found = run.results["reward"]["validation"]
    assert found["pairs"] == 8 and found["accuracy"] == rows[-1]["validation/accuracy"] == 1
    assert set(found["baselines"]) == {"longer", "shorter", "bag_of_words"}
    assert found["baselines"]["bag_of_words"] == 1
    model = AutoModelForSequenceClassification.from_pretrained(run.directory / "stages" / "reward" / "model")
    assert model.score.weight.abs().sum() > 0


@pytest.mark.parametrize("part", ["reward", "preference"])
def test_pairs_that_become_equal_when_cut_are_counted_and_left_out(shelf: Path, tmp_path: Path, part: str) -> None:
    data = write_records(tmp_path / "d.jsonl", [*PAIRS[:3], {"prompt": "q", "chosen": "same a", "rejected": "same b"}])
    stages = {
        part: stage(shelf, data=data, validation=data, maximum_response=3, maximum_prompt=40, batch_size=4, steps=2)
    }
    run = run_stages(tmp_path / "run", stages)
    if part == "reward":
        assert run.results[part]["validation"]["pairs"] == 3
    assert math.isfinite(logged(run.directory, part)[-1]["validation/loss"])


@pytest.mark.parametrize("part", ["reward", "preference"])
def test_epochs_and_no_validation(shelf: Path, tmp_path: Path, part: str) -> None:
    run = run_stages(tmp_path / "run", {part: stage(shelf, steps=None, epochs=0.5, batch_size=2, validation=[])})
    assert run.results[part]["steps"] == 2 and "validation" not in run.results[part]


def test_margins_reach_the_reward_objective(shelf: Path, tmp_path: Path) -> None:
    objective = {"part": "bradley-terry", "margin_scale": 1.0}
    run = run_stages(tmp_path / "run", {"reward": stage(shelf, objective=objective, steps=1)})
    expected = sum(math.log1p(math.exp(0.5 * i)) for i in range(8)) / 8
    assert logged(run.directory)[0]["policy/loss"] == pytest.approx(expected, rel=1e-5)


def test_dpo_begins_at_log_two_and_learns(shelf: Path, tmp_path: Path, opened: list[str]) -> None:
    run = run_stages(tmp_path / "run", {"preference": stage(shelf)})
    assert opened == ["policy", "reference"]
    rows = logged(run.directory, "preference")
    assert rows[0]["policy/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert rows[0]["policy/margin"] == pytest.approx(0, abs=1e-6)
    assert rows[-1]["policy/loss"] < 0.6
    validation = run.results["preference"]["validation"]
    assert validation["loss"] == rows[-1]["validation/loss"] < math.log(2) and validation["accuracy"] == 1


def test_dpo_with_adapters_needs_no_second_model(shelf: Path, tmp_path: Path, opened: list[str]) -> None:
    """The reference is the policy with its adapters off: the same numbers as with a model of its own."""
    model = {"path": str(shelf / "tiny"), "lora": {"rank": 4}}
    without = run_stages(tmp_path / "a", {"preference": stage(shelf, model=model)})
    assert opened == ["policy"]
    given = run_stages(tmp_path / "b", {"preference": stage(shelf, model=model, reference=str(shelf / "tiny"))})
    assert opened == ["policy", "policy", "reference"]
    one, two = logged(without.directory), logged(given.directory)
    assert one[0]["policy/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert one[-1]["policy/loss"] < math.log(2) - 0.01
    for first, second in zip(one, two, strict=True):
        assert first["policy/loss"] == pytest.approx(second["policy/loss"], abs=1e-5)


def test_another_reference(shelf: Path, tmp_path: Path) -> None:
    """A policy that has moved is far from the model that it began as."""
    stages = {
        "first": {"part": "preference"} | stage(shelf),
        "second": {"part": "preference"} | stage(shelf, model="stage:first", reference=str(shelf / "tiny"), steps=1),
    }
    run = run_stages(tmp_path / "run", stages)
    last, first = (run.results["first"]["validation"], logged(run.directory, "second")[0])
    assert first["policy/margin"] == pytest.approx(last["margin"], abs=1e-4)
    assert first["policy/loss"] == pytest.approx(last["loss"], abs=1e-4)


@pytest.mark.parametrize(
    "objective", [{"loss": "hinge"}, {"loss": "ipo"}, {"label_smoothing": 0.2}, {"nll_coefficient": 1.0}], ids=str
)
def test_variants(shelf: Path, tmp_path: Path, objective: dict[str, Any]) -> None:
    run = run_stages(tmp_path / "run", {"preference": stage(shelf, objective={"part": "dpo"} | objective, steps=4)})
    rows = logged(run.directory)
    assert rows[-1]["policy/loss"] < rows[0]["policy/loss"]
    if objective == {"loss": "hinge"}:
        assert rows[0]["policy/loss"] == pytest.approx(1, abs=1e-6)
    if objective == {"loss": "ipo"}:
        assert rows[0]["policy/loss"] == pytest.approx(25, abs=1e-4)


def test_the_model_that_is_written_is_the_one_that_was_trained(shelf: Path, tmp_path: Path) -> None:
    run = run_stages(tmp_path / "run", {"preference": stage(shelf)})
    before = AutoModelForCausalLM.from_pretrained(shelf / "tiny").state_dict()
    after = exported(run.directory, "preference")
    assert any(not torch.equal(tensor, before[name]) for name, tensor in after.items())
