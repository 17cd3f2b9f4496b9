"""A reward model that is over-optimised in real text, and what each stabiliser does about it.

Knows: the shipped recipe, and where its runs keep the course of reward, judge and KL.
Does not know: how figures become a verdict.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from fairlead.evidence.base import AtMost, Better, Experiment, Measurement, Rule
from fairlead.recipes.execute import execute
from fairlead.recipes.load import load_recipe
from fairlead.runs import read_json_lines

__all__ = ["OverOptimisation"]

_STABILISERS = ("kl", "ppo-max", "safe", "rehearsal")


class OverOptimisation(Experiment, name="over-optimisation"):
    """PPO on a learned reward without and with stabilisers, at equal samples, seen by a judge that nothing learns from.

    Source: Gao et al. 2022 (arXiv 2210.10760) for the curve; the stabilisers name theirs.
    """

    claim: ClassVar[str] = (
        "Without a stabiliser the judge's score falls behind its peak while the reward rises; with one it loses less"
    )
    experiment: ClassVar[str] = (
        "The recipe over-optimisation: shipped model and starter data; a reward model learned from one part of the feedback, the "
        "judge from another; 80 rollouts of 48 prompts for each of PPO without KL (the baseline), with a KL penalty of 0.2, PPO-max, "
        "SAFE, and PPO-ptx. Every fifth step all are judged; scores are means of three such looks. lost_NAME is the judge's highest "
        "score in the baseline's course less its score at the method's end, rise_NAME what the reward model's score gained, kl_NAME "
        "the KL at the end, nats a response. after_peak is the baseline's end less its peak."
    )
    baseline: ClassVar[str] = "PPO without a stabiliser, as many samples"
    rules: ClassVar[tuple[Rule, ...]] = (
        AtMost("after_peak", -0.1),
        *(Better(f"lost_{name}", except_for=1) for name in _STABILISERS),
    )

    def measure(self, seed: int, folder: Path) -> Measurement:
        recipe = load_recipe("over-optimisation", ["runtime.threads=1"]).model_copy(update={"seed": seed})
        run = execute(recipe, folder / "run", quiet=True)
        rows = read_json_lines(run.directory / "metrics.jsonl")
        courses = {name: _course(rows, name) for name in ("plain", *_STABILISERS)}
        peak = max(courses["plain"]["monitor/judge"])
        ours = {"after_peak": courses["plain"]["monitor/judge"][-1] - peak}
        for name in _STABILISERS:
            ours |= _figures(courses[name], name, peak)
        theirs = {key: value for name in _STABILISERS for key, value in _figures(courses["plain"], name, peak).items()}
        return Measurement(ours, theirs | {"after_peak": ours["after_peak"]})


def _course(rows: list[dict[str, Any]], stage: str) -> dict[str, list[float]]:
    """Reward, judge and KL of a stage at the steps at which the judge was asked, each as a mean of three looks in a row."""
    looks = [row for row in rows if row["stage"] == stage and "monitor/judge" in row]
    return {
        name: [fmean(float(row[name]) for row in looks[i : i + 3]) for i in range(len(looks) - 2)]
        for name in ("channel/reward", "monitor/judge", "kl/k1")
    }


def _figures(course: dict[str, list[float]], name: str, peak: float) -> dict[str, float]:
    reward = course["channel/reward"]
    return {
        f"lost_{name}": peak - course["monitor/judge"][-1],
        f"rise_{name}": reward[-1] - reward[0],
        f"kl_{name}": course["kl/k1"][-1],
    }
