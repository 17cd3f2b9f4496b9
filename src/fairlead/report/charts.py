"""Charts as inline SVG: lines, paths, stacked areas, bars with intervals, reliability.

Knows: numbers, scales, ticks, colours by number (the style sheet says which).
Does not know: runs, metrics, what is good or bad.

Every function returns a `Drawing`: the SVG, and a legend for the page to set as text, so that it wraps on a phone. Hover values
travel in a `data-hover` attribute that the page's script reads; without the script the chart is complete as it stands.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TypeAlias

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

__all__ = [
    "Bar",
    "Drawing",
    "Guide",
    "Line",
    "bar_chart",
    "format_number",
    "line_chart",
    "path_chart",
    "reliability_chart",
    "share_chart",
    "smooth",
    "stacked_chart",
]

Vector: TypeAlias = "NDArray[np.float64]"

COLOURS = 6
WIDTH, HEIGHT = 400, 246
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 30, 40
_SMOOTH_FROM = 16  # points; fewer are drawn as they are


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


@dataclass(frozen=True)
class Guide:
    """A horizontal line to compare with."""

    value: float
    name: str


@dataclass(frozen=True)
class Bar:
    """One bar with its interval."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    colour: int = 1


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


@dataclass
class _Canvas:
    """An SVG under construction."""

    title: str
    x: Scale
    y: Scale
    height: float = HEIGHT
    inner: list[str] = field(default_factory=list)  # clipped to the plot
    outer: list[str] = field(default_factory=list)

    def axes(self, x_label: str, y_label: str, percent: bool = False) -> None:
        bottom, right = self.y.start, self.x.stop
        for tick in self.y.ticks():
            at = self.y(tick)
            self.outer.append(f'<path class="grid" d="M{self.x.start:.1f} {at:.1f}H{right:.1f}"/>')
            text = _percent(tick) if percent else _tick(tick, self.y)
            self.outer.append(
                f'<text class="tick" x="{self.x.start - 7:.1f}" y="{at + 3.5:.1f}" text-anchor="end">{text}</text>'
            )
        for tick in self.x.ticks():
            at = self.x(tick)
            self.outer.append(f'<path class="grid tickmark" d="M{at:.1f} {bottom:.1f}v4"/>')
            text = _tick(tick, self.x)
            self.outer.append(
                f'<text class="tick" x="{at:.1f}" y="{bottom + 17:.1f}" text-anchor="middle">{text}</text>'
            )
        self.outer.append(f'<path class="axis" d="M{self.x.start:.1f} {bottom:.1f}H{right:.1f}"/>')
        middle_x = (self.x.start + right) / 2
        self.outer.append(
            f'<text class="label" x="{middle_x:.1f}" y="{self.height - 6:.1f}" text-anchor="middle">{escape(x_label)}</text>'
        )
        self.outer.append(
            f'<text class="label" x="2" y="12">{escape(y_label)}</text>'  # upright: nobody should have to turn the head
        )

    def guide(self, guide: Guide) -> None:
        at = self.y(guide.value)
        self.inner.append(f'<path class="guide" d="M{self.x.start:.1f} {at:.1f}H{self.x.stop:.1f}"/>')
        self.outer.append(
            f'<text class="guide-label" x="{self.x.stop - 2:.1f}" y="{at - 4:.1f}" text-anchor="end">{escape(guide.name)}</text>'
        )

    def svg(self, description: str, hover: dict[str, object] | None = None) -> Markup:
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
                "d": [_round(v) for v in (self.x.low, self.x.high, self.y.low, self.y.high)],
                "p": [_round(v) for v in (self.x.start, self.x.stop, self.y.start, self.y.stop)],
            }
            data = f' data-hover="{escape(json.dumps(hover, separators=(",", ":")))}"'
        return Markup(
            f'<svg class="chart" viewBox="0 0 {WIDTH} {self.height:.0f}" role="img" '
            f'aria-label="{escape(self.title)}"{data}><desc>{escape(description)}</desc>'
            f"{''.join(self.outer)}{clipped}</svg>"
        )


