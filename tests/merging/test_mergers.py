"""Mergers: every field on numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fairlead.merging import DARE, TIES, Linear, Merger, Slerp, TaskArithmetic

BASE = torch.tensor([1.0, 1.0, 1.0, 1.0])
MODELS = {"a": torch.tensor([4.0, 0.0, 1.5, -3.0]), "b": torch.tensor([-1.0, -4.0, 1.5, 2.0])}
"""Task vectors (3, −1, ½, −4) and (−2, −5, ½, 1)."""


@pytest.mark.parametrize(
    ("merger", "expected"),
    [
        (Linear(), [1.5, -2, 1.5, -0.5]),
        (Linear(weights={"b": 0.75, "a": 0.25}), [0.25, -3, 1.5, 0.75]),
        (Slerp(fraction=0.0), [4, 0, 1.5, -3]),
        (TaskArithmetic(), [1.4, -1.4, 1.4, -0.2]),
        (TaskArithmetic(scale=1.0, weights={"a": 1, "b": -1}), [6, 5, 1, -4]),
        (TIES(density=0.5), [4, -4, 1, -3]),
        (TIES(density=0.5, scale=0.5, weights={"a": 1, "b": 3}), [0, -1.5, 1, -1]),
        (DARE(drop=0.0), [1.5, -2, 1.5, -0.5]),
        (DARE(drop=0.0, combine="ties"), [4, -2, 1.5, -3]),
        (DARE(drop=0.0, weights={"a": 1, "b": 1}, scale=0.5), [1.5, -2, 1.5, -0.5]),
    ],
    ids=repr,
)
def test_merged(merger: Merger, expected: list[float]) -> None:
    merger.check(MODELS)
    assert merger(MODELS, BASE, "w").tolist() == pytest.approx(expected)


def test_dare_draws_for_every_tensor_and_model() -> None:
    models = {name: torch.ones(1000) for name in "ab"}
    base = torch.zeros(1000)

    def kept(seed: int, name: str, weights: dict[str, float]) -> Any:
        return DARE(drop=0.5, seed=seed, rescale=False, weights=weights)(models, base, name)

    first = kept(0, "w", {"a": 1, "b": 0})
    assert first.unique().tolist() == [0, 1] and torch.equal(first, kept(0, "w", {"a": 1, "b": 0}))
    for other in (kept(0, "w", {"a": 0, "b": 1}), kept(0, "v", {"a": 1, "b": 0}), kept(1, "w", {"a": 1, "b": 0})):
        assert 350 < int((first != other).sum()) < 650
    assert DARE(drop=0.5)(models, base, "w").max() == 2  # rescaled


@pytest.mark.parametrize(
    ("merger", "message"),
    [
        (Linear(weights={"a": 1, "c": 0}), "no model 'c' to give a weight to"),
        (Linear(weights={"a": 1}), "weights of b are missing"),
        (Linear(weights={"a": 1, "b": 1}), "must sum to 1, these to 2"),
        (Slerp(weights={"a": 1, "b": 0}), "`fraction` is the share"),
        (TIES(weights={"a": 1, "b": -1}), "votes for a sign"),
        (DARE(combine="ties", weights={"a": 0, "b": 0}), "votes for a sign"),
    ],
    ids=repr,
)
def test_settings_that_do_not_fit(merger: Merger, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        merger.check(MODELS)
    with pytest.raises(ValueError, match="lies between two models, there are 3"):
        Slerp().check(["a", "b", "c"])
