"""One-sided confidence bounds: what the mean, the tail or the share of something is at most, with probability 1 − δ.

Knows independent, identically distributed numbers. Does not know where they come from.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fairlead.functional._checks import require_choice, require_dimensions

__all__ = ["MEAN_BOUNDS", "mean_bound", "share_bound", "student_quantile", "tail_bound"]

MEAN_BOUNDS = ("student", "hoeffding", "bernstein", "anderson", "bootstrap")
_RESAMPLES = 10_000


def student_quantile(level: float, degrees: int) -> float:
    """Quantile of Student's t distribution.

    Raises: ValueError when level lies outside (0, 1) or degrees is below 1.
    """
    from scipy.special import stdtrit  # type: ignore[import-untyped, unused-ignore]  # slow import, needed only here

    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    if degrees < 1:
        raise ValueError(f"Student's t needs two numbers or more, got {degrees + 1}")
    return float(stdtrit(degrees, level))


def mean_bound(
    costs: Tensor, delta: float, bound: str = "student", low: float | None = None, high: float | None = None
) -> float:
    """U with Pr(true mean > U) ≤ δ.

    "student" m + t(1 − δ, n − 1) s / √n, exact for normal means and too small for right-skewed costs · "bootstrap" the 1 − δ
    quantile of 10,000 resampled means, from a fixed seed; approximate too · for costs in [low, high], without any further
    assumption: "hoeffding" (Hoeffding 1963), "bernstein" (Maurer and Pontil 2009, theorem 4), "anderson" (Anderson 1969, with
    the constant of Massart 1990; needs `high` only).

    Shapes: costs [n].
    Raises: ValueError for fewer than two costs, costs that are not finite, an unknown bound, a delta outside (0, 0.5], or where
    `low` and `high` are needed and are missing or do not hold the costs.
    """
    costs = _checked(costs, delta)
    require_choice("bound", bound, MEAN_BOUNDS)
    if bound == "anderson":
        return tail_bound(costs, delta, high)
    count, mean, deviation = len(costs), float(costs.mean()), float(costs.std())
    if bound == "student":
        return mean + student_quantile(1 - delta, count - 1) * deviation / math.sqrt(count)
    if bound == "bootstrap":
        generator = torch.Generator().manual_seed(0)
        means = [
            costs[torch.randint(count, (100, count), generator=generator)].mean(1) for _ in range(_RESAMPLES // 100)
        ]
        return float(torch.cat(means).quantile(1 - delta))
    if low is None or high is None or float(costs.min()) < low or float(costs.max()) > high:
        raise ValueError(f"bound {bound} needs the smallest and the largest possible cost; {_range(costs)}")
    if bound == "hoeffding":
        return mean + (high - low) * math.sqrt(math.log(1 / delta) / (2 * count))
    logarithm = math.log(2 / delta)
    return mean + deviation * math.sqrt(2 * logarithm / count) + 7 * (high - low) * logarithm / (3 * (count - 1))


def tail_bound(costs: Tensor, delta: float, high: float | None, tail: float = 1.0) -> float:
    """U with Pr(mean of the worst `tail` of all costs > U) ≤ δ: the conditional value at risk; tail 1 is the mean.

    A share ε = √(ln(1/δ) / 2n) of the smallest costs is taken to have been `high`, which no distribution exceeds that the
    observed costs allow (Dvoretzky–Kiefer–Wolfowitz inequality, constant of Massart 1990).

    Shapes: costs [n]. Raises: ValueError as `mean_bound`, and for a tail outside (0, 1].
    """
    costs = _checked(costs, delta)
    if not 0 < tail <= 1:
        raise ValueError(f"tail must lie in (0, 1], got {tail}")
    if high is None or float(costs.max()) > high:
        raise ValueError(f"this bound needs the largest possible cost; {_range(costs)}")
    share = min(math.sqrt(math.log(1 / delta) / (2 * len(costs))), tail)
    weight = torch.full_like(costs, 1 / len(costs))
    taken = (tail - share - (weight.cumsum(0) - weight)).clamp(min=0.0).minimum(weight)
    return float((share * high + (taken * costs.sort(descending=True).values).sum()) / tail)


def share_bound(hits: int, count: int, delta: float) -> float:
    """Clopper and Pearson's upper bound of a probability: exact for `hits` out of `count` independent trials.

    Raises: ValueError unless 0 ≤ hits ≤ count, count ≥ 1 and delta lies in (0, 0.5].
    """
    from scipy.special import betaincinv  # type: ignore[import-untyped, unused-ignore]  # slow import, needed only here

    _require_delta(delta)
    if not 0 <= hits <= count or count < 1:
        raise ValueError(f"got {hits} hits in {count} trials")
    return 1.0 if hits == count else float(betaincinv(hits + 1, count - hits, 1 - delta))


def _checked(costs: Tensor, delta: float) -> Tensor:
    require_dimensions("costs", costs, "n")
    _require_delta(delta)
    if len(costs) < 2 or not bool(costs.isfinite().all()):
        raise ValueError(f"a bound needs two finite costs or more, got {len(costs)} of which some may be no numbers")
    return costs.detach().double()


def _require_delta(delta: float) -> None:
    if not 0 < delta <= 0.5:
        raise ValueError(f"delta must lie in (0, 0.5], got {delta}")


def _range(costs: Tensor) -> str:
    return f"those observed go from {float(costs.min()):g} to {float(costs.max()):g}"
