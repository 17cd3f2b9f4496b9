"""Learning under constraints: Lagrangians, their multipliers, pessimistic costs, the loss of a cost model.

Knows rewards, costs, multipliers. Does not know models, batches, or whether a limit is really kept (`confidence`).
A cost is better when lower; multipliers are not negative.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from fairlead.functional._checks import require_dimensions, require_positive, require_same_shape
from fairlead.functional.confidence import student_quantile

__all__ = ["cost_model_loss", "dual_ascent", "lagrangian", "pessimism", "pessimistic_cost"]

_SMALLEST_DEVIATION = 1e-8


def lagrangian(
    reward: Tensor, costs: Sequence[Tensor], multipliers: Sequence[float], normalised: Sequence[bool] | None = None
) -> Tensor:
    """(R − Σ λ C) / (1 + Σ λ), the second sum over the constraints that are `normalised` (None: all).

    Credit that is linear in rewards and values, such as GAE, gives the same for advantages, rewards and values: the advantage
    of the mixture is (A_R − λ A_C) / (1 + λ).
    Source: Dai et al. 2023 (Safe RLHF, arXiv 2310.12773), section 3.3 and appendix B.

    Shapes: reward and every cost equal; returns the same.
    Raises: ValueError on other shapes, unequal numbers, or a negative multiplier.
    """
    normalised = [True] * len(costs) if normalised is None else normalised
    if not len(costs) == len(multipliers) == len(normalised):
        raise ValueError(f"got {len(costs)} costs, {len(multipliers)} multipliers and {len(normalised)} switches")
    if any(not multiplier >= 0 for multiplier in multipliers):
        raise ValueError(f"multipliers must not be negative, got {list(multipliers)}")
    total, scale = reward, 1.0
    for number, (cost, multiplier, divides) in enumerate(zip(costs, multipliers, normalised, strict=True)):
        require_same_shape(**{"reward": reward, f"cost {number}": cost})
        total = total - multiplier * cost
        scale += multiplier if divides else 0.0
    return total / scale


def dual_ascent(
    multiplier: Tensor, excess: Tensor, rate: float, logarithmic: bool = True, maximum: float = math.inf
) -> Tensor:
    """The multiplier after a step uphill on λ · (cost − limit).

    Logarithmic: ln λ moves by rate · λ · excess, which keeps λ positive; else λ moves by rate · excess and is cut at 0.
    Source: Dai et al. 2023 (arXiv 2310.12773), appendix B, on ln λ; plain dual ascent in its place.

    Shapes: multiplier and excess equal (any); returns the same.
    Raises: ValueError on other shapes, a negative rate, or a maximum that is not positive.
    """
    require_same_shape(multiplier=multiplier, excess=excess)
    require_positive("maximum", maximum)
    if not rate >= 0:
        raise ValueError(f"rate must not be negative, got {rate}")
    if logarithmic:
        moved = multiplier * (rate * multiplier * excess).exp()
    else:
        moved = (multiplier + rate * excess).clamp(min=0.0)
    return moved.clamp(max=maximum)


def pessimism(delta: float, count: int, test_count: int, train_factor: float = 1.0, test_factor: float = 1.0) -> float:
    """How many standard deviations the mean of `count` costs is inflated by, so that a later test on `test_count` may pass.

    k = C₁ t(1 − δ, n − 1) / √n + C₂ t(1 − δ, n_s − 1) / √n_s.
    Source: HC-RLHF (arXiv 2506.08266) and its released code.

    Raises: ValueError when a count is below 2, a factor is negative, or delta lies outside (0, 1).
    """
    if min(train_factor, test_factor) < 0:
        raise ValueError(f"factors must not be negative, got {train_factor} and {test_factor}")

    def term(factor: float, number: int) -> float:
        return factor * student_quantile(1 - delta, number - 1) / math.sqrt(number)

    return term(train_factor, count) + term(test_factor, test_count)


def pessimistic_cost(cost: Tensor, mean: Tensor | float, deviation: Tensor | float, k: float) -> Tensor:
    """C + k (C² − 2 m C) / (2 s): the cost whose policy gradient is that of m + k s, the inflated mean.

    Source: the score-function gradient of mean and standard deviation, as HC-RLHF (arXiv 2506.08266) inflates the constraint.

    Shapes: cost any, mean and deviation numbers or of shapes that broadcast; returns the shape of cost. A deviation of 0 counts
    as 1e-8 (where the costs do not vary, the bracket is constant and drops out of the gradient).
    """
    spread = torch.as_tensor(deviation, dtype=cost.dtype).clamp(min=_SMALLEST_DEVIATION)
    return cost + k * (cost.square() - 2 * mean * cost) / (2 * spread)


def cost_model_loss(
    cost_safer: Tensor,
    cost_worse: Tensor,
    sign_safer: Tensor | None = None,
    sign_worse: Tensor | None = None,
    sign_coefficient: float = 1.0,
    decay: float = 0.0,
) -> Tensor:
    """−log σ(C_worse − C_safer) − a [log σ(s C)] of both sides + decay · mean C², for training a cost model.

    A sign is +1 for a harmful response, −1 for a harmless one and 0 for one without label, which adds no sign term. The sign
    terms make 0 the border between harmless and harmful.
    Source: Dai et al. 2023 (Safe RLHF, arXiv 2310.12773), loss of the cost model in section 3.2; the decay is that of the
    released code.

    Shapes: all [B]; returns [B]. Gradient in the costs.
    Raises: ValueError on other shapes, or a negative coefficient.
    """
    require_dimensions("cost_safer", cost_safer, "B")
    require_same_shape(cost_safer=cost_safer, cost_worse=cost_worse, sign_safer=sign_safer, sign_worse=sign_worse)
    if min(sign_coefficient, decay) < 0:
        raise ValueError(f"coefficients must not be negative, got {sign_coefficient} and {decay}")
    loss = -logsigmoid(cost_worse - cost_safer)
    for cost, sign in ((cost_safer, sign_safer), (cost_worse, sign_worse)):
        if sign is not None:
            loss = loss - sign_coefficient * torch.where(sign != 0, logsigmoid(sign * cost), 0.0)
    return loss + decay * (cost_safer.square() + cost_worse.square()) / 2
