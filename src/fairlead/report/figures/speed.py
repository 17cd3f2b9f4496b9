"""Where the time of a step goes.

Knows: the phases that a stage measures.
Does not know: what is done in them.
"""

from __future__ import annotations

import numpy as np

from fairlead.report.charts import Line, stacked_chart
from fairlead.report.figures.base import Figure
from fairlead.report.read import StageData

__all__ = ["seconds_figure"]


def seconds_figure(stage: StageData, used: set[str], points: int) -> Figure | None:
    """Seconds of each phase, stacked; what no phase accounts for is shown as the rest."""
    used |= {*stage.names("seconds/"), "peak_memory"}
    whole = stage.curve("seconds/step")
    if not whole:
        return None
    lines, total = [], np.zeros_like(whole.values)
    for index, name in enumerate(stage.phases()):
        curve = stage.curve(name)
        found = dict(zip(curve.steps.tolist(), curve.values.tolist(), strict=True))
        values = np.array([found.get(step, 0.0) for step in whole.steps.tolist()])
        total = total + values
        lines.append(Line(name.removeprefix("seconds/"), whole.steps, values, 1 + index % 5))
    rest = np.maximum(whole.values - total, 0.0)
    if not lines or rest.sum() > 0.01 * whole.values.sum():
        lines.append(Line("other" if lines else "step", whole.steps, rest, 6))
    drawing = stacked_chart(
        lines, title=f"Seconds by phase, stage {stage.id}", y_label="seconds per step", points=points
    )
    return Figure(
        "Seconds by phase", drawing, "Where the time of a step goes; the thickest band is the one worth making faster."
    )
