"""Figures that are watched: by hand."""

from __future__ import annotations

import math

import pytest
import torch

from fairlead.functional import explained_variance, goodness_of_fit, repeated_ngrams


def test_repeated_ngrams() -> None:
    tokens = torch.tensor([[1, 2, 1, 2, 1], [3, 3, 3, 3, 9], [1, 2, 3, 4, 5], [7, 7, 7, 7, 7]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]]).bool()
    # 12 21 12 21: two of four are new; 33 33 33: one of three; all new; no pair at all.
    torch.testing.assert_close(repeated_ngrams(tokens, mask, 2), torch.tensor([2 / 4, 2 / 3, 0, 0]))
    torch.testing.assert_close(repeated_ngrams(tokens, mask, 1), torch.tensor([3 / 5, 3 / 4, 0, 0]))
    assert repeated_ngrams(tokens, mask, 5).tolist() == [0, 0, 0, 0]
    with pytest.raises(ValueError, match="n must be"):
        repeated_ngrams(tokens, mask, 0)


def test_order_of_tokens_counts() -> None:
    tokens = torch.tensor([[1, 2, 2, 1, 150_000, 0, 0, 150_000]])
    assert repeated_ngrams(tokens, torch.ones_like(tokens), 2).tolist() == [0]


def test_the_fit_falls_with_an_offset_that_explained_variance_does_not_see() -> None:
    returns, mask = torch.tensor([[0.0, 2.0], [4.0, 99.0]]), torch.tensor([[1, 1], [1, 0]]).bool()
    assert goodness_of_fit(returns, returns, mask) == 1
    assert goodness_of_fit(torch.full_like(returns, 2.0), returns, mask) == pytest.approx(0)
    # Variance 8/3 and an error of 4² everywhere.
    assert goodness_of_fit(returns + 4, returns, mask) == pytest.approx(1 - 16 / (8 / 3))
    assert explained_variance(returns + 4, returns, mask) == pytest.approx(1)
    assert math.isnan(goodness_of_fit(returns, torch.ones_like(returns), mask))
