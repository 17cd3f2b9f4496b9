"""What an online stage earned: score, rewards, judges, and their price in KL.

Knows: score, channels, monitors, failed verdicts.
Does not know: other metrics.
"""

from __future__ import annotations

import numpy as np

from fairlead.report.charts import Drawing, Guide, Line, line_chart, path_chart
from fairlead.report.figures.base import JUDGE, PROXY, Figure
from fairlead.report.read import StageData

__all__ = ["frontier_chart", "frontier_lines", "reward_curves"]


def reward_curves(stage: StageData, used: set[str], points: int) -> list[Figure]:
    """Score, channels, monitors, and the frontier of reward against KL; the metrics drawn are added to `used`."""
    score = stage.curve("score")
    channels, monitors, failed = (stage.names(kind) for kind in ("channel/", "monitor/", "failed/"))
    used |= {*channels, *monitors, *failed} | ({"score"} if score else set())
    # A single reward of weight one is the score: one chart says both.
    same = len(channels) == 1 and score and np.array_equal(stage.curve(channels[0]).values, score.values)

    def draw(name: str, title: str, unit: str, colour: int, reading: str) -> list[Figure]:
        curve = stage.curve(name)
        if not curve:
            return []
        line = Line(_label(name), curve.steps, curve.values, colour)
        drawing = line_chart([line], title=f"{title}, stage {stage.id}", y_label=unit, points=points)
        return [Figure(title, drawing, reading)]

    figures = draw(
        "score",
        f"Score ({_label(channels[0])})" if same else "Score",
        "mean score",
        PROXY,
        "What the policy is trained to raise: mean over the step's responses, smoothed in front of what was measured.",
    )
    for name in [] if same else channels:
        reading = "One source of reward before weighting and shaping."
        figures += draw(name, f"Reward: {_label(name)}", "mean", PROXY, reading)
    for name in monitors:
        reading = "An independent judge that nothing was trained on: its rise is real progress, its fall is gaming."
        figures += draw(name, f"Judge: {_label(name)}", "mean verdict", JUDGE, reading)
    lines = frontier_lines(stage)
    if lines:
        reading = (
            "Left to right is the price paid, upwards is what it bought; where the trained reward still climbs and the judge bends down, "
            "the reward is being over-optimised."
            if len(lines) > 1
            else "Left to right is the price paid, upwards is what it bought. Add a monitor to see whether an independent judge agrees."
        )
        drawing = frontier_chart(lines, f"Reward against KL, stage {stage.id}", points)
        figures.append(Figure("Trained reward and judge over KL", drawing, reading))
    broken = [(_label(name), curve) for name in failed if (curve := stage.curve(name)) and curve.values.max() > 0]
    lines = [Line(label, curve.steps, curve.values, 1 + index % 6) for index, (label, curve) in enumerate(broken)]
    if lines:
        drawing = line_chart(
            lines, title=f"Failed verdicts, stage {stage.id}", y_label="share of responses", percent=True, points=points
        )
        reading = "Responses that a reward source could not judge; they are left out of the update."
        figures.append(Figure("Failed verdicts", drawing, reading))
    return figures


def frontier_chart(lines: list[Line], title: str, points: int) -> Drawing:
    """What was gained over what it cost in KL."""
    return path_chart(
        lines,
        title=title,
        x_label="√KL from the reference (√nats)",
        y_label="gain (standard deviations)",
        guides=(Guide(0.0, "start"),),
        points=points,
    )


def frontier_lines(stage: StageData) -> list[Line]:
    """Score and monitors over √KL, each as its gain since the start in its own standard deviations."""
    kl = stage.curve("kl/k1")
    if kl.values.size < 2:
        return []
    lines = []
    for index, name in enumerate(["score", *stage.names("monitor/")]):
        curve = stage.curve(name)
        if curve.values.size < 2:
            continue
        spread = float(curve.values.std()) or 1.0
        distance = np.sqrt(np.maximum(np.interp(curve.steps, kl.steps, kl.values), 0.0))
        label = "trained reward" if name == "score" else f"judge: {_label(name)}"
        steps = tuple(f"step {step:.0f}" for step in curve.steps)
        gain = (curve.values - curve.first()) / spread
        lines.append(Line(label, distance, gain, PROXY if index == 0 else 1 + (index % 6), labels=steps))
    return lines


def _label(name: str) -> str:
    """A metric's name without its kind."""
    return name.partition("/")[2] or name
