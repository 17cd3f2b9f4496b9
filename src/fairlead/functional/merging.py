"""Merging: one weight tensor from those of several models.

Knows tensors of equal shape. Does not know checkpoints, names of weights, or which model is which. Every function works on one
weight tensor at a time, so that models never need to be in memory as a whole. What is computed has at least single precision:
averages of close bfloat16 checkpoints would otherwise lose the difference.

mergekit (arXiv 2403.13257) has these merges and many more behind a graph executor of its own. The formulas are a few lines each,
safetensors reads and writes the tensors, and here a merge is a stage between others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fairlead.functional._checks import at_least_float32, require_range, require_same_shape
from fairlead.functional.random import uniform

__all__ = ["drop_and_rescale", "elect_and_average", "keep_largest", "slerp", "weighted_sum"]

NEARLY_PARALLEL = (
    1e-6  # below this sine the formula divides rounding noise by rounding noise, and a straight line is as good
)


def weighted_sum(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """sum of w_i theta_i: a model soup when the weights sum to 1; on task vectors, the task arithmetic of Ilharco et al.

    Source: Wortsman et al. 2022 (arXiv 2203.05482, section 2); Ilharco et al. 2023 (arXiv 2212.04089, section 2).

    Shapes: all equal, any; returns that shape.
    Raises: ValueError when shapes differ, there is no tensor, or there are not as many weights as tensors.
    """
    _require_weights(tensors, weights)
    total = weights[0] * at_least_float32(tensors[0])
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        total = total + weight * at_least_float32(tensor)
    return total


def slerp(first: Tensor, second: Tensor, fraction: float) -> Tensor:
    """The point at `fraction` of the way along the arc from `first` to `second`, each seen as one long vector.

    sin((1 - f) omega) / sin(omega) * first + sin(f omega) / sin(omega) * second with omega the angle between them; where they are
    (nearly) parallel or one is zero, the straight line. Opposite vectors have no shortest arc and take the straight line too.
    Source: Shoemake 1985, "Animating rotation with quaternion curves".

    Shapes: equal, any; returns that shape.
    Raises: ValueError when shapes differ or `fraction` lies outside [0, 1].
    """
    require_same_shape(first=first, second=second)
    require_range("fraction", fraction, 0.0, 1.0)
    first, second = at_least_float32(first), at_least_float32(second)
    length = first.double().norm() * second.double().norm()
    cosine = ((first.double() * second.double()).sum() / length).clamp(-1.0, 1.0) if float(length) > 0 else None
    if cosine is None or float(1 - cosine.square()) < NEARLY_PARALLEL**2:
        return weighted_sum([first, second], [1 - fraction, fraction])
    angle = torch.arccos(cosine)
    shares = torch.sin((1 - fraction) * angle) / torch.sin(angle), torch.sin(fraction * angle) / torch.sin(angle)
    return weighted_sum([first, second], [float(share) for share in shares])


def keep_largest(change: Tensor, density: float) -> Tensor:
    """The task vector with its largest entries (by size) kept, a share `density` of them but at least one, and the rest 0.

    Source: TIES (Yadav et al. 2023, arXiv 2306.01708, section 4), step 1.

    Shapes: any; returns that shape. Entries tied at the border are kept in the order of their place.
    Raises: ValueError when `density` lies outside [0, 1].
    """
    require_range("density", density, 0.0, 1.0)
    flat = at_least_float32(change).flatten()
    keep = max(1, round(density * flat.numel())) if density > 0 else 0
    if keep >= flat.numel():
        return flat.view(change.shape)
    places = torch.argsort(flat.abs(), descending=True, stable=True)[:keep]
    return torch.zeros_like(flat).index_copy(0, places, flat[places]).view(change.shape)


def elect_and_average(changes: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Elect a sign for every entry by the larger total, then average the task vectors that agree with it.

    Sign s = sign(sum w_i change_i); the average weighs by w_i the entries that are not 0 and have sign s. 0 where the totals
    balance.
    Source: TIES (Yadav et al. 2023, arXiv 2306.01708, section 4), steps 2 and 3.

    Shapes: all equal, any; returns that shape.
    Raises: ValueError when shapes differ, there is no tensor, weights are negative or not as many as tensors.
    """
    _require_weights(changes, weights)
    if min(weights) < 0:
        raise ValueError(f"weights must not be negative where signs are elected, got {list(weights)}")
    sign = weighted_sum(changes, weights).sign()
    total, count = torch.zeros_like(sign), torch.zeros_like(sign)
    for change, weight in zip(changes, weights, strict=True):
        change = at_least_float32(change)
        agrees = (change.sign() == sign) & (sign != 0)
        total = total + torch.where(agrees, weight * change, 0.0)
        count = count + weight * agrees
    return torch.where(count > 0, total / count.clamp(min=torch.finfo(count.dtype).tiny), 0.0)


def drop_and_rescale(change: Tensor, drop: float, seed: int, rescale: bool = True) -> Tensor:
    """DARE: each entry of a task vector is set to 0 with probability `drop`, the others are divided by 1 - drop.

    The division keeps the expectation; without it (`rescale` false) the task vector also shrinks. Which entries are dropped depends
    on `seed` and their place only.
    Source: Yu et al. 2023 (arXiv 2311.03099, section 3.2).

    Shapes: any; returns that shape.
    Raises: ValueError unless 0 <= drop < 1.
    """
    if not 0 <= drop < 1:
        raise ValueError(f"drop must lie in [0, 1), got {drop}")
    change = at_least_float32(change)
    place = torch.arange(change.numel(), device=change.device)
    kept = uniform(torch.tensor(seed, device=change.device), place).view(change.shape) >= drop
    return torch.where(kept, change / (1 - drop) if rescale else change, 0.0)


def _require_weights(tensors: Sequence[Tensor], weights: Sequence[float]) -> None:
    if not tensors or len(tensors) != len(weights):
        raise ValueError(f"need as many weights as tensors and at least one, got {len(weights)} for {len(tensors)}")
    require_same_shape(**{f"tensor {index}": tensor for index, tensor in enumerate(tensors)})
