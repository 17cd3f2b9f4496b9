"""An interrupted run is, to the last bit, the run that was not interrupted: in every stage, however it was stopped."""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fairlead.recipes import dump_recipe
from fairlead.recipes.execute import resume
from fairlead.runs import Interrupted, RunError, StageRun
from tiny_runs import assert_same_run, exported, logged, run_stages, tiny_recipe

STAGES = ["sft", "reward", "preference", "online", "grpo"]

SAVE_THEN_DIE = '''
"""While `countdown` lies beside this file, the n-th torch.save from now on is cut in half and ends the process."""
import os, signal
from pathlib import Path
import torch
whole, countdown = torch.save, Path(__file__).with_name("countdown")

def save(value, path, *args, **options):
    whole(value, path, *args, **options)
    if countdown.exists():
        left = int(countdown.read_text()) - 1
        countdown.write_text(str(left))
        if left == 0:
            countdown.unlink()
            os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

torch.save = save
'''


def all_stages(shelf: Path) -> dict[str, Any]:
    """Every stage that takes steps, with every stateful part, checkpoints far enough apart to lose steps."""
    adaptive = {"target": 0.1, "horizon": 100}
    world = {
        "part": "online",
        "model": str(shelf / "world"),
        "prompts": str(shelf / "world.jsonl"),
        "rewards": {"length": {"part": "length", "shortest": 4, "longest": 4}, "twice": {"part": "repetition", "n": 1}},
        "steps": 9,
        "batch_size": 2,
        "epochs": 2,
        "minibatches": 2,
        "save_every": 4,
        "monitor_every": 2,
        "shaping": ["normalise", "missing-end"],
        "optimiser": {"learning_rate": 3e-3, "schedule": "cosine", "warmup": 0.2},
    }
    pairs = {
        "model": str(shelf / "tiny"),
        "data": str(shelf / "pairs.jsonl"),
        "validation": str(shelf / "pairs.jsonl"),
        "steps": 8,
        "batch_size": 3,
        "save_every": 3,
        "validate_every": 4,
        "optimiser": {"learning_rate": 1e-3},
    }
    sampling = {"maximum_tokens": 4}
    return {
        "sft": {
            "model": str(shelf / "tiny"),
            "data": [str(shelf / "chats.jsonl"), {"path": str(shelf / "chats.jsonl")}],
            "validation": str(shelf / "chats.jsonl"),
            "packed": False,
            "maximum_length": 64,
            "steps": 8,
            "batch_size": 3,
            "save_every": 3,
            "validate_every": 4,
            "optimiser": {"learning_rate": 1e-3, "schedule": "linear"},
        },
        "reward": pairs | {"model": {"path": str(shelf / "tiny"), "dropout": 0.1}},
        "preference": pairs | {"model": {"path": "stage:sft", "lora": {"rank": 2, "dropout": 0.2}}, "retain": 2},
        "online": world
        | {
            "credit": "gae",
            "critic_warmup": 1,
            "regulariser": {"part": "kl", "adaptive": adaptive},
            "rollout": {"part": "sample", "n": 2, "sampling": sampling},
        },
        "grpo": world
        | {
            "credit": "group-relative",
            "selection": ["drop-flat-groups"],
            "regulariser": {"part": "kl", "place": "loss", "estimator": "k3", "adaptive": adaptive},
            "rollout": {"part": "sample", "n": 3, "sampling": sampling},
        },
    }


