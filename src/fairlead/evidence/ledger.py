"""Running experiments and keeping the ledger.

Knows: seeds, files of the ledger, the table, what is written about the machine.
Does not know: what an experiment does.
"""

from __future__ import annotations

import importlib
import pkgutil
import platform
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
import transformers

import fairlead
from fairlead.evidence.base import EvidenceError, Experiment, Measurement
from fairlead.parts import nearest, part_info, parts_in_slot
from fairlead.runs import RunError, read_json, write_json
from fairlead.runtime.machine import processor, usable_cores

__all__ = ["experiments", "render_table", "run_evidence"]

_SEEDS = (0, 1, 2)


def experiments() -> dict[str, type[Experiment]]:
    """Every experiment by the name of its method: those of this package, and whatever plug-ins have brought."""
    from fairlead.evidence import experiments as package

    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return parts_in_slot("experiment")  # type: ignore[return-value]


def run_evidence(method: str, seeds: Sequence[int] = _SEEDS, out: Path = Path("evidence")) -> Path:
    """Run the experiment of `method` once for each seed and write `OUT/METHOD.json`; returns that path.

    Raises EvidenceError for a method without experiment, or without seeds.
    """
    known = experiments()
    if method not in known:
        raise EvidenceError(f"no experiment for {method!r}; {nearest(method, known)}")
    if not seeds or len(set(seeds)) < len(seeds):
        raise EvidenceError(f"seeds must be one or more different numbers, got {list(seeds)}")
    experiment = known[method]()
    started = time.perf_counter()
    measurements: list[Measurement] = []
    for seed in seeds:
        with tempfile.TemporaryDirectory(prefix="fairlead-evidence-") as folder:
            measurements.append(experiment.measure(seed, Path(folder)))
    path = out / f"{method}.json"
    write_json(path, _page(method, experiment, list(seeds), measurements) | _circumstances(started))
    return path


def _page(method: str, experiment: Experiment, seeds: list[int], measurements: list[Measurement]) -> dict[str, Any]:
    held = [rule.held(measurements) for rule in experiment.rules]
    return {
        "method": method,
        "claim": experiment.claim,
        "source": part_info(type(experiment)).source,
        "experiment": experiment.experiment,
        "baseline": experiment.baseline,
        "rules": [
            {"figure": rule.figure, "rule": rule.sentence(), "held": yes}
            for rule, yes in zip(experiment.rules, held, strict=True)
        ],
        "verdict": "held" if all(held) else "did not hold",
        "remarks": experiment.remarks,
        "seeds": seeds,
        "figures": {
            "method": _spread([m.method for m in measurements]),
            "baseline": _spread([m.baseline for m in measurements]),
        },
    } | ({"courses": courses} if any(courses := [m.courses for m in measurements]) else {})


def _spread(rows: list[dict[str, float]]) -> dict[str, dict[str, Any]]:
    """Each figure for every seed, with mean and standard deviation (n − 1; 0 for a single seed)."""
    figures: dict[str, dict[str, Any]] = {}
    for name in rows[0]:
        values = [float(row[name]) for row in rows]
        figures[name] = {
            "per_seed": values,
            "mean": fmean(values),
            "sd": stdev(values) if len(values) > 1 else 0.0,
        }
    return figures


def _circumstances(started: float) -> dict[str, Any]:
    return {
        "revision": _revision(),
        "date": time.strftime("%Y-%m-%d"),
        "seconds": round(time.perf_counter() - started, 1),
        "machine": {
            "processor": processor(),
            "cores": usable_cores(),
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        },
        "versions": {
            "fairlead": fairlead.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }


def _revision() -> str | None:
    """The commit of the source, with `+` behind it when files differ from it; None outside a repository."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True, timeout=30)
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", here.parent.as_posix()) else "")
    except (OSError, subprocess.SubprocessError):
        return None


# ---------------------------------------------------------------------------------------------------------------------
# The table
# ---------------------------------------------------------------------------------------------------------------------

_HEADINGS = ("method", "claim", "baseline", "figure", "method's", "baseline's", "held", "seeds", "seconds")


def render_table(folder: Path = Path("evidence")) -> str:
    """The ledger as a Markdown table: a row for each figure that a verdict rests on.

    Raises EvidenceError when the folder holds no page, or one that cannot be read.
    """
    pages = sorted(folder.glob("*.json"))
    if not pages:
        raise EvidenceError(f"{folder} holds no evidence yet; run `fairlead evidence METHOD`")
    lines = [_row(_HEADINGS), _row(["---"] * len(_HEADINGS))]
    for path in pages:
        try:
            lines += _rows(read_json(path))
        except (KeyError, TypeError, RunError) as error:
            raise EvidenceError(f"{path} is no page of the ledger ({error}); run its experiment again") from error
    return "\n".join(lines) + "\n"


def _rows(page: dict[str, Any]) -> list[str]:
    rows = []
    for number, rule in enumerate(page["rules"]):
        first = number == 0
        held = "yes" if rule["held"] else "no"
        rows.append(
            _row(
                (
                    page["method"] if first else "",
                    page["claim"] if first else "",
                    page["baseline"] if first else "",
                    rule["figure"],
                    _cell(page["figures"]["method"].get(rule["figure"])),
                    _cell(page["figures"]["baseline"].get(rule["figure"])),
                    f"**{page['verdict']}** ({held})"
                    if first and len(page["rules"]) > 1
                    else f"**{page['verdict']}**"
                    if first
                    else held,
                    str(len(page["seeds"])) if first else "",
                    f"{page['seconds']:.0f}" if first else "",
                )
            )
        )
    return rows


def _cell(figure: dict[str, Any] | None) -> str:
    return "–" if figure is None else f"{figure['mean']:.3g} ± {figure['sd']:.2g}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
