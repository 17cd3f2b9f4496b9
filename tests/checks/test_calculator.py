"""The calculator: exact, and nothing but arithmetic."""

from __future__ import annotations

import pytest

from fairlead.checks.calculator import calculate


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("15 + 17", "32"),
        ("(1 + 2) * -3", "-9"),
        ("47 / 2", "23.5"),
        ("-1/40", "-0.025"),
        ("1/3", "1/3"),
        ("0.1 + 0.2", "0.3"),
        ("2^10", "1024"),
        ("2 ** -1", "0.5"),
        ("7 % 4", "3"),
    ],
)
def test_values(expression: str, value: str) -> None:
    assert calculate(expression) == value


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("open('x')", "cannot compute"),
        ("True + 1", "cannot compute"),
        ("1 +", "cannot read"),
        ("2 ** 65", "at most 64"),
        ("4 ** 0.5", "at most 64"),
        ("1" * 201, "at most 200 characters"),
    ],
)
def test_refusals(expression: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calculate(expression)
