"""A PPO step with a critic of its own, and with the critic on the policy's trunk: `python benchmarks/trunk.py`.

The row `ppo-natural` of `fairlead bench` in two forms, with models of the same size. They take turns in one process; a step's time is
what the processor spent on it, so that other processes on the same core do not count. Peak memory is that of a process for each.
Results go to benchmarks/results/trunk.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

from fairlead.bench.measure import Job, machine, measure, measure_apart
from fairlead.bench.models import write_model, write_scalar_model
from fairlead.bench.rows import ROWS, Work, write_prompts
from fairlead.runs import StageRun

SIDES: dict[str, dict[str, Any]] = {"a critic of its own": {}, "one trunk": {"critic": {"trunk": "policy"}}}


def processor_seconds(job: Job) -> list[float]:
    """Of every step behind the first, which warms up."""
    ends: list[float] = []
    log = StageRun.log

    def noted(self: StageRun, *given: Any, **named: Any) -> None:
        log(self, *given, **named)
        ends.append(time.process_time())

    with patch.object(StageRun, "log", noted):
        measure(job)
    return [end - start for start, end in pairwise(ends)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="4m", help="1m, 4m or 30m (default: 4m)")
    parser.add_argument("--steps", type=int, default=3, help="steps of each side in a round, the first to warm up")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each side")
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "trunk.json")
    arguments = parser.parse_args()
    row = ROWS["ppo-natural"]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = str(write_model(folder / "model", arguments.size, row.mean_length))
        scalar = str(write_scalar_model(folder / "scalar", arguments.size))
        prompts = write_prompts(folder / "prompts.jsonl", model, row.prompt_tokens, row.prompts * arguments.steps)
        stage = Work(model, prompts, scalar).stage(row, arguments.steps)
        jobs = {
            name: Job(stage | more, arguments.steps, arguments.precision, arguments.threads)
            for name, more in SIDES.items()
        }
        seconds: dict[str, list[float]] = {name: [] for name in jobs}
        for _ in range(arguments.rounds):
            for name, job in jobs.items():
                seconds[name] += processor_seconds(job)
        found = {
            name: {
                "processor seconds a step": median(seconds[name]),
                "steps": seconds[name],
                "peak MiB": measure_apart(job).peak_mib,
            }
            for name, job in jobs.items()
        }
    given = {name: value for name, value in vars(arguments).items() if name != "out"}
    text = json.dumps({"row": row.about, "settings": given, "machine": machine(), "sides": found}, indent=1)
    print(text)
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
