"""Statistics for reports: intervals, calibration, correlations, goodness of fit.

Knows lists of numbers (torch tensors on any device, numpy arrays, sequences), turns them into float64 and returns
Python floats. Does not know what was measured. Empty input, NaN and wrong shapes are errors: whoever leaves a number
out must say so before calling.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fairlead.functional._checks import require_range, require_same_shape
from fairlead.functional.masks import masked_variance

Numbers: TypeAlias = "Tensor | NDArray[np.generic] | Sequence[float] | Sequence[int] | Sequence[bool]"
Vector: TypeAlias = NDArray[np.float64]

RESAMPLING_ELEMENTS = 1 << 22  # numbers drawn at once by the bootstrap: 32 MiB


def bootstrap_interval(
    values: Numbers, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high) of the mean; the same seed gives the same interval.

    Source: Efron 1979. Assumes independent values: pass one number per prompt, not per token.

    Shapes: values [N].
    Raises: ValueError on bad input, level outside (0, 1), or fewer than one resample.
    """
    data = _vector("values", values)
    _require_level(level)
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    generator = np.random.default_rng(seed)
    step = max(1, RESAMPLING_ELEMENTS // data.size)
    means = np.empty(resamples)
    for start in range(0, resamples, step):
        stop = min(start + step, resamples)
        means[start:stop] = data[generator.integers(data.size, size=(stop - start, data.size))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def wilson_interval(successes: float, trials: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval (low, high) of a proportion. Half successes (ties) are allowed.

    Source: Wilson 1927.

    Raises: ValueError when trials is not positive, successes lies outside [0, trials], or level outside (0, 1).
    """
    _require_level(level)
    if not trials > 0:
        raise ValueError(f"trials must be positive, got {trials}")
    require_range("successes", successes, 0, trials)
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = successes / trials
    centre = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    # At 0 and at all successes the formula touches 0 and 1; rounding must not move it off.
    low = 0.0 if successes == 0 else (centre - spread) / scale
    high = 1.0 if successes == trials else (centre + spread) / scale
    return low, high


def reliability_curve(probability: Numbers, label: Numbers, bins: int = 10) -> tuple[Vector, Vector, NDArray[np.int64]]:
    """Mean predicted probability, share of positives, and count in each of `bins` equal bins of [0, 1].

    Bin k holds k / bins <= p < (k + 1) / bins; p = 1 is in the last. Empty bins have NaN, NaN, 0.

    Shapes: probability and label [N], labels 0 or 1; returns three arrays [bins].
    Raises: ValueError on bad input, probabilities outside [0, 1], labels other than 0 and 1, or bins < 1.
    """
    predicted, observed = _pair("probability", probability, "label", label)
    _require_binary(observed)
    if predicted.min() < 0 or predicted.max() > 1:
        raise ValueError("probability must lie in [0, 1]")
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    which = np.minimum((predicted * bins).astype(np.int64), bins - 1)
    count = np.bincount(which, minlength=bins).astype(np.int64)
    divisor = np.where(count > 0, count, np.nan)
    confidence = np.bincount(which, weights=predicted, minlength=bins) / divisor
    frequency = np.bincount(which, weights=observed, minlength=bins) / divisor
    return confidence, frequency, count


def expected_calibration_error(probability: Numbers, label: Numbers, bins: int = 10) -> float:
    """sum over bins of (count / N) |share of positives - mean predicted probability|; 0 is perfect.

    Source: Naeini et al. 2015; Guo et al. 2017 (arXiv 1706.04599, eq. 3).

    Shapes and errors: as in `reliability_curve`.
    """
    confidence, frequency, count = reliability_curve(probability, label, bins)
    filled = count > 0
    gap = np.abs(confidence[filled] - frequency[filled])
    return float((gap * count[filled]).sum() / count.sum())


def area_under_curve(score: Numbers, label: Numbers) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting half.

    Source: Hanley & McNeil 1982 (the Mann-Whitney statistic).

    Shapes: score and label [N], labels 0 or 1.
    Raises: ValueError on bad input, other labels, or when one class is missing.
    """
    scores, labels = _pair("score", score, "label", label)
    _require_binary(labels)
    positives = labels.sum()
    negatives = labels.size - positives
    if positives == 0 or negatives == 0:
        raise ValueError("the area under the curve needs both a positive and a negative label")
    rank_sum = _midranks(scores)[labels == 1].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


def chi_square(observed: Numbers, expected: Numbers) -> tuple[float, float]:
    """Pearson's chi-square statistic of counts against expected counts, and its p-value with K - 1 degrees of freedom.

    Cells that are expected and observed 0 times are left out of K; one that was observed although it is impossible
    gives (inf, 0). The p-value is trustworthy when expected counts are about 5 or more.

    Shapes: observed and expected [K], both counts with the same total.
    Raises: ValueError on bad input, negative counts, totals that differ, or fewer than two cells.
    """
    from scipy.special import chdtrc  # type: ignore[import-untyped, unused-ignore]  # slow import, needed only here

    counts, expectation = _pair("observed", observed, "expected", expected)
    if counts.min() < 0 or expectation.min() < 0:
        raise ValueError("observed and expected must not be negative")
    if not math.isclose(counts.sum(), expectation.sum(), rel_tol=1e-6):
        raise ValueError(
            f"observed and expected must have the same total, got {counts.sum():g} and {expectation.sum():g}"
        )
    if bool((counts[expectation == 0] > 0).any()):
        return math.inf, 0.0
    counts, expectation = counts[expectation > 0], expectation[expectation > 0]
    if counts.size < 2:
        raise ValueError("chi-square needs at least two possible cells")
    statistic = float(((counts - expectation) ** 2 / expectation).sum())
    return statistic, float(chdtrc(counts.size - 1, statistic))


def total_variation(p: Numbers, q: Numbers) -> float:
    """Total variation distance 1/2 sum |p - q|, in [0, 1].

    Shapes: p and q [K], each a distribution (sums are checked to 1e-3, which float32 meets).
    Raises: ValueError on bad input, or when p or q is no distribution.
    """
    first, second = _pair("p", p, "q", q)
    for name, distribution in (("p", first), ("q", second)):
        if distribution.min() < 0 or abs(distribution.sum() - 1) > 1e-3:
            raise ValueError(f"{name} must be a distribution, got sum {distribution.sum():g}")
    return float(0.5 * np.abs(first - second).sum())


def pearson(x: Numbers, y: Numbers) -> float:
    """Pearson's correlation in [-1, 1]; NaN when x or y is constant.

    Shapes: x and y [N], N >= 2.
    Raises: ValueError on bad input.
    """
    first, second = _pair("x", x, "y", y)
    if first.size < 2:
        raise ValueError("a correlation needs at least two points")
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return math.nan
    first, second = first - first.mean(), second - second.mean()
    value = (first / np.linalg.norm(first)) @ (second / np.linalg.norm(second))
    return float(min(max(value, -1.0), 1.0))


def spearman(x: Numbers, y: Numbers) -> float:
    """Spearman's rank correlation (ties get their mean rank); NaN when x or y is constant.

    Shapes: x and y [N], N >= 2.
    Raises: ValueError on bad input.
    """
    first, second = _pair("x", x, "y", y)
    return pearson(_midranks(first), _midranks(second))


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns) over the mask: 1 is a perfect critic, 0 no better than a constant.

    NaN when the returns do not vary.

    Shapes: all equal, [B, T] or any.
    Raises: ValueError when shapes differ.
    """
    require_same_shape(values=values, returns=returns, mask=mask)
    values, returns = values.detach().double(), returns.detach().double()
    total = float(masked_variance(returns, mask, unbiased=False))
    rest = float(masked_variance(returns - values, mask, unbiased=False))
    return 1.0 - rest / total if total > 0 else math.nan


def _vector(name: str, numbers: Numbers) -> Vector:
    array = numbers.detach().cpu().double().numpy() if isinstance(numbers, Tensor) else numbers
    vector: Vector = np.asarray(array, dtype=np.float64)
    if vector.ndim != 1:
        raise ValueError(f"{name} must have one dimension, got shape {list(vector.shape)}")
    if vector.size == 0:
        raise ValueError(f"{name} is empty")
    if np.isnan(vector).any():
        raise ValueError(f"{name} holds {int(np.isnan(vector).sum())} NaN")
    return vector


def _pair(name: str, numbers: Numbers, other_name: str, other: Numbers) -> tuple[Vector, Vector]:
    first, second = _vector(name, numbers), _vector(other_name, other)
    if first.size != second.size:
        raise ValueError(f"{name} has {first.size} numbers but {other_name} has {second.size}")
    return first, second


def _require_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must lie strictly between 0 and 1, got {level}")


def _require_binary(label: Vector) -> None:
    if not np.isin(label, (0.0, 1.0)).all():
        raise ValueError("label must hold only 0 and 1")


def _midranks(x: Vector) -> Vector:
    """Ranks from 1, equal numbers sharing the mean of their ranks."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Vector = (last - (counts - 1) / 2)[inverse]
    return ranks
