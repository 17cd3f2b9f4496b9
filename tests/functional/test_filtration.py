"""Weights of ranks and the R² that chooses among filters."""

from __future__ import annotations

import pytest
import torch

from fairlead import functional


def test_weights_of_ranks() -> None:
    assert functional.rank_weights("best-random", 5).tolist() == [0.5, 0.125, 0.125, 0.125, 0.125]
    assert functional.rank_weights("best-worst", 5).tolist() == [0.5, 0, 0, 0, 0.5]
    assert functional.rank_weights("extremes", 5, 2).tolist() == [0.25, 0.25, 0, 0.25, 0.25]
    assert functional.rank_weights("best", 3).tolist() == [1, 0, 0]
    for name in functional.FILTERS:
        for count in range(1, 9):
            assert float(functional.rank_weights(name, count, 3).sum()) == pytest.approx(1)
        assert functional.rank_weights(name, 1).tolist() == [1]
    for name in ("best-random", "best-worst", "none"):
        assert functional.rank_weights(name, 2).tolist() == [0.5, 0.5]
    ranks = torch.arange(1, 8).double()
    for name in ("best-worst", "none"):
        assert float(functional.rank_weights(name, 7) @ ranks) == pytest.approx(4)
    with pytest.raises(ValueError, match="unknown filter"):
        functional.rank_weights("worst", 2)


def test_weights_of_rows() -> None:
    score = torch.tensor([2.0, 7.0, -1.0, 0.5, 7.0, -3.0, 1.0, float("nan")])
    group = torch.tensor([0, 9, 0, 0, 9, 0, 0, 9])
    power = functional.filter_weights(score, group, power=2.0)
    expected = torch.tensor([0.262295, 0.065574, 0.016393, 0.590164, 0.065574]).double()
    torch.testing.assert_close(power[group == 0], expected, atol=1e-6, rtol=0)
    assert functional.filter_weights(score, group).tolist() == [0.5, 0.5, 0, 0, 0.5, 0.5, 0, 0]
    assert functional.filter_weights(score, group, "best").tolist() == [1, 1, 0, 0, 0, 0, 0, 0]  # ties keep their order
    with pytest.raises(ValueError, match="5 weights of ranks but 2 responses"):
        functional.filter_weights(score, group, ranks=[1.0] * 5)


def test_r_squared() -> None:
    score, even = torch.tensor([1.0, 2.0, 4.0]), torch.ones(3)
    assert functional.weighted_r_squared(score, 3 * score - 1, even) == pytest.approx(1)
    truth = torch.tensor([0.0, 1.0, 1.0])
    # Cov = 4/9, Var = 14/9 and 2/9: (16/81) / (28/81)
    assert functional.weighted_r_squared(score, truth, even) == pytest.approx(16 / 28)
    assert functional.weighted_r_squared(-5 * score + 2, truth / 7, even) == pytest.approx(16 / 28)
    assert functional.weighted_r_squared(score, truth, torch.tensor([1.0, 0, 1])) == pytest.approx(1)
    assert functional.weighted_r_squared(torch.ones(3), truth, even) == 0
    assert functional.weighted_r_squared(score, truth, torch.zeros(3)) == 0
