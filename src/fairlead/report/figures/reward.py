"""What an online stage earned: score, rewards, judges, and their price in KL.

Knows: score, channels, monitors, failed verdicts.
Does not know: other metrics.
"""

from __future__ import annotations

import numpy as np

from fairlead.report.charts import Guide, Line, line_chart, path_chart
from fairlead.report.figures.base import JUDGE, PROXY, Figure
from fairlead.report.read import StageData

__all__ = ["frontier_lines", "reward_curves"]


def reward_curves(stage: StageData, used: set[str], points: int) -> list[Figure]:
    """Score, channels, monitors, and the frontier of reward against KL."""
    figures = []
    score = stage.curve("score")
    channels = [name for name in stage.names() if name.startswith("channel/")]
    monitors = [name for name in stage.names() if name.startswith("monitor/")]
    # A single reward of weight one is the score: one chart says both.
    same = len(channels) == 1 and score and np.array_equal(stage.curve(channels[0]).values, score.values)
    used |= {"score"} if score else set()
    if score:
        title = f"Score ({channels[0].removeprefix('channel/')})" if same else "Score"
        drawing = line_chart(
            [Line("score", score.steps, score.values, PROXY)],
            title=f"Score, stage {stage.id}",
            y_label="mean score",
            points=points,
        )
        figures.append(
            Figure(
                title,
                drawing,
                "What the policy is trained to raise: mean over the step's responses, smoothed in front of what was measured.",
            )
        )
    for name in channels:
        curve = stage.curve(name)
        used.add(name)
        if not same and curve:
            label = name.removeprefix("channel/")
            drawing = line_chart(
                [Line(label, curve.steps, curve.values, PROXY)],
                title=f"Reward {label}, stage {stage.id}",
                y_label="mean",
                points=points,
            )
            figures.append(Figure(f"Reward: {label}", drawing, "One source of reward before weighting and shaping."))
    for name in monitors:
        curve = stage.curve(name)
        used.add(name)
        if curve:
            label = name.removeprefix("monitor/")
            drawing = line_chart(
                [Line(label, curve.steps, curve.values, JUDGE)],
                title=f"Judge {label}, stage {stage.id}",
                y_label="mean verdict",
                points=points,
            )
            figures.append(
                Figure(
                    f"Judge: {label}",
                    drawing,
                    "An independent judge that nothing was trained on: its rise is real progress, its fall is gaming.",
                )
            )
    lines = frontier_lines(stage)
    if lines:
        drawing = path_chart(
            lines,
            title=f"Reward against KL, stage {stage.id}",
            x_label="√KL from the reference (√nats)",
            y_label="gain (standard deviations)",
            guides=(Guide(0.0, "start"),),
            points=points,
        )
        reading = (
            "Left to right is the price paid, upwards is what it bought; where the trained reward still climbs and the judge bends down, "
            "the reward is being over-optimised."
            if len(lines) > 1
            else "Left to right is the price paid, upwards is what it bought. Add a monitor to see whether an independent judge agrees."
        )
        figures.append(Figure("Trained reward and judge over KL", drawing, reading))
    failed = [(name, stage.curve(name)) for name in stage.names() if name.startswith("failed/")]
    used |= {name for name, _ in failed}
    broken = [(name.removeprefix("failed/"), curve) for name, curve in failed if curve and curve.values.max() > 0]
    if broken:
        lines = [Line(label, curve.steps, curve.values, 1 + index % 6) for index, (label, curve) in enumerate(broken)]
        drawing = line_chart(
            lines, title=f"Failed verdicts, stage {stage.id}", y_label="share of responses", percent=True, points=points
        )
        figures.append(
            Figure(
                "Failed verdicts",
                drawing,
                "Responses that a reward source could not judge; they are left out of the update.",
            )
        )
    return figures


def frontier_lines(stage: StageData) -> list[Line]:
    """Score and monitors over √KL, each as its gain since the start in its own standard deviations."""
    kl = stage.curve("kl/k1")
    if kl.values.size < 2:
        return []
    lines = []
    monitors = [name for name in stage.names() if name.startswith("monitor/")]
    for index, name in enumerate(["score", *monitors]):
        curve = stage.curve(name)
        if curve.values.size < 2:
            continue
        spread = float(curve.values.std()) or 1.0
        distance = np.sqrt(np.maximum(np.interp(curve.steps, kl.steps, kl.values), 0.0))
        label = "trained reward" if name == "score" else f"judge: {name.removeprefix('monitor/')}"
        steps = tuple(f"step {step:.0f}" for step in curve.steps)
        gain = (curve.values - curve.first()) / spread
        lines.append(Line(label, distance, gain, PROXY if index == 0 else 1 + (index % 6), labels=steps))
    return lines
