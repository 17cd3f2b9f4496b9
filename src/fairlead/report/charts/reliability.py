"""The reliability diagram of a judge.

Knows: predicted and observed chances.
Does not know: who predicted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fairlead.report.charts.canvas import Canvas, Drawing, Line, empty
from fairlead.report.numbers import format_percent

__all__ = ["reliability_chart"]


def reliability_chart(curve: Sequence[Sequence[float]], *, title: str, colour: int = 1) -> Drawing:
    """Predicted against observed probability; the area of a dot is the number of pairs in its bin."""
    rows = [row for row in curve if len(row) == 3 and all(map(math.isfinite, row))]
    if not rows:
        return empty(title)
    canvas = Canvas.spanning(title, (0, 1), (0, 1))
    canvas.axes("predicted chance that the first response is preferred", "how often it was", percent=True)
    canvas.inner.append(
        f'<path class="guide" d="M{canvas.x(0):.1f} {canvas.y(0):.1f}L{canvas.x(1):.1f} {canvas.y(1):.1f}"/>'
    )
    x, y = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    canvas.inner.append(f'<path class="line c{colour}" d="{canvas.path(x, y)}"/>')
    most = max(row[2] for row in rows)
    for predicted, observed, count in rows:
        radius = 3 + 7 * math.sqrt(count / most)
        canvas.inner.append(
            f'<circle class="dot ring c{colour}" cx="{canvas.x(predicted):.1f}" cy="{canvas.y(observed):.1f}" r="{radius:.1f}"/>'
        )
    entry = Line("observed", x, y, colour, labels=tuple(f"{row[2]:.0f} pairs" for row in rows)).hover(x, y)
    said = "; ".join(f"predicted {format_percent(p)}, observed {format_percent(o)}, {c:.0f} pairs" for p, o, c in rows)
    svg = canvas.svg(said, {"k": "xy", "xl": "predicted", "pc": 1, "s": [entry]})
    return Drawing(svg, (("this model", colour, "line"), ("perfect calibration", 0, "dashed")))
