"""Rolling back: what is restored, what goes on, how often, and that an interrupted run is the same to the last bit."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from fairlead.detectors import Alarm, Detector
from fairlead.recipes.execute import resume
from fairlead.report.findings import findings
from fairlead.report.read import read_run
from fairlead.runs import Interrupted, RunError, StageRun, read_json_lines
from fairlead.runtime import LocalGroup
from tiny_runs import assert_same_run, logged, run_stages, tiny_recipe


class AtSteps(Detector, name="test-at-steps"):
    """Fires at every step from the ninth call on that it remembers.

    Source: none; it exists for tests.
    """

    after: int = 8
    repeat: int = 1

    def look(self, metrics: dict[str, float], experience: Any) -> Alarm | None:
        calls = self.recent("calls", metrics["score"], 100)
        return Alarm("Often enough", f"{len(calls)} calls.", "None.") if len(calls) > self.after else None


def online(shelf: Path, **fields: Any) -> dict[str, Any]:
    stage: dict[str, Any] = {
        "model": str(shelf / "world"),
        "prompts": str(shelf / "world.jsonl"),
        "rewards": {"share": {"part": "test-share-of"}},
        "steps": 22,
        "batch_size": 2,
        "save_every": 3,
        "rollout": {"part": "sample", "n": 2, "sampling": {"maximum_tokens": 4}},
        "optimiser": {"learning_rate": 1e-3, "schedule": "linear"},
        "shaping": ["normalise"],
        "regulariser": {"part": "kl", "adaptive": {"target": 0.1, "horizon": 50}},
        "detectors": {"often": "test-at-steps"},
        "rollback": {"on": ["often"], "factor": 0.5, "margin": 4, "most": 2},
    }
    return {"online": stage | fields}


@pytest.fixture(scope="module")
def whole(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_stages(tmp_path_factory.mktemp("whole") / "run", online(shelf)).directory


def warnings(directory: Path) -> list[tuple[int, str]]:
    rows = read_json_lines(directory / "warnings.jsonl")
    return [(row["step"], row["what"].split(":")[0]) for row in rows if row["detector"] in ("often", "rollback")]


def test_where_it_goes_back_to(whole: Path) -> None:
    """The ninth call is step 9: checkpoint 3 is the newest that is four steps old. It remembers 3 calls, so that the next
    alarm is six steps later, and checkpoint 9, which holds what was restored, is the newest good one."""
    assert warnings(whole) == [
        (9, "9 calls."),
        (9, "Back to step 3"),
        (15, "9 calls."),
        (15, "Back to step 9"),
        *((step, f"{step - 12} calls.") for step in (21, 22)),
    ]
    rows = logged(whole, "online")
    assert [row["step"] for row in rows] == list(range(1, 23))
    assert [row["rollbacks"] for row in rows] == [0] * 9 + [1] * 6 + [2] * 7
    assert [row["warnings"] for row in rows if row["step"] in (8, 9, 15)] == [0, 1, 1]
    # Of 22 updates three are done: the schedule stands where it did, times a half, then times a quarter.
    rates = {row["step"]: row["policy/learning_rate"] / 1e-3 for row in rows}
    assert rates[4] == pytest.approx(19 / 22) and rates[9] == pytest.approx(14 / 22)
    assert rates[10] == pytest.approx(0.5 * 19 / 22) and rates[16] == pytest.approx(0.25 * 19 / 22)


def test_the_report_tells_of_it(whole: Path) -> None:
    found = {finding.title: finding for finding in findings(read_run(whole))}
    assert found["The stage was rolled back"].what.startswith("At steps 9, 15; the first time: Back to step 3:")
    assert found["Often enough"].remedy == "None."


def test_what_is_restored(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights and the parts' state are those of the checkpoint; the place among the prompts is not."""
    seen: dict[str, Any] = {}
    original = StageRun.roll_back

    def state(run: StageRun) -> dict[str, Any]:
        kept = dict(run._kept)
        states = {name: thing.state_dict() for name, thing in kept.items() if not isinstance(thing, LocalGroup)}
        return {"weights": kept["policy"].weights(), **states}

    def watched(self: StageRun, *args: Any, **options: Any) -> int:
        seen["before"] = state(self)
        target = original(self, *args, **options)
        seen["after"], seen["saved"] = state(self), torch.load(seen["folder"] / "state.pt", weights_only=False)
        return target

    save = StageRun._save

    def keeping(self: StageRun, step: int, retain: int) -> None:
        if step == 3:
            seen["at three"] = state(self)
            seen["folder"] = self._folder(9)
        save(self, step, retain)

    monkeypatch.setattr(StageRun, "roll_back", watched)
    monkeypatch.setattr(StageRun, "_save", keeping)
    run_stages(tmp_path / "run", online(shelf, steps=9))
    then, before, after = seen["at three"], seen["before"], seen["after"]
    assert all(torch.equal(weight, after["weights"][name]) for name, weight in then["weights"].items())
    assert any(not torch.equal(weight, before["weights"][name]) for name, weight in then["weights"].items())
    for part in ("parts/shaping/0", "parts/regulariser", "parts/detectors/often"):
        assert after[part] == then[part] != before[part]
    assert after["prompts"] == before["prompts"] != then["prompts"]
    assert seen["saved"]["rolled_back"] == [9] and seen["saved"]["parts"]["prompts"] == after["prompts"]


