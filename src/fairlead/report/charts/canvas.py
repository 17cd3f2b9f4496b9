"""What charts are drawn with: scales, axes, paths, and the finished drawing.

Knows: SVG, ticks, colours by number (the style sheet says which).
Does not know: kinds of charts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np
from markupsafe import Markup

from fairlead.report.charts.series import Vector
from fairlead.report.numbers import format_percent

__all__ = ["WIDTH", "Canvas", "Drawing", "Guide", "Line", "Scale", "empty", "legend", "rounded"]

WIDTH, HEIGHT = 400, 246
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 30, 40


def rounded(value: float) -> float:
    """Four significant digits are more than an eye can read off."""
    return float(f"{value:.4g}") if math.isfinite(value) else 0.0


@dataclass(frozen=True)
class Line:
    """One series: finite numbers, x rising for line charts and in order of time for paths."""

    name: str
    x: Vector
    y: Vector
    colour: int = 1
    dashed: bool = False
    smoothed: bool = True
    faint: bool = False
    """Drawn thin and left out of the legend: one run among those whose mean is drawn."""
    labels: tuple[str, ...] = ()
    """What to say about each point on hover, beside its numbers."""

    @property
    def style(self) -> str:
        """Classes of the style sheet."""
        return f"c{self.colour}" + (" dashed" if self.dashed else "") + (" faint" if self.faint else "")

    def hover(self, x: Vector, y: Vector, size: int | None = None) -> dict[str, object]:
        """What the page's script says of a series; `size` is the number of points before thinning."""
        entry: dict[str, object] = {
            "n": self.name,
            "c": self.colour,
            "x": [rounded(v) for v in x],
            "y": [rounded(v) for v in y],
        }
        if self.labels:
            size = size or len(self.labels)
            keep = np.linspace(0, size - 1, x.size).round().astype(np.int64)
            entry["l"] = [self.labels[index] for index in keep]
        return entry


@dataclass(frozen=True)
class Guide:
    """A horizontal line to compare with."""

    value: float
    name: str


@dataclass(frozen=True)
class Drawing:
    """A finished chart; `legend` holds (name, colour, style) with style line, dashed, area or dot."""

    svg: Markup
    legend: tuple[tuple[str, int, str], ...] = ()


@dataclass(frozen=True)
class Scale:
    """Data to pixels, one axis."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Round numbers within the range."""
        rough = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        found = [(first + index) * step for index in range(count + 3)]
        return [0.0 if abs(tick) < step * 1e-9 else tick for tick in found if tick <= self.high + step * 1e-9]

    def label(self, value: float) -> str:
        """A tick with as many decimals as the distance between ticks needs."""
        if value == 0:
            return "0"
        ticks = self.ticks()
        step = abs(ticks[1] - ticks[0]) if len(ticks) > 1 else abs(value)
        size = max(abs(self.low), abs(self.high))
        if size >= 1e6 or size < 1e-3:
            return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e").replace("-", "−")
        if size >= 1e4:
            return f"{value / 1e3:g}k".replace("-", "−")
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        if abs(step * 10**decimals - round(step * 10**decimals)) > 1e-6:  # steps of 2.5
            decimals += 1
        return f"{value:,.{decimals}f}".replace("-", "−")


