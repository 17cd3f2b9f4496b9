"""A plug-in with a stage that only counts: runs, interruptions and errors can be tested without a model.

load_recipe(str(write_recipe(tmp_path, steps=6)))
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import Field

from fairlead.runs import StageRun
from fairlead.stages import Stage


class Counter:
    """A running sum of random numbers, which only a true continuation gets right."""

    def __init__(self) -> None:
        self.total = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total = state["total"]


class Counting(Stage, name="counting"):
    """Add up random numbers.

    Source: none; it exists for tests.
    """

    steps: int = Field(6, ge=1, description="numbers to add")
    fail_file: str | None = Field(None, description="fail at step 3 while this file exists")
    stop_file: str | None = Field(None, description="ask to stop at step 3 while this file exists, and take it away")
    after: str | None = Field(None, description="an earlier stage, `stage:ID`, that it stands on")
    pause: float = Field(0.0, ge=0, description="seconds that a step takes")

    def run(self, run: StageRun) -> dict[str, Any]:
        counter = Counter()
        run.keep("counter", counter)
        for step in run.steps(self.steps, self.save_every, self.retain):
            counter.total += float(torch.rand(()))
            time.sleep(self.pause)
            run.log(step, {"total": counter.total}, ("total",))
            run.log_samples(step, [{"prompt": "how many?", "response": str(step), "score": counter.total}])
            if step == 3 and self.fail_file and Path(self.fail_file).exists():
                raise ZeroDivisionError("the stage failed")
            if step == 3 and self.stop_file and Path(self.stop_file).exists():
                Path(self.stop_file).unlink()
                os.kill(os.getpid(), signal.SIGTERM)
        return run.finish({"total": counter.total})


def write_recipe(folder: Path, name: str = "counts", **stage: Any) -> Path:
    """A recipe of two counting stages; `stage` are fields of the first."""
    recipe = {
        "name": name,
        "plugins": ["counting_stage"],
        "stages": {"first": {"part": "counting", **stage}, "second": {"part": "counting", "steps": 2}},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path
