"""Figures that are watched while a policy learns.

Knows tokens and numbers of a rollout. Does not know when a figure is alarming.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fairlead.functional._checks import require_positive, require_same_shape
from fairlead.functional.masks import masked_mean, masked_variance

__all__ = ["goodness_of_fit", "repeated_ngrams"]

_MULTIPLIER = 6364136223846793005  # Knuth's, of a 64-bit linear congruential generator


def repeated_ngrams(tokens: Tensor, mask: Tensor, n: int) -> Tensor:
    """Share of a response's n-grams that have occurred before in it; 0 for a response shorter than n + 1 tokens.

    Source: seq-rep-n of Welleck et al. 2020 (arXiv 1908.04319), eq. 10.

    Shapes: tokens [B, T] int64, mask [B, T]; returns [B] float32.
    Raises: ValueError when the shapes differ or n is not positive.
    """
    require_same_shape(tokens=tokens, mask=mask)
    require_positive("n", n)
    if tokens.shape[1] <= n:
        return torch.zeros(tokens.shape[0], device=tokens.device)
    present = mask.bool().unfold(1, n, 1).all(-1)
    # An n-gram as one number of 64 bits that wraps around; two that differ agree by chance about once in 10^19.
    keys = torch.zeros_like(present, dtype=torch.int64)
    for place in tokens.unfold(1, n, 1).unbind(-1):
        keys = (keys + place + 1) * _MULTIPLIER
    # Windows that reach beyond the response go behind all others.
    ordered = torch.where(present, keys, torch.iinfo(torch.int64).max).sort(dim=1).values
    count = present.sum(1)
    inside = torch.arange(ordered.shape[1] - 1, device=tokens.device) + 1 < count[:, None]
    repeated = ((ordered[:, 1:] == ordered[:, :-1]) & inside).sum(1)
    return repeated / count.clamp(min=1)


def goodness_of_fit(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """1 − E[(return − value)²] / Var[return] over the mask: 1 is perfect, 0 as good as the mean; NaN for equal returns.

    Unlike `explained_variance` it also falls when all values are off by the same amount.

    Shapes: values, returns and mask equal.
    Raises: ValueError when the shapes differ.
    """
    require_same_shape(values=values, returns=returns, mask=mask)
    variance = float(masked_variance(returns, mask, unbiased=False))
    return 1 - float(masked_mean((returns - values).square(), mask)) / variance if variance > 0 else math.nan
