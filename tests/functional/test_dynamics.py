"""Curves that collapse, dip and recover."""

from __future__ import annotations

import math

import pytest

from fairlead.functional import (
    dip_depth,
    forgetting,
    growth,
    length_collapsed,
    length_retention,
    recovery_step,
    running_mean,
)

LENGTHS = (100, 60, 40, 45, 90, 120)
REWARDS = (1.0, 0.4, 0.6, 1.1, 1.6)


def test_curves_by_hand() -> None:
    assert length_retention(LENGTHS, 1) == pytest.approx(0.4) and growth(LENGTHS, 1) == pytest.approx(0.2)
    assert dip_depth(REWARDS, 1) == pytest.approx(0.5) and recovery_step(REWARDS, 1) == 3
    assert running_mean([4, 2, 0, 2], 2) == [4, 3, 1, 1]
    assert length_retention(LENGTHS, 2) == pytest.approx(0.425)  # the lowest pair is 40, 45


def test_curves_without_dip_or_end() -> None:
    assert dip_depth([1, 2, 3], 1) == 0 and recovery_step([1, 2, 3], 1) == 0
    assert dip_depth([3, 2, 1], 1) == math.inf and recovery_step([3, 2, 1], 1) is None
    with pytest.raises(ValueError, match="at least one value"):
        dip_depth([])
    with pytest.raises(ValueError, match="must be positive"):
        length_retention([0.0, 1.0])


def test_collapse_is_early_and_lasting() -> None:
    fall = [100.0, 60.0] + [60.0] * 18
    assert length_collapsed(fall, 1)
    assert not length_collapsed([100.0] * 10 + [60.0] * 10, 1), "late"
    assert not length_collapsed([100.0, 60.0, 80.0] + [95.0] * 17, 1), "made good"


def test_what_was_forgotten_by_hand() -> None:
    reinforced = [[0.97, 0.59, 0.76], [0.99, 0.99, 0.95], [1.00, 0.97, 1.00]]
    imitated = [[0.95, 0.50, 0.72], [0.98, 0.97, 0.89], [1.00, 0.93, 1.00]]
    assert forgetting(reinforced) == pytest.approx([0, 0.02, 0])
    assert forgetting(imitated) == pytest.approx([0, 0.04, 0])
    for wrong in ([], [[1.0], [1.0, 2.0]]):
        with pytest.raises(ValueError, match="a row for every stage"):
            forgetting(wrong)
