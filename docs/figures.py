"""Write the figures that README and docs quote from the files under evidence/: `python docs/figures.py` (`--check`: only compare).

A block between `<!-- figures: NAME -->` and `<!-- /figures -->` is written anew; everything else is left alone.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from fairlead.evidence import render_table

ROOT = Path(__file__).parent.parent
RUNS = ROOT / "evidence" / "runs"
RESULTS = ROOT / "benchmarks" / "results"
FILES = (ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_BLOCK = re.compile(r"<!-- figures: (?P<name>[\w-]+) -->\n.*?<!-- /figures -->", re.DOTALL)


def run_of(name: str) -> dict[str, Any]:
    """The first column of what `fairlead compare RUN… --json` wrote."""
    found: dict[str, Any] = json.loads((RUNS / f"{name}.json").read_text(encoding="utf-8"))["runs"][0]
    return found


def cell(run: dict[str, Any], stage: str, name: str, digits: int = 2, percent: bool = False) -> str:
    """Mean ± standard deviation over seeds."""
    entry = run["figures"][stage][name]
    scale, unit = (100, " %") if percent else (1, "")
    text = f"{entry['mean'] * scale:.{digits}f}"
    return text + (f" ± {entry['sd'] * scale:.{digits}f}" if entry["sd"] is not None else "") + unit


def _seeds(run: dict[str, Any]) -> str:
    return f"{len(run['seeds'])} seeds"


def how_long() -> str:
    """Wall time of the quickstart by phase, with and without bfloat16 in the processor."""
    runs = {
        "quickstart-two-cores": "with bfloat16",
        "quickstart": "with bfloat16",
        "quickstart-float32": "without bfloat16, in float32, with an earlier base model of the same size",
    }
    return "\n".join(f"- {_how_long(kind, run_of(name))}" for name, kind in runs.items())


def _how_long(kind: str, run: dict[str, Any]) -> str:
    seconds = {stage: figures["seconds"]["mean"] for stage, figures in run["figures"].items() if "seconds" in figures}
    parts = ", ".join(f"{stage} {value:.0f} s" for stage, value in seconds.items())
    threads = run["machine"]["runtime"]["threads"]
    cores = "one core" if threads == 1 else f"{threads or run['machine']['cpu_count']} cores"
    repeated = f"; mean of {_seeds(run)}" if len(run["seeds"]) > 1 else ""
    device = run["machine"]["device"]
    return f"{cores} of a processor {kind} ({device}): {sum(seconds.values()) / 60:.1f} minutes ({parts}{repeated})"


def quickstart() -> str:
    """What the quickstart reaches."""
    run = run_of("quickstart")

    def number(name: str) -> str:
        return cell(run, "evaluate", name)

    accuracy = cell(run, "reward", "held-out accuracy", 1, percent=True)
    longer = cell(run, "reward", "rule: longer wins", 1, percent=True)
    bag = cell(run, "reward", "rule: bag of words", 1, percent=True)
    judge = cell(run, "judge", "held-out accuracy", 1, percent=True)
    return "\n".join(
        [
            f"| quickstart, {_seeds(run)}, mean ± standard deviation | before PPO | after PPO | after is better |",
            "|---|---:|---:|---:|",
            f"| independent judge | {number('judge judge, before')} | {number('judge judge')} | "
            f"{cell(run, 'evaluate', 'win rate by judge', 0, percent=True)} of prompts |",
            f"| trained reward | {number('trained reward reward, before')} | {number('trained reward reward')} | "
            f"{cell(run, 'evaluate', 'win rate by reward', 0, percent=True)} |",
            f"| KL from the start, nats a response | 0 | {cell(run, 'evaluate', 'KL (nats)', 1)} | |",
            "",
            f'On held-out pairs the reward model is right in {accuracy}; "longer wins" in {longer} and a bag of words in {bag}.',
            f"The judge, from half as many pairs, reaches {judge}. [All figures](evidence/runs/quickstart.json).",
        ]
    )


_REAL: dict[str, tuple[tuple[str, str, str, int, bool], ...]] = {
    "sentiment": (
        ("reward model, held-out pairs", "reward", "held-out accuracy", 1, True),
        ("bag of words, same pairs", "reward", "rule: bag of words", 1, True),
        ("independent judge before PPO", "evaluate", "judge judge, before", 2, False),
        ("independent judge after PPO", "evaluate", "judge judge", 2, False),
        ("prompts on which the judge prefers after", "evaluate", "win rate by judge", 0, True),
        ("KL, nats a response", "evaluate", "KL (nats)", 1, False),
    ),
    "harmless": (
        ("reward model, held-out pairs", "reward", "held-out accuracy", 1, True),
        ("bag of words, same pairs", "reward", "rule: bag of words", 1, True),
        ("longer wins, same pairs", "reward", "rule: longer wins", 1, True),
        ("DPO's implicit reward, held-out pairs", "dpo", "held-out accuracy", 1, True),
    ),
    "convincing": (
        ("reward model, held-out pairs", "reward", "held-out accuracy", 1, True),
        ("bag of words, same pairs", "reward", "rule: bag of words", 1, True),
        ("longer wins, same pairs", "reward", "rule: longer wins", 1, True),
        ("DPO's implicit reward, held-out pairs", "dpo", "held-out accuracy", 1, True),
    ),
    "say-the-facts": (
        ("reward before GRPO", "evaluate", "trained reward facts, before", 3, False),
        ("reward after GRPO", "evaluate", "trained reward facts", 3, False),
        ("prompts on which after is better", "evaluate", "win rate by facts", 0, True),
        ("KL, nats a response", "evaluate", "KL (nats)", 1, False),
    ),
}


def real_data() -> str:
    """The recipes on real data."""
    lines = ["| recipe | figure | mean ± standard deviation | seeds |", "|---|---|---:|---:|"]
    for name, rows in _REAL.items():
        if not (RUNS / f"{name}.json").exists():
            lines.append(f"| `{name}` | not measured yet | | |")
            continue
        run = run_of(name)
        for label, stage, figure, digits, percent in rows:
            if figure in run["figures"].get(stage, {}):
                value = cell(run, stage, figure, digits, percent)
                lines.append(f"| `{name}` | {label} | {value} | {len(run['seeds'])} |")
    return "\n".join(lines)


def recipes() -> str:
    """What recipes that were run whole changed, by their own judges."""
    page = json.loads((RUNS / "recipes.json").read_text(encoding="utf-8"))
    machine = page["runs"][0]["machine"]
    lines = [
        f"{machine['device']}, one core, {machine['runtime']['precision']}; other work ran beside some of them.",
        "",
        "| recipe | minutes | judged | before | after | after is better | KL, nats a response |",
        "|---|---:|---|---:|---:|---:|---:|",
    ]
    for run in sorted(page["runs"], key=lambda run: str(run["name"])):
        figures = run["figures"]
        minutes = sum(stage["seconds"]["mean"] for stage in figures.values() if "seconds" in stage) / 60
        for stage in figures.values():
            for name in stage:
                if name.endswith(", before") and not name.startswith("KL"):
                    after = name.removesuffix(", before")
                    judge = after.split(" ")[-1]
                    wins = stage.get(f"win rate by {judge}")
                    lines.append(
                        f"| `{run['name']}` | {minutes:.0f} | {judge} | {stage[name]['mean']:.2f} | {stage[after]['mean']:.2f} | "
                        f"{'' if wins is None else format(wins['mean'], '.0%')} | {stage['KL (nats)']['mean']:.1f} |"
                    )
    return "\n".join(lines)


def evidence() -> str:
    """The ledger."""
    return render_table(ROOT / "evidence").strip()


def versus_trl(name: str) -> str:
    """Seconds a step of both sides, ratios per token, and how much of the machine each of them uses."""
    page = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    machine, roof, rows = page["machine"], page["roof"], [row for row in page["rows"] if "skipped" not in row]
    versions = rows[0]["trl"]["default"]["versions"]
    peaks = ", ".join(f"{value / 1e9:.0f} GFLOP/s in {name}" for name, value in roof["flops"].items())
    head = "| row | model | TRL default, s | TRL best, s | Fairlead, s | over default | over best | share of the roof | peak memory |"
    lines = [head, "|" + " --- |" * 9]
    for row in rows:
        theirs, ours, ratio = row["trl"][row["best"]["trl"]], row["fairlead"][row["best"]["fairlead"]], row["ratio"]
        default, best, own = (side["seconds"]["median"] for side in (row["trl"]["default"], theirs, ours))
        lines.append(
            f"| {row['row']} | {row['size']} | {default:.1f} | {best:.1f} ({row['best']['trl']}) | {own:.1f} | {ratio['over_default']:.1f} × | "
            f"**{ratio['over_best']:.1f} ×** | {theirs['share_of_roof']:.0%} → {ours['share_of_roof']:.0%} | "
            f"{theirs['peak_mib']:.0f} → {ours['peak_mib']:.0f} MiB |"
        )
    return "\n".join(
        [
            f"{machine['processor']}, {machine['threads']} {'thread' if machine['threads'] == 1 else 'threads'}, {peaks}; TRL {versions['trl']}, torch {versions['torch']}, transformers "
            f"{versions['transformers']}; {machine['date']}. Medians of {page['steps']} steps; ratios are of time a token; arrows go from TRL's best "
            "configuration to Fairlead.",
            "",
            *lines,
        ]
    )


def scaling() -> str:
    """Seconds of a GRPO step and its phases, over each thing that was varied."""
    page = json.loads((RESULTS / "scaling.json").read_text(encoding="utf-8"))
    machine = page["machine"]
    lines = [
        f"{machine['processor']}, {machine['threads']} {'thread' if machine['threads'] == 1 else 'threads'}; {machine['date']}. Medians of {page['steps']} steps.",
        "",
        "| varied | value | step, s | sampling | scoring | training | response tokens/s | peak memory |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, points in page["curves"].items():
        for value in sorted(points, key=float):
            point = points[value]
            phases = " | ".join(f"{point[phase]:.2f}" for phase in ("step", "sampling", "scoring", "training"))
            lines.append(
                f"| {name} | {value} | {phases} | {point['tokens'] / point['step']:,.0f} | {point['peak_mib']:.0f} MiB |"
            )
    return "\n".join(lines)


def trunk() -> str:
    """A PPO step with two models and with one."""
    page = json.loads((RESULTS / "trunk.json").read_text(encoding="utf-8"))
    lines = [
        "| critic | processor time of a step, s | peak memory |",
        "| --- | --- | --- |",
        *(
            f"| {name} | {side['processor seconds a step']:.1f} | {side['peak MiB']:.0f} MiB |"
            for name, side in page["sides"].items()
        ),
    ]
    settings, machine = page["settings"], page["machine"]
    about = (
        f"{machine['processor']}, {settings['threads']} thread, {settings['precision']}, models of {settings['size']}; {page['row']}. "
        f"Medians of {settings['rounds'] * (settings['steps'] - 1)} steps."
    )
    return "\n".join([about, "", *lines])


def over_optimisation(page: dict[str, Any]) -> Figure:
    """True and learned reward over the KL, a colour for each method, a line for each seed."""
    names = {
        "plain": "PPO without a stabiliser",
        "kl": "KL penalty 0.2",
        "ppo-max": "PPO-max",
        "safe": "SAFE",
        "rehearsal": "PPO-ptx",
    }
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, quantity, title in zip(
        figure.subplots(1, 2, sharex=True),
        ("monitor/judge", "channel/reward"),
        ("true reward", "learned reward"),
        strict=True,
    ):
        for number, (arm, label) in enumerate(names.items()):
            for seed, courses in enumerate(page["courses"]):
                course = courses[arm]
                own = label if seed == 0 else None
                axes.plot(course["kl/k1"], course[quantity], f"C{number}", alpha=0.8, lw=1.2, marker=".", label=own)
        axes.set_xscale("function", functions=(lambda x: x.clip(0) ** 0.5, lambda x: x**2))  # Gao et al. draw over √KL
        axes.set(
            title=title, xlabel="KL from the start, nats a response", xlim=(0, None), xticks=(0, 1, 4, 10, 20, 40, 60)
        )
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize="small")
    return figure


PICTURES: dict[str, Callable[[dict[str, Any]], Figure]] = {"over-optimisation": over_optimisation}
"""Page of the ledger → the picture of its courses, docs/images/NAME.svg."""


def draw() -> None:
    """Write the pictures anew; they are not compared, since another matplotlib draws other files."""
    matplotlib.rcParams |= {"svg.hashsalt": "fairlead", "svg.fonttype": "none"}
    for name, picture in PICTURES.items():
        page = json.loads((ROOT / "evidence" / f"{name}.json").read_text(encoding="utf-8"))
        if "courses" in page:
            picture(page).savefig(ROOT / "docs" / "images" / f"{name}.svg", metadata={"Date": None})


BLOCKS: dict[str, Callable[[], str]] = {
    "how-long": how_long,
    "quickstart": quickstart,
    "real-data": real_data,
    "recipes": recipes,
    "evidence": evidence,
    "versus-trl": partial(versus_trl, "versus-trl"),
    "versus-trl-two-threads": partial(versus_trl, "versus-trl-two-threads"),
    "versus-trl-amx": partial(versus_trl, "versus-trl-amx"),
    "versus-trl-amx-after": partial(versus_trl, "versus-trl-amx-after"),
    "scaling": scaling,
    "trunk": trunk,
}


def filled(text: str) -> str:
    """The text with its blocks written anew."""

    def block(match: re.Match[str]) -> str:
        name = match["name"]
        return match[0] if name not in BLOCKS else f"<!-- figures: {name} -->\n{BLOCKS[name]()}\n<!-- /figures -->"

    return _BLOCK.sub(block, text)


def main(check: bool) -> int:
    """Write or compare every file; returns how many differ."""
    differing = 0
    if not check:
        draw()
    for path in FILES:
        old = path.read_text(encoding="utf-8")
        new = filled(old)
        if new != old:
            differing += 1
            print(f"{path.relative_to(ROOT)}: {'out of date' if check else 'written'}")
            if not check:
                path.write_text(new, encoding="utf-8")
    return differing


if __name__ == "__main__":
    sys.exit(1 if main("--check" in sys.argv) and "--check" in sys.argv else 0)
