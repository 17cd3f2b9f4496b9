"""Horizontal bars: values with intervals, and shares of a whole.

Knows: rows, labels, whiskers.
Does not know: what is compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fairlead.report.charts.canvas import WIDTH, Canvas, Drawing, Guide, Scale, empty
from fairlead.report.numbers import format_number, format_percent

__all__ = ["Bar", "bar_chart", "share_chart"]

_ROW, _LEFT = 34.0, 112.0  # height of a row, room for its label


@dataclass(frozen=True)
class Bar:
    """One bar with its interval."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    colour: int = 1


class _Rows(Canvas):
    """A canvas of labelled rows, one below the other."""

    @classmethod
    def of(cls, title: str, count: int, x: Scale, head: float = 6.0, foot: float = 26.0) -> _Rows:
        """Room for `count` rows between a head and a foot."""
        bottom = head + _ROW * count
        return cls(title, x, Scale(0, 1, bottom, head), height=bottom + foot)

    def row(self, index: int, label: str) -> float:
        """Write the label of a row; returns where its middle is."""
        middle = self.y.stop + _ROW * (index + 0.5)
        shown = label if len(label) <= 17 else label[:16] + "…"
        self.text("bar-label", self.x.start - 10, middle + 4, shown, "end")
        return middle

    def tick(self, value: float, text: str) -> None:
        """A number below the rows."""
        self.text("tick", self.x(value), self.y.start + 15, text)

    def upright(self, value: float, kind: str) -> None:
        """A line through all rows."""
        self.outer.append(f'<path class="{kind}" d="M{self.x(value):.1f} {self.y.stop:.1f}V{self.y.start:.1f}"/>')


def bar_chart(
    bars: Sequence[Bar],
    *,
    title: str,
    x_label: str = "",
    percent: bool = False,
    from_zero: bool = True,
    guide: Guide | None = None,
) -> Drawing:
    """Horizontal bars with intervals and their values in words; `guide` is a vertical line."""
    bars = [bar for bar in bars if math.isfinite(bar.value)]
    if not bars:
        return empty(title)
    x = _scale(bars, guide, percent, from_zero)
    canvas = _Rows.of(title, len(bars), x, 18.0 if guide else 6.0, 38.0 if x_label else 26.0)
    for tick in x.ticks(4):
        canvas.upright(tick, "grid")
        canvas.tick(tick, format_percent(tick) if percent else x.label(tick))
    if x_label:
        canvas.text("label", (x.start + x.stop) / 2, canvas.height - 5, x_label)
    origin = x(min(max(0.0, x.low), x.high))
    for index, bar in enumerate(bars):
        middle = canvas.row(index, bar.label)
        end = x(bar.value)
        if from_zero:
            left, right = sorted((origin, end))
            canvas.outer.append(
                f'<rect class="bar c{bar.colour}" x="{left:.1f}" y="{middle - 8:.1f}" width="{max(right - left, 1):.1f}" height="16" rx="2.5"/>'
            )
        else:
            canvas.outer.append(f'<circle class="dot c{bar.colour}" cx="{end:.1f}" cy="{middle:.1f}" r="5"/>')
        if bar.low is not None and bar.high is not None:
            end = max(end, x(bar.high))
            canvas.outer.append(
                f'<path class="whisker" d="M{x(bar.low):.1f} {middle:.1f}H{x(bar.high):.1f}M{x(bar.low):.1f} {middle - 4:.1f}v8M{x(bar.high):.1f} {middle - 4:.1f}v8"/>'
            )
        shown = format_percent(bar.value, 1) if percent else format_number(bar.value)
        canvas.text("bar-value", (max(end, origin) if from_zero else end) + 8, middle + 4, shown, "")
    if guide:
        canvas.upright(guide.value, "guide")
        canvas.text("guide-label", x(guide.value), canvas.y.stop - 5, guide.name)
    return Drawing(canvas.svg("; ".join(_said(bar) for bar in bars)))


def _scale(bars: Sequence[Bar], guide: Guide | None, percent: bool, from_zero: bool) -> Scale:
    """From the lowest end of an interval to the highest, with room behind for the values."""
    ends = [end for bar in bars for end in (bar.value, bar.low, bar.high) if end is not None]
    if guide is not None:
        ends.append(guide.value)
    low, high = min(ends), max(ends)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if percent:
        low, high = 0.0, 1.0
    span = (high - low) or 1.0
    return Scale(
        low - (0 if from_zero and low == 0 else 0.04 * span),
        high + (0 if percent else 0.04 * span),
        _LEFT,
        WIDTH - 62.0,
    )


def _said(bar: Bar) -> str:
    """A bar for those who cannot see it."""
    interval = ""
    if bar.low is not None and bar.high is not None:
        interval = f" ({format_number(bar.low)} to {format_number(bar.high)})"
    return f"{bar.label}: {format_number(bar.value)}{interval}"


def share_chart(
    rows: Sequence[tuple[str, Sequence[float]]], names: Sequence[str], *, title: str, colours: Sequence[int]
) -> Drawing:
    """One bar for each row, cut into shares of a whole."""
    x = Scale(0, 1, _LEFT, WIDTH - 20.0)
    canvas = _Rows.of(title, len(rows), x)
    for tick in (0, 0.25, 0.5, 0.75, 1):
        canvas.tick(tick, format_percent(tick))
    described = []
    for index, (label, shares) in enumerate(rows):
        middle, start = canvas.row(index, label), 0.0
        for share, colour in zip(shares, colours, strict=True):
            if share > 0:
                width = x(start + share) - x(start)
                canvas.outer.append(
                    f'<rect class="bar c{colour}" x="{x(start):.1f}" y="{middle - 10:.1f}" width="{width:.1f}" height="20"/>'
                )
                if width > 32:
                    canvas.text("on-bar", x(start + share / 2), middle + 4, format_percent(share))
            start += share
        described.append(
            f"{label}: "
            + ", ".join(f"{name} {format_percent(share)}" for name, share in zip(names, shares, strict=True))
        )
    canvas.upright(0.5, "guide")
    return Drawing(canvas.svg("; ".join(described)), tuple((n, c, "area") for n, c in zip(names, colours, strict=True)))
