"""Charts of series: lines over a common axis, paths in a plane, areas on top of each other.

Knows: how a series is shown, beside what was measured.
Does not know: what the series mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fairlead.report.charts.canvas import Canvas, Drawing, Guide, Line, empty, legend, rounded
from fairlead.report.charts.series import envelope, smooth, thin, without_spikes
from fairlead.report.numbers import format_number

__all__ = ["line_chart", "path_chart", "stacked_chart"]


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str = "step",
    y_label: str = "",
    guides: Sequence[Guide] = (),
    percent: bool = False,
    points: int = 240,
) -> Drawing:
    """Series over a common x axis: what was measured in the background, smoothed in front of it."""
    lines = [line for line in lines if line.x.size]
    if not lines:
        return empty(title)
    curves = [smooth(line.y) if line.smoothed else line.y for line in lines]
    seen = np.concatenate([*curves, *(without_spikes(line.y) for line in lines)])
    canvas = Canvas.around(
        title, np.concatenate([line.x for line in lines]), np.append(seen, [g.value for g in guides])
    )
    canvas.axes(x_label, y_label, percent)
    for guide in guides:
        canvas.guide(guide)
    hover, said = [], []
    for line, curve in zip(lines, curves, strict=True):
        is_smooth = curve is not line.y
        if is_smooth and not line.faint:
            x, y = envelope(line.x, line.y, points)
            canvas.inner.append(f'<path class="raw c{line.colour}" d="{canvas.path(x, y)}"/>')
        x, y = thin(line.x, curve, points)
        if x.size == 1 or (not is_smooth and x.size <= 40 and not line.faint):
            canvas.inner += [
                f'<circle class="dot {line.style}" cx="{canvas.x(a):.1f}" cy="{canvas.y(b):.1f}" r="2.4"/>'
                for a, b in zip(x, y, strict=True)
            ]
        canvas.inner.append(f'<path class="line {line.style}" d="{canvas.path(x, y)}"/>')
        if not line.faint:
            hover.append(line.hover(*thin(line.x, curve, points // 2)))
            said.append(
                f"{line.name}: {format_number(curve[0])} at {format_number(line.x[0])}, {format_number(curve[-1])} at {format_number(line.x[-1])}"
            )
    svg = canvas.svg("; ".join(said), {"k": "x", "xl": x_label, "pc": int(percent), "s": hover})
    return Drawing(svg, legend(lines))


def path_chart(
    lines: Sequence[Line], *, title: str, x_label: str, y_label: str, guides: Sequence[Guide] = (), points: int = 240
) -> Drawing:
    """Paths in a plane, in order of time: a dot where each begins, an arrowhead where it ends, single points behind."""
    lines = [line for line in lines if line.x.size]
    if not lines:
        return empty(title)
    curves = [(smooth(line.x), smooth(line.y)) if line.smoothed else (line.x, line.y) for line in lines]
    xs = np.concatenate(
        [part for line, (x, _) in zip(lines, curves, strict=True) for part in (x, without_spikes(line.x))]
    )
    ys = np.concatenate(
        [part for line, (_, y) in zip(lines, curves, strict=True) for part in (y, without_spikes(line.y))]
    )
    canvas = Canvas.around(title, xs, np.append(ys, [g.value for g in guides]))
    canvas.axes(x_label, y_label)
    for guide in guides:
        canvas.guide(guide)
    hover, said = [], []
    for line, (x, y) in zip(lines, curves, strict=True):
        if line.smoothed and not line.faint:
            canvas.inner += [
                f'<circle class="dot back c{line.colour}" cx="{canvas.x(a):.1f}" cy="{canvas.y(b):.1f}" r="2"/>'
                for a, b in zip(*thin(line.x, line.y, points), strict=True)
            ]
        canvas.inner.append(f'<path class="line {line.style}" d="{canvas.path(*thin(x, y, points))}"/>')
        canvas.inner.append(
            f'<circle class="dot {line.style}" cx="{canvas.x(x[0]):.1f}" cy="{canvas.y(y[0]):.1f}" r="4"/>'
        )
        canvas.inner.append(canvas.arrow(x, y, line.style))
        if not line.faint:
            hover.append(line.hover(*thin(x, y, points // 2), size=x.size))
            said.append(
                f"{line.name}: from ({format_number(x[0])}, {format_number(y[0])}) to ({format_number(x[-1])}, {format_number(y[-1])})"
            )
    return Drawing(canvas.svg("; ".join(said), {"k": "xy", "xl": x_label, "s": hover}), legend(lines))


def stacked_chart(
    lines: Sequence[Line], *, title: str, x_label: str = "step", y_label: str = "", points: int = 240
) -> Drawing:
    """Areas on top of each other; all series must have the same x."""
    lines = [line for line in lines if line.x.size]
    if not lines:
        return empty(title)
    values = np.stack([smooth(line.y) for line in lines])
    top = np.cumsum(values, axis=0)
    canvas = Canvas.around(title, lines[0].x, np.append(top[-1], 0.0), pad_low=False)
    canvas.axes(x_label, y_label)
    bottom = np.zeros_like(top[0])
    hover = []
    for line, height, value in zip(lines, top, values, strict=True):
        x, upper = thin(line.x, height, points)
        _, lower = thin(line.x, bottom, points)
        if x.size == 1:
            x, upper, lower = np.array([canvas.x.low, canvas.x.high]), upper.repeat(2), lower.repeat(2)
        outline = canvas.path(np.append(x, x[::-1]), np.append(upper, lower[::-1]))
        canvas.inner.append(f'<path class="area c{line.colour}" d="{outline}Z"/>')
        entry = line.hover(*thin(line.x, value, points // 2))
        entry["at"] = [rounded(v) for v in thin(line.x, height, points // 2)[1]]
        hover.append(entry)
        bottom = height
    said = "; ".join(f"{line.name}: {format_number(float(line.y.mean()))} on average" for line in lines)
    svg = canvas.svg(said, {"k": "x", "xl": x_label, "s": hover})
    return Drawing(svg, tuple((line.name, line.colour, "area") for line in lines))
