"""What sampling beside training gains over taking turns, on the same cores: `python benchmarks/pipelining.py`.

The online rows of the speed table, with rollouts drawn one step ahead: once with all cores for whatever is to be done, once
with half of them for a process that samples and half for everything else. The batches are the same. The sides take turns; figures are
medians of steps. Results go to benchmarks/results/pipelining.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import median

from fairlead.bench.command import DATA, set_up
from fairlead.bench.measure import Job, machine, measure_apart
from fairlead.bench.rows import ROWS
from fairlead.runtime.machine import hardware_precisions, usable_cores

ONLINE = [name for name, row in ROWS.items() if row.online]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default="4m", help="a model directory, or random weights of a size: 1m, 4m, 30m, 100m"
    )
    parser.add_argument("--rows", default=",".join(ONLINE), help="rows of the speed table that sample")
    parser.add_argument("--precision", default=hardware_precisions()[-1])
    parser.add_argument("--steps", type=int, default=7, help="steps of each turn; the first two warm up")
    parser.add_argument("--turns", type=int, default=2, help="turns of each side")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "pipelining.json")
    chosen = parser.parse_args()
    cores = usable_cores()
    if cores < 2:
        parser.error("this takes two cores or more")
    found = {}
    for name in chosen.rows.split(","):
        with tempfile.TemporaryDirectory() as folder:
            work = set_up(ROWS[name], chosen.model, DATA, chosen.steps + 1, Path(folder))
            stage = work.stage(ROWS[name], chosen.steps) | {"ahead": 1}
            job = Job(stage, chosen.steps, chosen.precision)
            sides = {"in turn": {"threads": cores}, "beside": {"threads": cores // 2, "samplers": 1}}
            seconds: dict[str, list[float]] = {side: [] for side in sides}
            for _ in range(chosen.turns):
                for side, how in sides.items():
                    seconds[side] += measure_apart(Job(**(asdict(job) | how))).seconds[1:]
        middle = {side: median(values) for side, values in seconds.items()}
        found[name] = middle | {"ratio": middle["in turn"] / middle["beside"], "steps": seconds}
        print(
            f"{name}: in turn {middle['in turn']:.2f} s, beside {middle['beside']:.2f} s, {found[name]['ratio']:.2f} ×"
        )
    result = {**machine(), "model": chosen.model, "precision": chosen.precision, "rows": found}
    chosen.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
