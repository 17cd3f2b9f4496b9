"""Bounds of costs as parts: which figure each takes, and what a missing cost counts as."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from fairlead import functional
from fairlead.constraints import Bound, MeanBound, ShareBound, TailBound

COSTS = torch.tensor([-1.2, -0.4, 0.3, -2.0, -0.7], dtype=torch.float64)


def test_the_mean_bound_by_hand() -> None:
    assert MeanBound()(COSTS, 0.05) == pytest.approx(0.022904, abs=1e-6)
    assert MeanBound()(COSTS, 0.1) == pytest.approx(-0.208174, abs=1e-6)
    hoeffding = MeanBound(method="hoeffding", lowest=-2, highest=1)(COSTS, 0.1)
    assert hoeffding == pytest.approx(-0.8 + 3 * math.sqrt(math.log(10) / 10))
    assert MeanBound(method="anderson", highest=1)(COSTS, 0.1) > -0.8
    with pytest.raises(ValueError, match="smallest and the largest"):
        MeanBound(method="hoeffding", lowest=-1, highest=1)(COSTS, 0.1)


def test_the_share_of_violations() -> None:
    assert ShareBound()(COSTS, 0.1) == functional.share_bound(1, 5, 0.1)
    assert ShareBound(threshold=-1.0)(COSTS, 0.1) == functional.share_bound(3, 5, 0.1)


def test_the_tail() -> None:
    assert TailBound(highest=1, tail=0.5)(COSTS, 0.1) == functional.tail_bound(COSTS, 0.1, 1, 0.5)
    assert TailBound(highest=1, tail=1.0)(COSTS, 0.1) < TailBound(highest=1, tail=0.5)(COSTS, 0.1)


def test_what_a_missing_cost_counts_as() -> None:
    assert MeanBound().missing is None and MeanBound(highest=2).missing == TailBound(highest=2).missing == 2
    assert ShareBound(threshold=1e9)(torch.tensor([0.0, ShareBound().missing]), 0.1) == functional.share_bound(
        1, 2, 0.1
    )


@pytest.mark.parametrize("fields", [{"method": "bernstein", "highest": 1}, {"method": "anderson"}])
def test_a_bound_that_needs_the_range_says_so(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="set lowest and highest"):
        MeanBound.model_validate(fields)
    with pytest.raises(ValidationError, match="must be below"):
        MeanBound(method="hoeffding", lowest=1, highest=1)


def test_the_slot_is_abstract() -> None:
    with pytest.raises(TypeError):
        Bound()  # type: ignore[abstract]
