"""Running a row through its real stage and reading what the run recorded.

Knows: recipes, run directories, clocks, peak memory.
Does not know: what the rows do, how figures are shown.

A measurement that asks for peak memory needs a process of its own: `python -m fairlead.bench JOB.json RESULT.json`.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers

import fairlead
from fairlead.recipes import Recipe
from fairlead.recipes.execute import execute
from fairlead.runs import read_json_lines
from fairlead.runtime.machine import processor, usable_cores
from fairlead.runtime.memory import peak_memory

__all__ = ["PHASES", "BenchError", "Job", "Measurement", "machine", "measure", "measure_apart"]

PHASES = {"rollout": "sampling", "judge": "scoring", "reference": "scoring", "update": "training"}
"""What a stage calls a phase → the column it is shown in."""


class BenchError(RuntimeError):
    """A measurement did not come to its end."""


@dataclass
class Job:
    """One stage to run, and how."""

    stage: dict[str, Any]
    steps: int
    precision: str = "float32"
    threads: int | None = None
    seed: int = 0
    samplers: int = 0
    """Processes that only sample; the stage then wants `ahead`."""


@dataclass
class Measurement:
    """What a run recorded, one number a step; the first step, which warms up, has none."""

    seconds: list[float]
    """From the end of one step to the end of the next, so that nothing between steps is left out."""
    tokens: list[float]
    """As the stage counts them: of responses where it samples, learned ones or all of them elsewhere."""
    phases: dict[str, list[float]]
    """Seconds in sampling, scoring, training, and `other`: what no phase of the stage covers."""
    metrics: list[dict[str, Any]]
    """Every line that the stage logged, the first step included."""
    peak_mib: float = 0.0
    """Largest resident memory of the process."""
    imported_mib: float = 0.0
    """The part of it that stood before the run began: Python and its packages."""
    versions: dict[str, str] = field(default_factory=dict)

    def typical(self, warmup: int = 0) -> dict[str, float]:
        """Medians over the steps behind `warmup` further ones: `step`, each phase, and `tokens`."""
        found = {"step": median(self.seconds[warmup:]), "tokens": median(self.tokens[warmup:])}
        return found | {name: median(values[warmup:]) for name, values in self.phases.items()}


def measure(job: Job, directory: Path | None = None) -> Measurement:
    """Run the job in this process; in a temporary directory unless one is given."""
    if job.steps < 2:
        raise BenchError("a measurement takes at least 2 steps: the first one warms up")
    if directory is None:
        with tempfile.TemporaryDirectory(prefix="fairlead-bench-") as folder:
            return measure(job, Path(folder) / "run")
    recipe = Recipe.model_validate(
        {
            "name": "bench",
            "seed": job.seed,
            "runtime": {"precision": job.precision, "threads": job.threads, "samplers": job.samplers},
            "stages": {"bench": job.stage},
        }
    )
    imported = peak_memory()
    execute(recipe, directory, quiet=True)
    rows = read_json_lines(directory / "metrics.jsonl")
    ends = [row["time"] for row in rows]
    seconds = [end - start for start, end in pairwise(ends)]
    phases: dict[str, list[float]] = {}
    for name in dict.fromkeys(PHASES.values()):
        keys = [f"seconds/{phase}" for phase, column in PHASES.items() if column == name]
        if any(key in row for row in rows for key in keys):
            phases[name] = [sum(row.get(key, 0.0) for key in keys) for row in rows[1:]]
    covered = [sum(step) for step in zip(*phases.values(), strict=True)]
    phases["other"] = [whole - part for whole, part in zip(seconds, covered, strict=True)]
    return Measurement(
        seconds=seconds,
        tokens=[float(row["tokens"]) for row in rows[1:]],
        phases=phases,
        metrics=rows,
        peak_mib=peak_memory(),
        imported_mib=imported,
        versions={
            "fairlead": fairlead.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    )


def measure_apart(job: Job, environment: dict[str, str] | None = None) -> Measurement:
    """Run the job in a fresh process, so that its peak memory is its own."""
    with tempfile.TemporaryDirectory(prefix="fairlead-bench-") as folder:
        task, result = Path(folder) / "job.json", Path(folder) / "result.json"
        task.write_text(json.dumps(asdict(job)), encoding="utf-8")
        command = [sys.executable, "-m", "fairlead.bench", str(task), str(result)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode or not result.exists():
            last = "\n".join(done.stderr.strip().splitlines()[-15:])
            raise BenchError(f"the measurement ended with exit code {done.returncode}:\n{last}")
        return Measurement(**json.loads(result.read_text(encoding="utf-8")))


def machine() -> dict[str, Any]:
    """What a figure was measured on."""
    return {
        "processor": processor(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "system": platform.platform(),
        "date": time.strftime("%Y-%m-%d"),
    }