@dataclass
class Canvas:
    """An SVG under construction."""

    title: str
    x: Scale
    y: Scale
    height: float = HEIGHT
    inner: list[str] = field(default_factory=list)  # clipped to the plot
    outer: list[str] = field(default_factory=list)

    @classmethod
    def spanning(cls, title: str, x: tuple[float, float], y: tuple[float, float]) -> Canvas:
        """Axes from the lowest to the highest number of each."""
        return cls(title, Scale(*x, LEFT, WIDTH - RIGHT), Scale(*y, HEIGHT - BOTTOM, TOP))

    @classmethod
    def around(cls, title: str, xs: Vector, ys: Vector, pad_low: bool = True) -> Canvas:
        """Axes around the data, with a little room above and (unless `pad_low` is false) below."""
        low, high = _widened(float(ys.min()), float(ys.max()))
        pad = 0.06 * (high - low)
        return cls.spanning(
            title, _widened(float(xs.min()), float(xs.max())), (low - (pad if pad_low else 0), high + pad)
        )

    def axes(self, x_label: str, y_label: str, percent: bool = False) -> None:
        """Both axes with ticks, grid and labels."""
        bottom, right = self.y.start, self.x.stop
        for tick in self.y.ticks():
            at = self.y(tick)
            self.outer.append(f'<path class="grid" d="M{self.x.start:.1f} {at:.1f}H{right:.1f}"/>')
            text = format_percent(tick) if percent else self.y.label(tick)
            self.text("tick", self.x.start - 7, at + 3.5, text, "end")
        for tick in self.x.ticks():
            at = self.x(tick)
            self.outer.append(f'<path class="grid tickmark" d="M{at:.1f} {bottom:.1f}v4"/>')
            self.text("tick", at, bottom + 17, self.x.label(tick))
        self.outer.append(f'<path class="axis" d="M{self.x.start:.1f} {bottom:.1f}H{right:.1f}"/>')
        self.text("label", (self.x.start + right) / 2, self.height - 6, x_label)
        self.outer.append(
            f'<text class="label" x="2" y="12">{escape(y_label)}</text>'  # upright: nobody should have to turn the head
        )

    def guide(self, guide: Guide) -> None:
        """A line across the plot, with its name."""
        at = self.y(guide.value)
        self.inner.append(f'<path class="guide" d="M{self.x.start:.1f} {at:.1f}H{self.x.stop:.1f}"/>')
        self.text("guide-label", self.x.stop - 2, at - 4, guide.name, "end")

    def text(self, kind: str, x: float, y: float, text: str, anchor: str = "middle") -> None:
        """Words at a place in pixels."""
        side = f' text-anchor="{anchor}"' if anchor else ""
        self.outer.append(f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}"{side}>{escape(text)}</text>')

    def path(self, x: Vector, y: Vector) -> str:
        """The `d` of a path through the points."""
        return "M" + "L".join(f"{self.x(a):.1f} {self.y(b):.1f}" for a, b in zip(x, y, strict=True))

    def arrow(self, x: Vector, y: Vector, style: str) -> str:
        """A head at the end of a path, along the direction of its last twentieth."""
        back = max(2, x.size // 20)
        end = self.x(x[-1]), self.y(y[-1])
        begin = self.x(x[-min(back, x.size)]), self.y(y[-min(back, x.size)])
        if math.dist(end, begin) < 1e-6:
            return ""
        angle = math.degrees(math.atan2(end[1] - begin[1], end[0] - begin[0]))
        return f'<path class="head {style}" transform="translate({end[0]:.1f} {end[1]:.1f}) rotate({angle:.0f})" d="M4 0L-6 -5L-6 5Z"/>'

    def svg(self, description: str, hover: dict[str, object] | None = None) -> Markup:
        """The finished picture; `hover` is what the page's script needs to say values."""
        left, top = self.x.start, self.y.stop
        width, height = self.x.stop - left, self.y.start - top
        # A nested svg clips what is drawn in it without needing an id.
        clipped = (
            f'<svg x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" '
            f'viewBox="{left:.1f} {top:.1f} {width:.1f} {height:.1f}">{"".join(self.inner)}</svg>'
        )
        data = ""
        if hover is not None:
            hover |= {
                "d": [rounded(v) for v in (self.x.low, self.x.high, self.y.low, self.y.high)],
                "p": [rounded(v) for v in (self.x.start, self.x.stop, self.y.start, self.y.stop)],
            }
            data = f' data-hover="{escape(json.dumps(hover, separators=(",", ":")))}"'
        return Markup(
            f'<svg class="chart" viewBox="0 0 {WIDTH} {self.height:.0f}" role="img" '
            f'aria-label="{escape(self.title)}"{data}><desc>{escape(description)}</desc>'
            f"{''.join(self.outer)}{clipped}</svg>"
        )


def _widened(low: float, high: float) -> tuple[float, float]:
    """A range of some width even around a single value."""
    if high - low > 1e-9 * max(abs(low), abs(high), 1e-12):
        return low, high
    room = abs(low) * 0.1 or 1.0
    return low - room, high + room


def legend(lines: Sequence[Line]) -> tuple[tuple[str, int, str], ...]:
    """Name, colour and style of every line that is not faint."""
    return tuple((line.name, line.colour, "dashed" if line.dashed else "line") for line in lines if not line.faint)


def empty(title: str) -> Drawing:
    """The chart of nothing."""
    return Drawing(
        Markup(
            f'<svg class="chart" viewBox="0 0 {WIDTH} 80" role="img" aria-label="{escape(title)}"><desc>no data</desc>'
            f'<text class="label" x="{WIDTH / 2}" y="44" text-anchor="middle">no finite numbers were logged</text></svg>'
        )
    )
