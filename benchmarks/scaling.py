"""How the cost of an online step grows, and a picture of it: `python benchmarks/scaling.py`.

From one GRPO step (4M parameters, 8 prompts × 8 samples, 32 + 64 tokens, all of full length) one thing is changed at a time: size
of the model, sequences in the batch, length of the response, samples of a prompt at 32 sequences with prompts of 128 tokens.
Every point is a process of its own with random weights. Results go to benchmarks/results/scaling.json after every point, and the
picture beside them; points that are already there are not measured again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matplotlib import pyplot, rc_context

from fairlead.bench import ROWS, Job, Row, Work, machine, measure_apart, write_model, write_prompts
from fairlead.runs import write_json

OUT = Path(__file__).resolve().parent / "results" / "scaling.json"
CONTEXT = 2048
BASE = replace(ROWS["grpo-full"], name="scaling")
PARAMETERS = {"1m": 1, "4m": 4, "30m": 30, "100m": 100}
WARM = 1


def curves() -> dict[str, dict[float, tuple[str, Row]]]:
    """What is varied → its value → model size and row."""
    sampled = replace(BASE, prompt_tokens=128, maximum_tokens=64)
    return {
        "model, million parameters": {millions: (size, BASE) for size, millions in PARAMETERS.items()},
        "sequences in a batch": {rows: ("4m", replace(BASE, prompts=rows // 8)) for rows in (8, 16, 32, 64, 128, 256)},
        "response, tokens": {
            tokens: ("4m", replace(BASE, prompts=4, maximum_tokens=tokens)) for tokens in (64, 128, 256, 512, 1024)
        },
        "samples of a prompt": {n: ("4m", replace(sampled, prompts=32 // n, samples=n)) for n in (1, 2, 4, 8, 16, 32)},
    }


def measure_point(size: str, row: Row, steps: int, threads: int, folder: Path) -> dict[str, float]:
    """Median seconds of a step and of its phases, tokens of responses, and peak memory."""
    model, prompts = folder / size, folder / f"prompts-{row.prompt_tokens}-{row.prompts}.jsonl"
    if not model.exists():
        write_model(model, size, None, "words", CONTEXT)
    write_prompts(prompts, str(model), row.prompt_tokens, row.prompts * (steps + WARM + 1))
    stage = Work(str(model), str(prompts)).stage(row, steps + WARM + 1)
    if row.samples == 1:  # nothing to compare within a group
        stage["credit"] = "reinforce++"
    taken = measure_apart(Job(stage, steps + WARM + 1, threads=threads))
    return taken.typical(WARM) | {"peak_mib": taken.peak_mib, "imported_mib": taken.imported_mib}


def draw(page: dict[str, Any], file: Path) -> None:
    """Seconds a step and its phases over each thing that was varied, both axes logarithmic."""
    figure, axes = pyplot.subplots(2, 2, figsize=(9, 6.4), layout="constrained")
    for axis, (name, points) in zip(axes.flat, page["curves"].items(), strict=True):
        x = sorted(points, key=float)
        for phase, style in (("step", "k-o"), ("sampling", "C0--"), ("training", "C1--"), ("scoring", "C2--")):
            axis.plot([float(v) for v in x], [points[v][phase] for v in x], style, label=phase, markersize=4)
        axis.set(xscale="log", yscale="log", xlabel=name, ylabel="seconds")
        axis.grid(alpha=0.3, which="both")
    axes.flat[0].legend()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "fairlead"}):
        figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--steps", type=int, default=3, help=f"measured steps of each point, behind {WARM + 1} that warm up"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    page: dict[str, Any] = {"steps": arguments.steps, "curves": {}}
    if arguments.out.exists():
        page = json.loads(arguments.out.read_text(encoding="utf-8"))
    page["machine"] = machine() | {"threads": arguments.threads}
    with tempfile.TemporaryDirectory(prefix="scaling-") as folder:
        for name, points in curves().items():
            found = page["curves"].setdefault(name, {})
            for value, (size, row) in points.items():
                if str(value) not in found:
                    found[str(value)] = measure_point(size, row, arguments.steps, arguments.threads, Path(folder))
                    write_json(arguments.out, page)
                print(f"{name} {value}: {found[str(value)]['step']:.2f} s", flush=True)
    draw(page, arguments.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
