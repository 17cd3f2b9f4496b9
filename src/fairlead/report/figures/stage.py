"""Every figure of a stage, in groups, and the few that tell the story of a run.

Knows: which figures belong to which stage, and what can be folded away.
Does not know: what the figures of one topic show.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fairlead.report.charts import Line, line_chart
from fairlead.report.figures.base import Figure, Group
from fairlead.report.figures.curves import OPTIMISER, SPECS, SPEED
from fairlead.report.figures.evaluation import evaluation_figures
from fairlead.report.figures.reward import reward_curves
from fairlead.report.figures.reward_model import reward_model_figures
from fairlead.report.figures.speed import seconds_figure
from fairlead.report.read import StageData

__all__ = ["glance", "stage_figures"]

_OTHERS = "All other curves"
_MOST_OTHER_CURVES = 60


def stage_figures(stage: StageData, rewards: Sequence[str] = (), points: int = 240) -> list[Group]:
    """Every figure of a stage, grouped; empty groups are left out.

    `rewards` are the channels that the run was trained on: they are drawn in the colour of the proxy.
    """
    groups: dict[str, Group] = {}
    used: set[str] = set()

    def add(group: str, figure: Figure) -> None:
        groups.setdefault(group, Group(group)).figures.append(figure)

    if stage.part == "reward" or "reliability" in stage.validation:
        for figure in reward_model_figures(stage):
            add("On held-out pairs", figure)
    elif stage.part == "evaluate" or stage.channels:
        for figure in evaluation_figures(stage, rewards):
            add("Verdicts", figure)
    for figure in reward_curves(stage, used, points):
        add("Reward", figure)
    for spec in SPECS:
        if stage.part == "online" and spec.title == "Loss":
            continue  # a policy-gradient surrogate goes up and down without meaning; it is among the other curves
        lines = [
            Line(label, stage.curve(name).steps, stage.curve(name).values, colour)
            for colour, (name, label) in zip((1, 2), spec.metrics, strict=False)
            if stage.curve(name)
        ]
        if len(lines) == 2 and spec.title == "Entropy":
            lines = lines[:1]
        used |= {name for name, _ in spec.metrics if stage.curve(name)}
        if spec.title == "KL coefficient" and lines and np.ptp(lines[0].y) == 0:
            continue  # a setting, not a finding
        if lines:
            drawing = line_chart(
                lines,
                title=f"{spec.title}, stage {stage.id}",
                y_label=spec.unit,
                guides=spec.guides,
                percent=spec.percent,
                points=points,
            )
            add(spec.group, Figure(spec.title, drawing, spec.reading))
    seconds = seconds_figure(stage, used, points)
    if seconds is not None:
        add(SPEED, seconds)
    others = [name for name in stage.names() if name not in used and name != "tokens"][:_MOST_OTHER_CURVES]
    for name in others:
        curve = stage.curve(name)
        if curve:
            drawing = line_chart(
                [Line(name, curve.steps, curve.values)], title=f"{name}, stage {stage.id}", points=points // 2
            )
            add(_OTHERS, Figure(name, drawing, ""))
    return _fold(stage, groups)


def _fold(stage: StageData, groups: dict[str, Group]) -> list[Group]:
    """Close what few will ask for, unless it is all there is."""
    if stage.part != "online":
        machinery = [groups.pop(title) for title in (OPTIMISER, SPEED) if title in groups]
        figures = [figure for group in machinery for figure in group.figures]
        if figures:
            groups["Optimiser and speed"] = Group("Optimiser and speed", figures, folded=True)
    others = groups.pop(_OTHERS, None)
    if others is not None:
        others.folded = any(not group.folded for group in groups.values())
        groups[_OTHERS] = others
    return list(groups.values())


_GLANCE = (
    "Accuracy beside trivial rules",
    "Trained reward and judge over KL",
    "Win rates",
    "Bits per byte",
    "Score",
    "Accuracy on pairs",
    "Loss",
)


def glance(groups: Sequence[Sequence[Group]], most: int = 3) -> list[Figure]:
    """The few figures that tell the story of the whole run, out of the figures of its stages; none for one small stage."""
    every = [figure for stage in groups for group in stage for figure in group.figures if not group.folded]
    found: list[Figure] = []
    for title in _GLANCE:
        here = [figure for figure in every if figure.title.startswith(title)]
        if here and len(found) < most:
            # Of several reward models the first is the one that was trained against, the others judge.
            found.append(here[0] if title.startswith("Accuracy") else here[-1])
    found.sort(key=every.index)
    return found if len(every) > 2 * most else []
