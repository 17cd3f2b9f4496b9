"""How good a reward model is on held-out pairs.

Knows: what `judge_pairs` says: accuracy beside trivial rules, calibration, length bias.
Does not know: curves of training.
"""

from __future__ import annotations

from fairlead.report.charts import Bar, Guide, bar_chart, reliability_chart
from fairlead.report.figures.base import PROXY, Figure
from fairlead.report.findings import RULES
from fairlead.report.read import StageData, number

__all__ = ["reward_model_figures"]


def reward_model_figures(stage: StageData) -> list[Figure]:
    """Accuracy, calibration, and whether it judges length."""
    found = stage.validation
    figures = []
    accuracy = number(found.get("accuracy"))
    if accuracy is not None:
        bars = [
            Bar("this model", accuracy, number(found.get("accuracy_low")), number(found.get("accuracy_high")), PROXY)
        ]
        baselines = found.get("baselines")
        for name, value in (baselines if isinstance(baselines, dict) else {}).items():
            share = number(value)
            if share is not None:
                bars.append(Bar(RULES.get(str(name), str(name)), share, colour=6))
        drawing = bar_chart(
            bars,
            title=f"Accuracy beside trivial rules, stage {stage.id}",
            x_label="held-out pairs ordered right",
            percent=True,
            guide=Guide(0.5, "coin"),
        )
        figures.append(
            Figure(
                "Accuracy beside trivial rules",
                drawing,
                "A reward model is worth its cost only as far as it beats rules that read nothing, and a bag of words.",
            )
        )
    reliability = found.get("reliability")
    rows = (
        [[number(v) for v in row] for row in reliability if isinstance(row, list)]
        if isinstance(reliability, list)
        else []
    )
    curve = [[v for v in row if v is not None] for row in rows]
    if any(len(row) == 3 for row in curve):
        drawing = reliability_chart(curve, title=f"Reliability diagram, stage {stage.id}")
        figures.append(
            Figure(
                "Calibration",
                drawing,
                "On the diagonal, a predicted 70 % comes true in 70 of 100 cases; below it on the right, the model is too sure of itself.",
            )
        )
    bars = []
    for name, label in (
        ("accuracy_longer_chosen", "longer is better"),
        ("accuracy_shorter_chosen", "shorter is better"),
    ):
        share = number(found.get(name))
        if share is not None:
            bars.append(Bar(label, share, colour=PROXY if name.endswith("longer_chosen") else 4))
    if bars:
        drawing = bar_chart(
            bars,
            title=f"Length bias, stage {stage.id}",
            x_label="accuracy on those pairs",
            percent=True,
            guide=Guide(0.5, "coin"),
        )
        figures.append(
            Figure(
                "Length bias",
                drawing,
                "Right about pairs whose longer response is preferred but wrong about the others: then it judges length.",
            )
        )
    return figures
