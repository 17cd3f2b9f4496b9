"""The exact checks of the sheet: parsing and verifying, units, numeric equality."""

from __future__ import annotations

import math

import pytest

from fairlead.checks.maths import answer_in, equal, equivalent, score
from fairlead.checks.quantities import UnitError, convert

pytest.importorskip("math_verify")

PAIRS = [
    ("1/2", "0.5", True),
    ("1/3", "0.333333", True),
    ("1/3", "0.333", False),
    ("10\\%", "0.1", True),
    (r"\{1,3\}\cup\{2,4\}", r"\{1,2,3,4\}", True),
    ("(1,2)", "[1,2]", False),
    ("5", "x=5", True),
    ("1<x<2", "(1,2)", True),
    ("(1,2)", "1<x<2", False),
    ("32/11", "2.909", False),
    ("101", "1+100=101", True),
    ("1+100=101", "101", False),
    ("x^2-1", "(x-1)(x+1)", True),
    ("1,234", "1234", True),
    ("(1,234)", "1234", False),
    ("5", "", False),
]


@pytest.mark.parametrize("preset", ["reward", "evaluation"])
@pytest.mark.parametrize(("gold", "prediction", "same"), PAIRS)
def test_equal(gold: str, prediction: str, same: bool, preset: str) -> None:
    assert equal(f"So it is \\boxed{{{prediction}}}.", gold, preset) is same  # type: ignore[arg-type]


@pytest.mark.parametrize("gold", ["1/2", "x=5", "1<x<2", "(1,2)", r"\{1,2\}", "x^2-1", r"\sqrt{2}", "10\\%"])
def test_equal_is_reflexive(gold: str) -> None:
    assert equal(f"\\boxed{{{gold}}}", gold, "reward")


def test_which_answer_counts() -> None:
    assert equal("\\boxed{3}, no: \\boxed{5}", "5", "reward") and not equal("\\boxed{5}, no: \\boxed{3}", "5", "reward")
    assert equal("<think>\\boxed{3}</think>\\boxed{5}", "5", "reward")
    assert not equal("<think>\\boxed{5}</think>\\boxed{3}", "5", "reward")
    assert not equal("The answer is 5.", "5", "reward") and equal("The answer is 5.", "5", "evaluation")
    assert not equal("\\boxed{\\frac12}", "1/2", "reward") and equal("\\boxed{\\frac12}", "1/2", "evaluation")
    assert not equal("", "5", "evaluation") and not equal("\\boxed{5", "5", "reward")


def test_settings() -> None:
    assert not equal("\\boxed{2.909}", "32/11", "reward", 6) and equal("\\boxed{2.909}", "32/11", "reward", 2)
    assert equal("\\boxed{5 \\text{ cm}}", "5 m", "reward")
    assert not equal("\\boxed{5 \\text{ cm}}", "5 m", "reward", units="compare")
    assert equal("\\boxed{5 \\text{ m}}", "5 m", "reward", units="compare")
    assert score("\\boxed{3}", [2, 3], "reward", 6, "drop") == 1.0
    with pytest.raises(ValueError, match="no mathematical expression"):
        score("\\boxed{3}", "", "reward", 6, "drop")


def test_the_answer_as_text() -> None:
    assert answer_in("\\boxed{1} \\boxed{\\frac{1}{2}} x") == "\\frac{1}{2}"
    assert answer_in("The final answer is 3 m.") == "3 m" and answer_in("Answer: B") == "B"
    assert answer_in("nothing") is None and answer_in("\\boxed{}") is None and answer_in("\\boxed{1") is None


@pytest.mark.parametrize(
    ("answer", "gold", "same"),
    [
        ("72 km/h", "20 m/s", True),
        (r"72\text{ km/h}", "20 m/s", True),
        ("5 cm", "5 m", False),
        ("5", "5 m", True),
        ("5 kg", "5 m", False),
        ("2.91", "32/11", True),
        ("2.90", "32/11", False),
        ("2.9", "32/11", False),
        ("3.14", r"\pi", True),
        ("0.00", "0.004", False),
        ("0.0040", "0.00404", True),
        ("1500", "1504", False),
        ("(x-1)(x+1)", "x^2-1", True),
        ("(x-1)(x+2)", "x^2-1", False),
        ("x+1", "y+1", False),
        ("2/4", "1/2", True),
        ("b", "B", True),
        ("B", "C", False),
        ("1<x", "x>1", False),
    ],
)
def test_equivalent_by_tools(answer: str, gold: str, same: bool) -> None:
    assert equivalent(answer, gold) is same


def test_two_decimals_are_a_setting() -> None:
    assert equivalent("2.9", "32/11", decimals=1) and not equivalent("2.91", "32/11", decimals=6)


def test_forms_of_the_trajectory_agree() -> None:
    left = r"x \tan(a) - \frac{g x^2}{2 v^2 \cos(a)^2}"
    right = r"x \tan(a) - \frac{g x^2 \tan(a)^2}{2 v^2} - \frac{g x^2}{2 v^2}"
    assert equivalent(left, right)
    a, g, v, x = 1.0, 9.8, 10.0, 1.0
    one = x * math.tan(a) - g * x**2 / (2 * v**2 * math.cos(a) ** 2)
    other = x * math.tan(a) - g * x**2 * math.tan(a) ** 2 / (2 * v**2) - g * x**2 / (2 * v**2)
    assert one == pytest.approx(1.38955730, abs=5e-9) and other == pytest.approx(one, abs=1e-12)


def test_units() -> None:
    assert convert(0.01, "km/s^2", "m/s^2") == pytest.approx(10)
    assert convert(72, "km/h", "m/s") == pytest.approx(20)
    assert convert(1, "N", "kg*m/s^2") == 1.0 and convert(1, "kWh", "MJ") == pytest.approx(3.6)
    assert convert(100, "°C", "°F") == pytest.approx(212) and convert(0, "degC", "K") == 273.15
    assert convert(2, "hours", "minutes") == 120 and convert(3, "kilometers", "m") == 3000
    assert convert(1, "m^-1", "1/m") == 1.0
    with pytest.raises(UnitError, match=r"cannot convert kg \(kg\^1\) to m \(m\^1\)"):
        convert(1, "kg", "m")
    for text in ("blub", "m+s", "", "m^", "__import__('os')"):
        with pytest.raises(UnitError):
            convert(1, text, "m")


def test_an_answer_that_takes_for_ever_is_wrong() -> None:
    assert not equivalent("9^{9^{9^{9}}}", "5")
