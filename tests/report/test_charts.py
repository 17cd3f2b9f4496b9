"""Charts: scales, numbers, smoothing, and SVG that survives odd input."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import numpy as np
import pytest

from fairlead.report.charts import (
    Bar,
    Drawing,
    Guide,
    Line,
    bar_chart,
    line_chart,
    path_chart,
    reliability_chart,
    share_chart,
    smooth,
    stacked_chart,
)
from fairlead.report.charts.canvas import Scale
from fairlead.report.numbers import format_number, format_percent, format_seconds

X = np.arange(1.0, 101.0)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (-0.5, "−0.5"), (1234.4, "1,234"), (12_345.0, "12.3k"), (2_500_000.0, "2.5M"), (0.12345, "0.123"),
     (None, "—"), (float("nan"), "—"), (999_900.0, "1M")],
)  # fmt: skip
def test_format_number(value: float | None, text: str) -> None:
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [(format_percent(0.256), "26\u00a0%"), (format_percent(-0.05, 1), "−5.0\u00a0%"), (format_percent(None), "—"),
     (format_seconds(3.14), "3.1 s"), (format_seconds(61.0), "61 s"), (format_seconds(600.0), "10 min"),
     (format_seconds(3720.0), "1 h 02 min"), (format_seconds(None), "—")],
)  # fmt: skip
def test_percentages_and_seconds(text: str, expected: str) -> None:
    assert text == expected


def test_ticks_are_round_and_inside() -> None:
    assert Scale(0.0, 1.0, 0, 100).ticks() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert all(-3.7 <= tick <= 12.2 for tick in Scale(-3.7, 12.2, 0, 1).ticks())


def test_smoothing_keeps_a_constant_and_has_no_lag() -> None:
    assert smooth(np.ones(50)) == pytest.approx(np.ones(50))
    ramp = np.arange(200.0)
    assert smooth(ramp)[50:150] == pytest.approx(ramp[50:150])
    short = np.array([1.0, 5.0])
    assert smooth(short) is short


def parse(drawing: Drawing) -> ElementTree.Element:
    return ElementTree.fromstring(str(drawing.svg))


@pytest.mark.parametrize(
    "drawing",
    [
        line_chart([Line("a<b>", X, np.sin(X))], title='t"<', y_label="<y>", guides=[Guide(0.5, "&")]),
        line_chart([Line("one", X[:1], X[:1])], title="one point"),
        line_chart([Line("flat", X, np.zeros(100))], title="flat"),
        line_chart([Line("huge", X, X * 1e12), Line("tiny", X, X * 1e-12)], title="wide"),
        line_chart([], title="empty"),
        path_chart([Line("p", np.sqrt(X), X, labels=tuple(map(str, X)))], title="path", x_label="x", y_label="y"),
        path_chart([Line("still", np.ones(3), np.ones(3))], title="still", x_label="x", y_label="y"),
        stacked_chart([Line("a", X, X), Line("b", X, X)], title="stack"),
        stacked_chart([Line("a", X[:1], X[:1])], title="stack of one"),
        bar_chart([Bar("<a>", 0.5, 0.4, 0.6), Bar("b" * 60, -3.0)], title="bars", guide=Guide(0.1, "g")),
        bar_chart([Bar("a", float("nan"))], title="no bars"),
        bar_chart([Bar("a", 0.0)], title="zero", from_zero=False),
        share_chart([("a", (0.5, 0.2, 0.3))], ("w", "t", "l"), title="shares", colours=(1, 0, 2)),
        reliability_chart([[0.1, 0.2, 10], [0.9, 0.8, 40]], title="reliability"),
        reliability_chart([], title="no pairs"),
    ],
)
def test_every_chart_is_well_formed_named_and_finite(drawing: Drawing) -> None:
    root = parse(drawing)
    assert root.attrib["aria-label"]
    assert root.find("desc") is not None
    assert "nan" not in str(drawing.svg).lower().replace("finite", "") and "inf" not in str(drawing.svg).replace(
        "finite", ""
    )


def test_hover_values_are_the_data() -> None:
    root = parse(line_chart([Line("a", X[:5], X[:5] * 2)], title="t"))
    hover = json.loads(root.attrib["data-hover"])
    assert hover["s"][0]["x"] == [1, 2, 3, 4, 5]
    assert hover["s"][0]["y"] == [2, 4, 6, 8, 10]


def test_long_series_are_thinned_but_keep_their_ends() -> None:
    x = np.arange(20_000.0)
    drawing = line_chart([Line("a", x, np.random.default_rng(0).normal(size=x.size))], title="t", points=100)
    hover = json.loads(parse(drawing).attrib["data-hover"])
    assert len(str(drawing.svg)) < 12_000
    assert (hover["s"][0]["x"][0], hover["s"][0]["x"][-1]) == (0, 20_000)  # four significant digits
