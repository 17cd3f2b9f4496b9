"""Policy filtration: which ranks among the responses to a prompt are learned from.

Knows scores, groups, weights. Does not know where scores come from, or losses.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fairlead.functional._checks import at_least_float32, require_choice, require_positive, require_same_shape

__all__ = ["FILTERS", "filter_weights", "rank_weights", "weighted_r_squared"]

FILTERS = ("none", "best", "best-random", "best-worst", "extremes")


def rank_weights(name: str, count: int, extremes: int = 1) -> Tensor:
    """Weight of each rank among `count` responses, the best first; they sum to 1.

    "none" 1/N · "best" (1, 0, …) · "best-random" ½ for the best and ½/(N − 1) for every other · "best-worst" ½ for the best and
    the worst · "extremes" equal weights for the `extremes` best and as many worst (all, where that is no fewer than N).
    Source: PF-PPO (Shen and Zhang 2024, arXiv 2409.06957, section 4).

    Shapes: returns [count], float64.
    Raises: ValueError on an unknown name, or when count or extremes is not positive.
    """
    require_choice("filter", name, FILTERS)
    require_positive("count", count)
    require_positive("extremes", extremes)
    weight = torch.zeros(count, dtype=torch.float64)
    if name == "none" or count == 1:
        weight += 1 / count
    elif name == "best":
        weight[0] = 1.0
    elif name == "best-random":
        weight += 0.5 / (count - 1)
        weight[0] = 0.5
    else:
        edge = 1 if name == "best-worst" else min(extremes, (count + 1) // 2)
        weight[:edge] = weight[-edge:] = 1.0
        weight /= weight.sum()
    return weight


def filter_weights(
    score: Tensor,
    group: Tensor,
    name: str = "best-worst",
    extremes: int = 1,
    ranks: Sequence[float] | None = None,
    power: float | None = None,
) -> Tensor:
    """Weight of each row by its rank inside its group; a group's weights sum to 1, equal scores keep their order.

    `ranks` gives the weights of the ranks itself (one for every row of a group), `power` makes them proportional to |score|^power
    (all equal where every score is 0); either takes the place of `name`. A score of NaN takes no part and gets 0.

    Shapes: score [B], group [B] integers; returns [B], float64.
    Raises: ValueError on other shapes, an unknown name, or a number of `ranks` that is not that of a group's rows.
    """
    require_same_shape(score=score, group=group)
    score = score.detach().double()
    found = torch.zeros_like(score)
    for number in torch.unique(group).tolist():
        rows = ((group == number) & ~score.isnan()).nonzero().squeeze(1)
        if not rows.numel():
            continue
        if power is not None:
            raw = score[rows].abs() ** power
            found[rows] = raw / raw.sum() if float(raw.sum()) > 0 else torch.full_like(raw, 1 / len(raw))
            continue
        if ranks is not None and len(ranks) != len(rows):
            raise ValueError(f"there are {len(ranks)} weights of ranks but {len(rows)} responses to a prompt")
        given = None if ranks is None else torch.tensor(ranks, dtype=torch.float64)
        weight = rank_weights(name, len(rows), extremes) if given is None else given / given.sum()
        found[rows[torch.argsort(score[rows], descending=True, stable=True)]] = weight
    return found


def weighted_r_squared(score: Tensor, truth: Tensor, weight: Tensor) -> float:
    """Coefficient of determination of `truth` by a line in `score`: Cov² / (Var Var) under `weight`, in [0, 1].

    0 where either does not vary. It does not change with the unit or the zero of either.
    Source: PF-PPO (arXiv 2409.06957, section 4), pooled over prompts.

    Shapes: all [B].
    Raises: ValueError on other shapes, or a negative weight.
    """
    require_same_shape(score=score, truth=truth, weight=weight)
    weight = at_least_float32(weight.detach()).double()
    if bool((weight < 0).any()):
        raise ValueError("weights must not be negative")
    total = weight.sum()
    if float(total) == 0:
        return 0.0
    x, y = score.detach().double(), truth.detach().double()
    x, y = x - (weight * x).sum() / total, y - (weight * y).sum() / total
    spread = (weight * x * x).sum() * (weight * y * y).sum()
    return float((weight * x * y).sum() ** 2 / spread) if float(spread) > 1e-24 else 0.0