@pytest.mark.parametrize("moments", [{1, 8, 9, 10, 14, 15, 16, 21}, {2, 4, 5, 7, 11, 13, 20, 22}])
def test_stopped_and_continued(
    whole: Path, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moments: set[int]
) -> None:
    """A checkpoint that a stop has made is never one to roll back to."""
    log, left = StageRun.log, set(moments)

    def watched(self: StageRun, step: int, *args: Any) -> None:
        log(self, step, *args)
        if step in left:
            left.discard(step)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(StageRun, "log", watched)
    with pytest.raises(Interrupted):
        run_stages(tmp_path / "run", online(shelf))
    for _ in range(len(moments) - 1):
        with pytest.raises(Interrupted):
            resume(tmp_path / "run", quiet=True)
    resume(tmp_path / "run", quiet=True)
    assert_same_run(whole, tmp_path / "run", ["online"])


@pytest.mark.parametrize("step", [2, 8, 9, 10, 12, 15, 17])
def test_crashed_and_continued(
    whole: Path, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """An error right behind the log of a step: what follows the last checkpoint is done again, a rollback too."""
    log = StageRun.log

    def watched(self: StageRun, number: int, *args: Any) -> None:
        log(self, number, *args)
        if number == step:
            raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(StageRun, "log", watched)
        run_stages(tmp_path / "run", online(shelf))
    resume(tmp_path / "run", quiet=True)
    assert_same_run(whole, tmp_path / "run", ["online"])


def test_crashed_while_the_rollback_is_saved(
    whole: Path, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = StageRun._save

    def watched(self: StageRun, step: int, retain: int) -> None:
        save(self, step, retain)
        if step == 15:
            raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(StageRun, "_save", watched)
        run_stages(tmp_path / "run", online(shelf))
    resume(tmp_path / "run", quiet=True)
    assert_same_run(whole, tmp_path / "run", ["online"])


def test_a_checkpoint_that_is_gone(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = StageRun._good
    monkeypatch.setattr(StageRun, "_good", lambda self, step: 99 if step == 9 else good(self, step))
    with pytest.raises(RunError, match=r"cannot roll online back: its checkpoint .*step-00000099 is gone"):
        run_stages(tmp_path / "run", online(shelf, save_every=20))


def test_what_a_recipe_cannot_ask(shelf: Path) -> None:
    with pytest.raises(
        ValidationError, match=r"rollback\.on names 'offen', which is no detector that is on: choose from"
    ):
        tiny_recipe(online(shelf, rollback={"on": ["offen"]}))
    with pytest.raises(ValidationError, match=r"rollback\.on names 'kl-blow-up'"):
        tiny_recipe(online(shelf, rollback={}, detectors={"kl-blow-up": None}))
    with pytest.raises(ValidationError, match="set save_every to 1 or more"):
        tiny_recipe(online(shelf, save_every=0))
