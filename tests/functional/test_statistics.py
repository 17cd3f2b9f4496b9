"""Intervals, calibration, correlations, goodness of fit."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from fairlead import functional


def test_wilson_by_hand() -> None:
    # 8 of 10, z = 1.959964: centre (.8 + .192073) / 1.384146 = .716740, spread .226586
    assert functional.wilson_interval(8, 10) == pytest.approx((0.490162, 0.943318), abs=1e-6)
    low, high = functional.wilson_interval(0, 10)
    assert low == 0
    assert high == pytest.approx(0.277533, abs=1e-6)  # z^2 / (n + z^2)
    assert functional.wilson_interval(10, 10) == pytest.approx((1 - high, 1))
    assert functional.wilson_interval(5.5, 10)[0] < 0.55 < functional.wilson_interval(5.5, 10)[1]


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_wilson_equals_scipy(level: float) -> None:
    expected = stats.binomtest(13, 40).proportion_ci(level, method="wilson")
    assert functional.wilson_interval(13, 40, level) == pytest.approx((expected.low, expected.high))


def test_bootstrap() -> None:
    values = np.random.default_rng(0).normal(2.0, 1.0, 400)
    low, high = functional.bootstrap_interval(values)
    centre, half = values.mean(), 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((centre - half, centre + half), abs=0.015)
    assert functional.bootstrap_interval(torch.tensor(values)) == (low, high)
    assert functional.bootstrap_interval(values, seed=1) != (low, high)
    narrow = functional.bootstrap_interval(values, level=0.5)
    assert low < narrow[0] < narrow[1] < high
    assert functional.bootstrap_interval([3.0, 3.0, 3.0]) == (3, 3)


def test_bootstrap_covers_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    hits = 0
    for _ in range(300):
        low, high = functional.bootstrap_interval(generator.normal(size=60), level=0.9, resamples=200)
        hits += low <= 0 <= high
    assert 0.84 < hits / 300 < 0.95


def test_calibration_by_hand() -> None:
    probability = [0.1, 0.15, 0.72, 0.78, 1.0]
    label = [0, 1, 1, 1, 0]
    confidence, frequency, count = functional.reliability_curve(probability, label, bins=10)
    assert count.tolist() == [0, 2, 0, 0, 0, 0, 0, 2, 0, 1]
    assert confidence[[1, 7, 9]].tolist() == pytest.approx([0.125, 0.75, 1])
    assert frequency[[1, 7, 9]].tolist() == pytest.approx([0.5, 1, 0])
    assert np.isnan(confidence[0])
    # (2 * .375 + 2 * .25 + 1 * 1) / 5
    assert functional.expected_calibration_error(probability, label) == pytest.approx(0.45)
    # two bins: (2 * .375 + 3 * |2/3 - 2.5/3|) / 5
    assert functional.expected_calibration_error(probability, label, bins=2) == pytest.approx(0.25)


def test_a_calibrated_forecast_has_small_error() -> None:
    generator = np.random.default_rng(0)
    probability = generator.random(50_000)
    label = generator.random(50_000) < probability
    assert functional.expected_calibration_error(probability, label) < 0.01
    assert functional.expected_calibration_error(probability**2, label) > 0.1


def test_area_under_curve_by_hand() -> None:
    # positives .8 and .35 against negatives .1 and .4: 3 of 4 pairs in order
    assert functional.area_under_curve([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]) == 0.75
    assert functional.area_under_curve([0.5, 0.5, 0.5], [0, 1, 1]) == 0.5
    assert functional.area_under_curve(torch.tensor([1.0, 2.0]), torch.tensor([False, True])) == 1


def test_area_under_curve_equals_the_count_of_pairs() -> None:
    generator = np.random.default_rng(2)
    score, label = generator.integers(0, 6, 60), generator.random(60) < 0.4
    difference = score[label][:, None] - score[~label][None]
    expected = ((difference > 0) + 0.5 * (difference == 0)).mean()
    assert functional.area_under_curve(score, label) == pytest.approx(expected)


def test_chi_square_by_hand() -> None:
    # (10 - 15)^2 / 15 * 2 + 0 = 3.333333; with 2 degrees of freedom the p-value is exp(-statistic / 2)
    statistic, p_value = functional.chi_square([10, 15, 20], [15, 15, 15])
    assert statistic == pytest.approx(10 / 3)
    assert p_value == pytest.approx(math.exp(-5 / 3))
    assert functional.chi_square([10, 15, 20, 0], [15, 15, 15, 0]) == (statistic, p_value)
    assert functional.chi_square([14, 15, 15, 1], [15, 15, 15, 0]) == (math.inf, 0)
    expected = stats.chisquare([3, 7, 9, 1], [5, 5, 5, 5])
    assert functional.chi_square([3, 7, 9, 1], [5, 5, 5, 5]) == pytest.approx(tuple(expected))


def test_total_variation() -> None:
    assert functional.total_variation([0.5, 0.3, 0.2], [0.2, 0.5, 0.3]) == pytest.approx(0.3)
    assert functional.total_variation(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])) == 1


def test_correlations() -> None:
    x, y = [1.0, 2.0, 3.0, 4.0], [2.0, 1.0, 4.0, 30.0]
    assert functional.pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic)
    assert functional.spearman(x, y) == pytest.approx(0.8)  # 1 - 6 * 2 / (4 * 15)
    assert functional.pearson(x, [-2 * value for value in x]) == pytest.approx(-1)
    assert functional.spearman(x, np.exp(x)) == pytest.approx(1)
    assert math.isnan(functional.pearson(x, [0.1] * 4))
    generator = np.random.default_rng(0)
    first, second = generator.integers(0, 5, 40), generator.integers(0, 5, 40)
    assert functional.spearman(first, second) == pytest.approx(stats.spearmanr(first, second).statistic)


def test_explained_variance() -> None:
    returns = torch.tensor([[1.0, 2.0, 3.0, float("nan")]])
    mask = torch.tensor([[1, 1, 1, 0]])
    assert functional.explained_variance(returns + 5, returns, mask) == 1
    assert functional.explained_variance(torch.zeros(1, 4), returns, mask) == 0
    # errors (.5, 0, -.5): 1 - (1/6) / (2/3)
    values = torch.tensor([[0.5, 2.0, 3.5, float("inf")]])
    assert functional.explained_variance(values, returns, mask) == pytest.approx(0.75)
    assert functional.explained_variance(-returns, returns, mask) == pytest.approx(-3)
    assert math.isnan(functional.explained_variance(returns, torch.ones(1, 4), mask))


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="values is empty"):
        functional.bootstrap_interval([])
    with pytest.raises(ValueError, match="values holds 1 NaN"):
        functional.bootstrap_interval([1.0, math.nan])
    with pytest.raises(ValueError, match="one dimension"):
        functional.bootstrap_interval(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="level"):
        functional.bootstrap_interval([1.0], level=1.0)
    with pytest.raises(ValueError, match="resamples"):
        functional.bootstrap_interval([1.0], resamples=0)
    with pytest.raises(ValueError, match="trials must be positive"):
        functional.wilson_interval(0, 0)
    with pytest.raises(ValueError, match="successes must lie in"):
        functional.wilson_interval(3, 2)
    with pytest.raises(ValueError, match="only 0 and 1"):
        functional.expected_calibration_error([0.5], [2])
    with pytest.raises(ValueError, match="probability must lie"):
        functional.reliability_curve([1.5], [1])
    with pytest.raises(ValueError, match="bins"):
        functional.reliability_curve([0.5], [1], bins=0)
    with pytest.raises(ValueError, match="both a positive and a negative"):
        functional.area_under_curve([0.5, 0.6], [1, 1])
    with pytest.raises(ValueError, match="same total"):
        functional.chi_square([1, 2], [1, 1])
    with pytest.raises(ValueError, match="two possible cells"):
        functional.chi_square([2, 0], [2, 0])
    with pytest.raises(ValueError, match="q must be a distribution"):
        functional.total_variation([1.0, 0.0], [1.0, 1.0])
    with pytest.raises(ValueError, match="x has 2 numbers but y has 3"):
        functional.pearson([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="two points"):
        functional.spearman([1], [1])
    with pytest.raises(ValueError, match="shapes must be equal"):
        functional.explained_variance(torch.zeros(2), torch.zeros(3), torch.zeros(3))