@pytest.fixture(scope="module")
def whole(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing interrupted."""
    return run_stages(tmp_path_factory.mktemp("whole") / "run", all_stages(shelf)).directory


@pytest.fixture
def prepared(shelf: Path, tmp_path: Path) -> Path:
    """A run directory with its recipe, in which nothing has been done yet."""
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / "recipe.yaml").write_text(dump_recipe(tiny_recipe(all_stages(shelf))), encoding="utf-8")
    return directory


# ---------------------------------------------------------------------------------------------------------------------
# Processes that are killed
# ---------------------------------------------------------------------------------------------------------------------


NURSERY = """
import os, sys, traceback
from pathlib import Path
import peft, scipy.optimize, sklearn.linear_model, transformers.models.llama.modeling_llama
from fairlead.recipes.execute import resume
from fairlead.runs import Interrupted

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.chdir(Path(line.strip()).parent)
        try:
            resume(Path(line.strip()), quiet=True)
        except Interrupted:
            os._exit(130)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Nursery:
    """A process that has imported everything once and forks one for each run: they are real, and begin at once."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", NURSERY]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True, bufsize=1
        )

    def start(self, directory: Path) -> int:
        """Continue the run; returns the number of its process."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{directory}\n")
        return int(self.process.stdout.readline())

    def until(self, ready: Callable[[], bool]) -> None:
        """Wait until something has happened, or the run has ended."""
        deadline = time.monotonic() + 60
        while not ready() and time.monotonic() < deadline and not select.select([self.process.stdout], [], [], 0)[0]:
            time.sleep(0.001)

    def end(self) -> int:
        """Wait for the run; its exit status, negative for a signal."""
        assert self.process.stdout
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    assert made.process.stdin
    made.process.stdin.close()
    made.process.wait(60)


def lines(directory: Path, stage: str) -> int:
    file = directory / "metrics.jsonl"
    return file.read_bytes().count(f'"stage": "{stage}"'.encode()) if file.exists() else 0


def test_killed_again_and_again(whole: Path, prepared: Path, nursery: Nursery) -> None:
    """SIGKILL in every stage, between checkpoints and at any moment of a step."""
    moments = random.Random(0)
    for stage in STAGES:
        process = nursery.start(prepared)
        wanted = moments.randint(1, 7)
        nursery.until(lambda stage=stage, wanted=wanted: lines(prepared, stage) >= wanted)  # type: ignore[misc]
        time.sleep(moments.random() * 0.03)
        os.kill(process, signal.SIGKILL)
        assert nursery.end() == -signal.SIGKILL
    nursery.start(prepared)
    assert nursery.end() == 0
    assert_same_run(whole, prepared, STAGES)


def test_killed_while_a_checkpoint_is_written(whole: Path, prepared: Path, tmp_path: Path, nursery: Nursery) -> None:
    """Half a file, then SIGKILL: in a group's state, in the parts' state, in the first checkpoint and in a later one."""
    (tmp_path / "save_then_die.py").write_text(SAVE_THEN_DIE)
    recipe = prepared / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("plugins: []", "plugins:\n- save_then_die"))
    # A checkpoint of the online stage has three files, of the others two; two checkpoints a stage.
    for files in (2, 3, 6, 9, 8):
        (tmp_path / "countdown").write_text(str(files))
        nursery.start(prepared)
        assert nursery.end() == -signal.SIGKILL
        assert list(prepared.glob("stages/*/checkpoints/.step-*.tmp"))
    nursery.start(prepared)
    assert nursery.end() == 0
    assert_same_run(whole, prepared, STAGES)
    assert not list(prepared.glob("stages/*/checkpoints"))


def test_a_process_that_is_asked_to_stop(whole: Path, prepared: Path, nursery: Nursery) -> None:
    for stage, number in (("sft", signal.SIGINT), ("online", signal.SIGTERM)):
        process = nursery.start(prepared)
        nursery.until(lambda stage=stage: lines(prepared, stage) >= 2)  # type: ignore[misc]
        os.kill(process, number)
        assert nursery.end() == 130
        saved = list(prepared.glob("stages/*/checkpoints/step-*"))
        assert [path.relative_to(prepared / "stages").as_posix() for path in saved] == [
            f"{stage}/checkpoints/step-{lines(prepared, stage):08d}"
        ]
    nursery.start(prepared)
    assert nursery.end() == 0
    assert_same_run(whole, prepared, STAGES)