# -- lines ------------------------------------------------------------------------------------------------------------


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
        return _empty(title)
    curves = [smooth(line.y) if line.smoothed else line.y for line in lines]
    seen = np.concatenate([*curves, *(_without_spikes(line.y) for line in lines)])
    canvas = _canvas(title, np.concatenate([line.x for line in lines]), np.append(seen, [g.value for g in guides]))
    canvas.axes(x_label, y_label, percent)
    for guide in guides:
        canvas.guide(guide)
    hover, said = [], []
    for line, curve in zip(lines, curves, strict=True):
        is_smooth = curve is not line.y
        style = f"c{line.colour}" + (" dashed" if line.dashed else "") + (" faint" if line.faint else "")
        if is_smooth and not line.faint:
            x, y = _envelope(line.x, line.y, points)
            canvas.inner.append(f'<path class="raw c{line.colour}" d="{_path(canvas, x, y)}"/>')
        x, y = _thin(line.x, curve, points)
        if x.size == 1 or (not is_smooth and x.size <= 40 and not line.faint):
            canvas.inner += [
                f'<circle class="dot {style}" cx="{canvas.x(a):.1f}" cy="{canvas.y(b):.1f}" r="2.4"/>'
                for a, b in zip(x, y, strict=True)
            ]
        canvas.inner.append(f'<path class="line {style}" d="{_path(canvas, x, y)}"/>')
        if not line.faint:
            hover.append(_hover(line, *_thin(line.x, curve, points // 2)))
            said.append(
                f"{line.name}: {format_number(curve[0])} at {format_number(line.x[0])}, {format_number(curve[-1])} at {format_number(line.x[-1])}"
            )
    svg = canvas.svg("; ".join(said), {"k": "x", "xl": x_label, "pc": int(percent), "s": hover})
    return Drawing(svg, _legend(lines))


def path_chart(
    lines: Sequence[Line], *, title: str, x_label: str, y_label: str, guides: Sequence[Guide] = (), points: int = 240
) -> Drawing:
    """Paths in a plane, in order of time: a dot where each begins, an arrowhead where it ends, single points behind."""
    lines = [line for line in lines if line.x.size]
    if not lines:
        return _empty(title)
    curves = [(smooth(line.x), smooth(line.y)) if line.smoothed else (line.x, line.y) for line in lines]
    xs = np.concatenate(
        [part for line, (x, _) in zip(lines, curves, strict=True) for part in (x, _without_spikes(line.x))]
    )
    ys = np.concatenate(
        [part for line, (_, y) in zip(lines, curves, strict=True) for part in (y, _without_spikes(line.y))]
    )
    canvas = _canvas(title, xs, np.append(ys, [g.value for g in guides]))
    canvas.axes(x_label, y_label)
    for guide in guides:
        canvas.guide(guide)
    hover, said = [], []
    for line, (x, y) in zip(lines, curves, strict=True):
        style = f"c{line.colour}" + (" dashed" if line.dashed else "") + (" faint" if line.faint else "")
        if line.smoothed and not line.faint:
            canvas.inner += [
                f'<circle class="dot back c{line.colour}" cx="{canvas.x(a):.1f}" cy="{canvas.y(b):.1f}" r="2"/>'
                for a, b in zip(*_thin(line.x, line.y, points), strict=True)
            ]
        canvas.inner.append(f'<path class="line {style}" d="{_path(canvas, *_thin(x, y, points))}"/>')
        canvas.inner.append(f'<circle class="dot {style}" cx="{canvas.x(x[0]):.1f}" cy="{canvas.y(y[0]):.1f}" r="4"/>')
        canvas.inner.append(_arrow(canvas, x, y, style))
        if not line.faint:
            hover.append(_hover(line, *_thin(x, y, points // 2), size=x.size))
            said.append(
                f"{line.name}: from ({format_number(x[0])}, {format_number(y[0])}) to ({format_number(x[-1])}, {format_number(y[-1])})"
            )
    return Drawing(canvas.svg("; ".join(said), {"k": "xy", "xl": x_label, "s": hover}), _legend(lines))


def stacked_chart(
    lines: Sequence[Line], *, title: str, x_label: str = "step", y_label: str = "", points: int = 240
) -> Drawing:
    """Areas on top of each other; all series must have the same x."""
    lines = [line for line in lines if line.x.size]
    if not lines:
        return _empty(title)
    values = np.stack([smooth(line.y) for line in lines])
    top = np.cumsum(values, axis=0)
    canvas = _canvas(title, lines[0].x, np.append(top[-1], 0.0), pad_low=False)
    canvas.axes(x_label, y_label)
    bottom = np.zeros_like(top[0])
    hover = []
    for line, height, value in zip(lines, top, values, strict=True):
        x, upper = _thin(line.x, height, points)
        _, lower = _thin(line.x, bottom, points)
        if x.size == 1:
            x, upper, lower = np.array([canvas.x.low, canvas.x.high]), upper.repeat(2), lower.repeat(2)
        outline = _path(canvas, np.append(x, x[::-1]), np.append(upper, lower[::-1]))
        canvas.inner.append(f'<path class="area c{line.colour}" d="{outline}Z"/>')
        entry = _hover(line, *_thin(line.x, value, points // 2))
        entry["at"] = [_round(v) for v in _thin(line.x, height, points // 2)[1]]
        hover.append(entry)
        bottom = height
    said = "; ".join(f"{line.name}: {format_number(float(line.y.mean()))} on average" for line in lines)
    svg = canvas.svg(said, {"k": "x", "xl": x_label, "s": hover})
    return Drawing(svg, tuple((line.name, line.colour, "area") for line in lines))


# -- bars -------------------------------------------------------------------------------------------------------------


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
        return _empty(title)
    ends = [end for bar in bars for end in (bar.value, bar.low, bar.high) if end is not None]
    if guide is not None:
        ends.append(guide.value)
    low, high = min(ends), max(ends)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if percent:
        low, high = 0.0, 1.0
    span = (high - low) or 1.0
    room = 62.0
    x = Scale(
        low - (0 if from_zero and low == 0 else 0.04 * span),
        high + (0 if percent else 0.04 * span),
        112.0,
        WIDTH - room,
    )
    row = 34.0
    head = 18.0 if guide else 6.0
    height = head + row * len(bars) + (38 if x_label else 26)
    canvas = _Canvas(title, x, Scale(0, 1, head + row * len(bars), head), height=height)
    for tick in x.ticks(4):
        canvas.outer.append(f'<path class="grid" d="M{x(tick):.1f} {head:.1f}V{canvas.y.start:.1f}"/>')
        text = _percent(tick) if percent else _tick(tick, x)
        canvas.outer.append(
            f'<text class="tick" x="{x(tick):.1f}" y="{canvas.y.start + 15:.1f}" text-anchor="middle">{text}</text>'
        )
    if x_label:
        canvas.outer.append(
            f'<text class="label" x="{(x.start + x.stop) / 2:.1f}" y="{height - 5:.1f}" text-anchor="middle">{escape(x_label)}</text>'
        )
    origin = x(min(max(0.0, x.low), x.high))
    for index, bar in enumerate(bars):
        middle = head + row * (index + 0.5)
        left, right = sorted((origin, x(bar.value)))
        label = bar.label if len(bar.label) <= 17 else bar.label[:16] + "…"
        canvas.outer.append(
            f'<text class="bar-label" x="{x.start - 10:.1f}" y="{middle + 4:.1f}" text-anchor="end">{escape(label)}</text>'
        )
        if from_zero:
            canvas.outer.append(
                f'<rect class="bar c{bar.colour}" x="{left:.1f}" y="{middle - 8:.1f}" width="{max(right - left, 1):.1f}" height="16" rx="2.5"/>'
            )
        else:
            canvas.outer.append(f'<circle class="dot c{bar.colour}" cx="{x(bar.value):.1f}" cy="{middle:.1f}" r="5"/>')
        shown = _percent(bar.value, 1) if percent else format_number(bar.value)
        at = x(bar.value)
        if bar.low is not None and bar.high is not None:
            at = max(at, x(bar.high))
            canvas.outer.append(
                f'<path class="whisker" d="M{x(bar.low):.1f} {middle:.1f}H{x(bar.high):.1f}M{x(bar.low):.1f} {middle - 4:.1f}v8M{x(bar.high):.1f} {middle - 4:.1f}v8"/>'
            )
        canvas.outer.append(
            f'<text class="bar-value" x="{(max(at, origin) if from_zero else at) + 8:.1f}" y="{middle + 4:.1f}">{shown}</text>'
        )
    if guide:
        canvas.outer.append(f'<path class="guide" d="M{x(guide.value):.1f} {head:.1f}V{canvas.y.start:.1f}"/>')
        canvas.outer.append(
            f'<text class="guide-label" x="{x(guide.value):.1f}" y="{head - 5:.1f}" text-anchor="middle">{escape(guide.name)}</text>'
        )
    described = [
        f"{bar.label}: {format_number(bar.value)}"
        + (
            f" ({format_number(bar.low)} to {format_number(bar.high)})"
            if bar.low is not None and bar.high is not None
            else ""
        )
        for bar in bars
    ]
    return Drawing(canvas.svg("; ".join(described)))


def share_chart(
    rows: Sequence[tuple[str, Sequence[float]]], names: Sequence[str], *, title: str, colours: Sequence[int]
) -> Drawing:
    """One bar for each row, cut into shares of a whole."""
    row, head = 34.0, 6.0
    height = head + row * len(rows) + 26
    x = Scale(0, 1, 112.0, WIDTH - 20.0)
    canvas = _Canvas(title, x, Scale(0, 1, head + row * len(rows), head), height=height)
    for tick in (0, 0.25, 0.5, 0.75, 1):
        canvas.outer.append(
            f'<text class="tick" x="{x(tick):.1f}" y="{canvas.y.start + 15:.1f}" text-anchor="middle">{_percent(tick)}</text>'
        )
    described = []
    for index, (label, shares) in enumerate(rows):
        middle, start = head + row * (index + 0.5), 0.0
        shown = label if len(label) <= 17 else label[:16] + "…"
        canvas.outer.append(
            f'<text class="bar-label" x="{x.start - 10:.1f}" y="{middle + 4:.1f}" text-anchor="end">{escape(shown)}</text>'
        )
        for share, colour in zip(shares, colours, strict=True):
            if share > 0:
                width = x(start + share) - x(start)
                canvas.outer.append(
                    f'<rect class="bar c{colour}" x="{x(start):.1f}" y="{middle - 10:.1f}" width="{width:.1f}" height="20"/>'
                )
                if width > 32:
                    canvas.outer.append(
                        f'<text class="on-bar" x="{x(start + share / 2):.1f}" y="{middle + 4:.1f}" text-anchor="middle">{_percent(share)}</text>'
                    )
            start += share
        described.append(
            f"{label}: " + ", ".join(f"{name} {_percent(share)}" for name, share in zip(names, shares, strict=True))
        )
    canvas.outer.append(f'<path class="guide" d="M{x(0.5):.1f} {head:.1f}V{canvas.y.start:.1f}"/>')
    return Drawing(canvas.svg("; ".join(described)), tuple((n, c, "area") for n, c in zip(names, colours, strict=True)))


def reliability_chart(curve: Sequence[Sequence[float]], *, title: str, colour: int = 1) -> Drawing:
    """Predicted against observed probability; the area of a dot is the number of pairs in its bin."""
    rows = [row for row in curve if len(row) == 3 and all(map(math.isfinite, row))]
    if not rows:
        return _empty(title)
    canvas = _Canvas(title, Scale(0, 1, LEFT, WIDTH - RIGHT), Scale(0, 1, HEIGHT - BOTTOM, TOP))
    canvas.axes("predicted chance that the first response is preferred", "how often it was", percent=True)
    canvas.inner.append(
        f'<path class="guide" d="M{canvas.x(0):.1f} {canvas.y(0):.1f}L{canvas.x(1):.1f} {canvas.y(1):.1f}"/>'
    )
    x, y = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    canvas.inner.append(f'<path class="line c{colour}" d="{_path(canvas, x, y)}"/>')
    most = max(row[2] for row in rows)
    for predicted, observed, count in rows:
        radius = 3 + 7 * math.sqrt(count / most)
        canvas.inner.append(
            f'<circle class="dot ring c{colour}" cx="{canvas.x(predicted):.1f}" cy="{canvas.y(observed):.1f}" r="{radius:.1f}"/>'
        )
    entry = _hover(Line("observed", x, y, colour, labels=tuple(f"{row[2]:.0f} pairs" for row in rows)), x, y)
    said = "; ".join(f"predicted {_percent(p)}, observed {_percent(o)}, {c:.0f} pairs" for p, o, c in rows)
    svg = canvas.svg(said, {"k": "xy", "xl": "predicted", "pc": 1, "s": [entry]})
    return Drawing(svg, (("this model", colour, "line"), ("perfect calibration", 0, "dashed")))


# -- numbers ----------------------------------------------------------------------------------------------------------


def smooth(values: Vector) -> Vector:
    """Gaussian smoothing without lag, a twenty-fifth of the series wide; short series come back as they are (the same array)."""
    if values.size < _SMOOTH_FROM:
        return values
    width = max(1.0, values.size / 25)
    reach = math.ceil(3 * width)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    total = np.convolve(values, kernel, mode="full")[reach : reach + values.size]
    weight = np.convolve(np.ones_like(values), kernel, mode="full")[reach : reach + values.size]
    return np.asarray(total / weight, dtype=np.float64)


def format_number(value: float | None, digits: int = 3) -> str:
    """A number for people: three significant digits, a real minus sign, k and M for large ones, a dash for none."""
    if value is None or not math.isfinite(value):
        return "—"
    size = abs(value)
    if size == 0:
        text = "0"
    elif size >= 1e9 or size < 1e-4:
        text = f"{size:.{digits - 1}e}"
    elif size >= 1e6:
        text = f"{size / 1e6:.{digits}g}M"
    elif size >= 1e4:
        text = f"{size / 1e3:.{digits}g}k" if size < 999_500 else "1M"
    elif size >= 10 ** (digits - 1):
        text = f"{size:,.0f}"
    else:
        text = f"{size:.{digits}g}"
    return ("−" if value < 0 and text != "0" else "") + text


def _percent(share: float, digits: int = 0) -> str:
    return f"{share * 100:.{digits}f}\u00a0%".replace("-", "−")  # never apart from its number


def _tick(value: float, scale: Scale) -> str:
    """A tick with as many decimals as the distance between ticks needs."""
    if value == 0:
        return "0"
    ticks = scale.ticks()
    step = abs(ticks[1] - ticks[0]) if len(ticks) > 1 else abs(value)
    size = max(abs(scale.low), abs(scale.high))
    if size >= 1e6 or size < 1e-3:
        return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e").replace("-", "−")
    if size >= 1e4:
        return f"{value / 1e3:g}k".replace("-", "−")
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if abs(step * 10**decimals - round(step * 10**decimals)) > 1e-6:  # steps of 2.5
        decimals += 1
    return f"{value:,.{decimals}f}".replace("-", "−")


def _round(value: float) -> float:
    return float(f"{value:.4g}") if math.isfinite(value) else 0.0


def _without_spikes(values: Vector) -> Vector:
    """The middle 98 %: one wild step must not flatten the rest (it is clipped at the edge instead)."""
    if values.size < 50:
        return values
    low, high = np.quantile(values, [0.01, 0.99])
    return values[(values >= low) & (values <= high)]


def _thin(x: Vector, y: Vector, points: int) -> tuple[Vector, Vector]:
    """At most `points` of them, evenly spread, the first and the last among them."""
    if x.size <= points:
        return x, y
    keep = np.unique(np.linspace(0, x.size - 1, max(points, 2)).round().astype(np.int64))
    return x[keep], y[keep]


def _envelope(x: Vector, y: Vector, points: int) -> tuple[Vector, Vector]:
    """The lowest and the highest point of each stretch, so that thinning does not hide the noise."""
    if x.size <= points:
        return x, y
    keep: list[int] = []
    for part in np.array_split(np.arange(x.size), points // 2):
        keep += sorted({int(part[y[part].argmin()]), int(part[y[part].argmax()])})
    return x[keep], y[keep]


# -- pieces of SVG ----------------------------------------------------------------------------------------------------


def _canvas(title: str, xs: Vector, ys: Vector, pad_low: bool = True) -> _Canvas:
    x_low, x_high = _widen(float(xs.min()), float(xs.max()))
    y_low, y_high = _widen(float(ys.min()), float(ys.max()))
    pad = 0.06 * (y_high - y_low)
    y_low, y_high = y_low - (pad if pad_low else 0), y_high + pad
    return _Canvas(title, Scale(x_low, x_high, LEFT, WIDTH - RIGHT), Scale(y_low, y_high, HEIGHT - BOTTOM, TOP))


def _widen(low: float, high: float) -> tuple[float, float]:
    """A range of some width even around a single value."""
    if high - low > 1e-9 * max(abs(low), abs(high), 1e-12):
        return low, high
    room = abs(low) * 0.1 or 1.0
    return low - room, high + room


def _path(canvas: _Canvas, x: Vector, y: Vector) -> str:
    return "M" + "L".join(f"{canvas.x(a):.1f} {canvas.y(b):.1f}" for a, b in zip(x, y, strict=True))


def _arrow(canvas: _Canvas, x: Vector, y: Vector, style: str) -> str:
    """A head at the end of a path, along the direction of its last twentieth."""
    back = max(2, x.size // 20)
    end = canvas.x(x[-1]), canvas.y(y[-1])
    begin = canvas.x(x[-min(back, x.size)]), canvas.y(y[-min(back, x.size)])
    if math.dist(end, begin) < 1e-6:
        return ""
    angle = math.degrees(math.atan2(end[1] - begin[1], end[0] - begin[0]))
    return f'<path class="head {style}" transform="translate({end[0]:.1f} {end[1]:.1f}) rotate({angle:.0f})" d="M4 0L-6 -5L-6 5Z"/>'


def _hover(line: Line, x: Vector, y: Vector, size: int | None = None) -> dict[str, object]:
    entry: dict[str, object] = {
        "n": line.name,
        "c": line.colour,
        "x": [_round(v) for v in x],
        "y": [_round(v) for v in y],
    }
    if line.labels:
        size = size or len(line.labels)
        keep = np.linspace(0, size - 1, x.size).round().astype(np.int64)
        entry["l"] = [line.labels[index] for index in keep]
    return entry


def _legend(lines: Sequence[Line]) -> tuple[tuple[str, int, str], ...]:
    return tuple((line.name, line.colour, "dashed" if line.dashed else "line") for line in lines if not line.faint)


def _empty(title: str) -> Drawing:
    return Drawing(
        Markup(
            f'<svg class="chart" viewBox="0 0 {WIDTH} 80" role="img" aria-label="{escape(title)}"><desc>no data</desc>'
            f'<text class="label" x="{WIDTH / 2}" y="44" text-anchor="middle">no finite numbers were logged</text></svg>'
        )
    )
