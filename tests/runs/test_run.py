"""Runs: steps, checkpoints, signals, models that earlier stages made."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import Field, PrivateAttr

import fairlead
from counting_stage import Counter, write_recipe
from fairlead.parts import Part, parts_within
from fairlead.runs import Interrupted, Run, RunError, StageRun, read_json, read_json_lines


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path / "run", quiet=True)
    yield run
    run.close()


def go(stage: StageRun, total: int, **options: Any) -> tuple[list[int], Counter]:
    """Every step of a stage that counts."""
    counter = Counter()
    stage.keep("counter", counter)
    done = []
    for step in stage.steps(total, **options):
        counter.total += step
        stage.log(step, {"total": counter.total})
        done.append(step)
    return done, counter


def checkpoints(run: Run, stage: str = "one") -> list[str]:
    return sorted(path.name for path in (run.directory / "stages" / stage / "checkpoints").glob("*"))


def test_steps_count_from_one(run: Run) -> None:
    assert go(run.stage("one", "counting"), 3)[0] == [1, 2, 3]
    assert [row["step"] for row in read_json_lines(run.directory / "metrics.jsonl")] == [1, 2, 3]


@pytest.mark.parametrize(
    ("save_every", "retain", "kept"),
    [
        (2, 1, ["step-00000006"]),
        (2, 2, ["step-00000004", "step-00000006"]),
        (3, 9, ["step-00000003", "step-00000006"]),
        (7, 1, []),  # the end of the stage is not a checkpoint: its result is
        (0, 1, []),
    ],
)
def test_which_checkpoints_are_kept(run: Run, save_every: int, retain: int, kept: list[str]) -> None:
    go(run.stage("one", "counting"), 7, save_every=save_every, retain=retain)
    assert checkpoints(run) == kept


def test_a_stage_continues_behind_its_last_checkpoint(run: Run) -> None:
    go(run.stage("one", "counting"), 5, save_every=2)
    done, counter = go(run.stage("one", "counting"), 6, save_every=2)
    assert done == [5, 6]
    assert counter.total == 21
    assert [row["step"] for row in read_json_lines(run.directory / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_an_older_checkpoint_serves_when_the_last_is_taken_away(run: Run) -> None:
    go(run.stage("one", "counting"), 7, save_every=2, retain=2)
    folder = run.directory / "stages" / "one" / "checkpoints"
    (folder / "step-00000006" / "state.pt").unlink()
    with pytest.raises(RunError, match="continue from the one before it"):
        go(run.stage("one", "counting"), 7)
    (folder / "step-00000006").rmdir()
    assert go(run.stage("one", "counting"), 7, save_every=2)[0] == [5, 6, 7]


def test_an_unfinished_checkpoint_is_no_checkpoint(run: Run) -> None:
    go(run.stage("one", "counting"), 3, save_every=2)
    (run.directory / "stages" / "one" / "checkpoints" / ".step-00000003.tmp").mkdir()
    assert go(run.stage("one", "counting"), 3)[0] == [3]


def test_a_checkpoint_of_another_recipe(run: Run) -> None:
    go(run.stage("one", "counting"), 3, save_every=2)
    stage = run.stage("one", "counting")
    stage.keep("controller", Counter())
    with pytest.raises(RunError, match="belongs to another recipe"):
        list(stage.steps(3))


def test_every_step_has_its_own_random_numbers(run: Run) -> None:
    first = [float(torch.rand(())) for _ in run.stage("one", "counting").steps(3, save_every=0)]
    torch.rand(17)
    again = [float(torch.rand(())) for _ in run.stage("one", "counting").steps(3, save_every=0)]
    other = [float(torch.rand(())) for _ in run.stage("two", "counting").steps(3, save_every=0)]
    assert first == again and len({*first, *other}) == 6


def test_a_request_to_stop_finishes_the_step_and_saves(run: Run) -> None:
    seen = []
    with run.stop_on_signals(), pytest.raises(Interrupted, match="stage one after step 2"):
        for step in run.stage("one", "counting").steps(5, save_every=0):
            if step == 2:
                os.kill(os.getpid(), signal.SIGINT)
            seen.append(step)
    assert seen == [1, 2] and checkpoints(run) == ["step-00000002"]


def test_a_second_request_stops_at_once(run: Run) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), run.stop_on_signals():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_full_disk_keeps_the_checkpoint_before(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    go(run.stage("one", "counting"), 3, save_every=2)

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(RunError, match="the disk is full"):
        go(run.stage("one", "counting"), 9, save_every=2)
    assert checkpoints(run) == ["step-00000002"]
    monkeypatch.undo()
    assert go(run.stage("one", "counting"), 4)[0] == [3, 4]


def test_the_time_before_an_interruption_counts(run: Run) -> None:
    stage = run.stage("one", "counting")
    go(stage, 3, save_every=2)
    stage = run.stage("one", "counting")
    stage._opened -= 100
    go(stage, 5, save_every=1)
    again = run.stage("one", "counting")
    go(again, 5)
    assert again.finish({})["seconds"] > 100


def test_phases_and_tokens_become_metrics(run: Run) -> None:
    stage = run.stage("one", "counting")
    for step in stage.steps(1):
        for _ in range(2):
            with stage.phase("rest"):
                time.sleep(0.01)
        stage.log(step, {"tokens": 10})
    row = read_json_lines(run.directory / "metrics.jsonl")[0]
    assert row["seconds/step"] >= row["seconds/rest"] >= 0.02
    assert row["tokens_per_second"] == pytest.approx(10 / row["seconds/step"])


def test_samples(run: Run) -> None:
    run.stage("one", "counting").log_samples(4, [{"prompt": "a"}, {"prompt": "b"}])
    assert read_json_lines(run.directory / "samples.jsonl") == [
        {"stage": "one", "step": 4, "prompt": "a"},
        {"stage": "one", "step": 4, "prompt": "b"},
    ]


def test_a_stage_without_steps_that_failed_does_not_log_twice(run: Run) -> None:
    for _ in range(2):
        run.stage("one", "evaluate").log_samples(0, [{"prompt": "a"}])
    assert len(read_json_lines(run.directory / "samples.jsonl")) == 1


def test_what_a_stage_made_is_found_by_later_ones(run: Run) -> None:
    folder = run.directory / "stages" / "sft" / "model"
    with pytest.raises(RunError, match="no finished stage 'sft' has made a model; there is none"):
        run.model_path("stage:sft")
    folder.mkdir(parents=True)
    run.results["sft"] = {"model": "stages/sft/model"}
    assert run.model_path("stage:sft") == str(folder)
    assert run.model_path("fairlead:base") == "fairlead:base"
    with pytest.raises(RunError, match="did you mean 'sft'"):
        run.model_path("stage:stf")


class Bath(Part):
    """Something that must be closed, with more of it inside."""

    taps: dict[str, Part] = Field(default_factory=dict)
    drips: bool = False
    _closed: int = PrivateAttr(0)

    def close(self) -> None:
        self._closed += 1
        if self.drips:
            raise OSError("it drips")


class Group:
    """Stands for a model group."""

    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_closed_when_a_stage_ends(run: Run, caplog: pytest.LogCaptureFixture, fails: bool) -> None:
    """Also when it failed, and when one of its parts cannot be closed."""
    bath = Bath(taps={"hot": Bath(taps={"deep": Bath(drips=True)}), "cold": Bath()})
    stage, group = run.stage("one", "counting"), Group()
    with pytest.raises(ZeroDivisionError) if fails else nullcontext(), stage.closing(bath):
        stage._groups.append(group)  # type: ignore[arg-type]
        if fails:
            raise ZeroDivisionError
    assert [part._closed for part in (bath, *(part for _, part in parts_within(bath)))] == [1] * 4  # type: ignore[attr-defined]
    assert group.closed == 1
    assert [record.getMessage() for record in caplog.records] == ["Bath of stage one could not be closed: it drips"]


def test_results(run: Run) -> None:
    result = run.stage("one", "counting").finish({"total": 3})
    assert read_json(run.directory / "stages" / "one" / "result.json") == result == run.results["one"]
    assert result["total"] == 3 and result["id"] == "one"


def test_sigterm_in_a_process_of_its_own(tmp_path: Path) -> None:
    """Stop a real process in the middle of a run: it saves, says how to continue, ends with 130, and continues."""
    recipe = write_recipe(tmp_path, steps=2000, pause=0.01, save_every=0)
    places = [Path(__file__).parents[1], Path(fairlead.__file__).parents[1]]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(place) for place in places)}
    command = [sys.executable, "-m", "fairlead", "run", str(recipe), "--out", "out"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    metrics = tmp_path / "out" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=120)
    assert process.returncode == 130, out + error
    assert "continue with: fairlead run --resume out" in error
    steps = len(read_json_lines(metrics))
    saved = list((tmp_path / "out" / "stages" / "first" / "checkpoints").glob("step-*"))
    assert [path.name for path in saved] == [f"step-{steps:08d}"]
    assert not (tmp_path / "out" / "stages" / "first" / "result.json").exists()
