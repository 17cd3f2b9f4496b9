"""Models side by side on held-out prompts.

Knows: what `compare_policies` says: means with intervals, win rates.
Does not know: how the models were made.
"""

from __future__ import annotations

from collections.abc import Sequence

from fairlead.report.charts import Bar, bar_chart, share_chart
from fairlead.report.figures.base import JUDGE, PROXY, Figure
from fairlead.report.read import StageData, mean_of, number

__all__ = ["evaluation_figures"]


def evaluation_figures(stage: StageData, rewards: Sequence[str]) -> list[Figure]:
    """Every judge's verdict by model, and who wins how often; `rewards` are the channels that were trained on."""
    figures, channels, models = [], stage.channels, stage.models
    for channel in dict.fromkeys(name for model in models for name in channels.get(model, {})):
        bars = []
        for model in models:
            entry = channels.get(model, {}).get(channel)
            mean = mean_of(entry)
            if mean is not None:
                colour = 6 if model != models[-1] else (PROXY if channel in rewards else JUDGE)
                bars.append(Bar(model, mean, number(entry.get("low")), number(entry.get("high")), colour))
        if bars:
            trained = channel in rewards
            # Bars from zero would flatten scores whose zero means nothing.
            drawing = bar_chart(
                bars, title=f"{channel} by model, stage {stage.id}", x_label="mean with 95 % interval", from_zero=False
            )
            reading = (
                "This judge is the reward that was trained on: expect a rise, and believe the others."
                if trained
                else "Mean verdict on held-out prompts; intervals that do not overlap are a difference you can trust."
            )
            figures.append(Figure(f"{'Trained reward' if trained else 'Judge'}: {channel}", drawing, reading))
    rows = []
    for channel, entry in stage.versus.items():
        shares = [number(entry.get(key)) for key in ("win", "tie", "lose")]
        if None not in shares:
            rows.append((str(channel), [share or 0.0 for share in shares]))
    if rows:
        pair = (stage.result or {})["versus"]
        names = (f"{pair.get('last')} better", "tie", f"{pair.get('first')} better")
        drawing = share_chart(rows, names, title=f"Win rates, stage {stage.id}", colours=(2, 0, 6))
        figures.append(
            Figure(
                "Win rates",
                drawing,
                "The two models' answers to the same prompts, one against one; past the middle line the later model wins more often than not.",
            )
        )
    return figures