# ---------------------------------------------------------------------------------------------------------------------
# In this process
# ---------------------------------------------------------------------------------------------------------------------


def stop_at(monkeypatch: pytest.MonkeyPatch, moments: set[tuple[str, int]], number: int) -> None:
    """Send a signal in the given steps, each once."""
    log = StageRun.log

    def watched(self: StageRun, step: int, *args: Any) -> None:
        log(self, step, *args)
        if (self.id, step) in moments:
            moments.discard((self.id, step))
            os.kill(os.getpid(), number)

    monkeypatch.setattr(StageRun, "log", watched)


def test_stopped_in_every_stage(whole: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the first step, at a checkpoint, and behind the last step."""
    moments = {("sft", 1), ("sft", 8), ("reward", 3), ("reward", 8), ("preference", 2), ("preference", 8)}
    moments |= {("online", 1), ("online", 4), ("online", 9), ("grpo", 2), ("grpo", 9)}
    stop_at(monkeypatch, moments, signal.SIGTERM)
    count = len(moments)
    for _ in range(count):
        with pytest.raises(Interrupted, match="continue with: fairlead run --resume"):
            resume(prepared, quiet=True)
    resume(prepared, quiet=True)
    assert_same_run(whole, prepared, STAGES)


def test_finished_stages_are_not_run_again(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = {name: all_stages(shelf)[name] for name in ("sft", "preference")}
    stop_at(monkeypatch, {("preference", 2)}, signal.SIGINT)
    with pytest.raises(Interrupted, match="stage preference after step 2"):
        run_stages(tmp_path / "run", stages)
    before = (tmp_path / "run" / "stages" / "sft" / "model" / "model.safetensors").stat().st_mtime_ns
    run = resume(tmp_path / "run", quiet=True)
    assert (run.directory / "stages" / "sft" / "model" / "model.safetensors").stat().st_mtime_ns == before
    assert [row["step"] for row in logged(run.directory, "sft")] == list(range(1, 9))
    assert list(run.results) == ["sft", "preference"]
    assert exported(run.directory, "preference").keys() >= exported(run.directory, "sft").keys()
    again = resume(tmp_path / "run", quiet=True)
    assert again.results["preference"] == json.loads((run.directory / "stages/preference/result.json").read_text())


@pytest.mark.parametrize("damage", ["cut", "empty", "garbage", "missing", "group", "folder", "other data"])
def test_a_damaged_checkpoint_says_what_to_do(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    data = tmp_path / "chats.jsonl"
    shutil.copy(shelf / "chats.jsonl", data)
    stages = {"sft": all_stages(shelf)["sft"] | {"data": str(data)}}
    stop_at(monkeypatch, {("sft", 2)}, signal.SIGTERM)
    with pytest.raises(Interrupted):
        run_stages(tmp_path / "run", stages)
    folder = tmp_path / "run" / "stages" / "sft" / "checkpoints" / "step-00000002"
    state, group = folder / "state.pt", folder / "policy" / "training_state.pt"
    if damage == "cut":
        state.write_bytes(state.read_bytes()[:-200])
    elif damage == "empty":
        state.write_bytes(b"")
    elif damage == "garbage":
        state.write_bytes(b"not a checkpoint")
    elif damage == "missing":
        state.unlink()
    elif damage == "group":
        group.write_bytes(group.read_bytes()[: group.stat().st_size // 2])
    elif damage == "folder":
        shutil.rmtree(folder / "policy")
    else:
        data.write_text(data.read_text().split("\n")[0] + "\n")
    with pytest.raises(
        RunError, match=r"checkpoint .*step-00000002 is damaged or belongs to another recipe .*delete that folder"
    ):
        resume(tmp_path / "run", quiet=True)
    if damage != "other data":
        shutil.rmtree(folder)
        assert resume(tmp_path / "run", quiet=True).results["sft"]["steps"] == 8
        assert [row["step"] for row in logged(tmp_path / "run", "sft")] == list(range(1, 9))
