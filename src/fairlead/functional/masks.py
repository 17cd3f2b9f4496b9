"""Sums, means and weights over the positions that count.

Knows that a mask (boolean, or a number that is non-zero where the position counts) marks positions. Does not know what
the numbers under it mean. NaN or infinity under a zero of the mask reaches neither a value nor a gradient, because
every function replaces masked inputs before it computes (multiplying by zero would not do: 0 * NaN is NaN).
"""

from __future__ import annotations

import torch
from torch import Tensor

from fairlead.functional._checks import (
    at_least_float32,
    require_choice,
    require_dimensions,
    require_positive,
    require_rows,
    require_same_shape,
)

AGGREGATION_MODES = ("token-mean", "sequence-mean-token-mean", "sequence-mean-token-sum", "constant-length")


def mask_out(x: Tensor, mask: Tensor) -> Tensor:
    """`x` with exact zeros where `mask` is zero.

    Shapes: x and mask equal, any. Returns the shape and dtype of x.
    Raises: ValueError when the shapes differ.
    """
    require_same_shape(x=x, mask=mask)
    return torch.where(mask.bool(), x, torch.zeros((), dtype=x.dtype, device=x.device))


def masked_sum(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Sum of `x` where `mask` is non-zero.

    Shapes: x and mask equal, any; returns a scalar, or x's shape without `dim`.
    Raises: ValueError when the shapes differ.
    """
    kept = mask_out(x, mask)
    return kept.sum() if dim is None else kept.sum(dim=dim)


def masked_mean(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Mean of `x` where `mask` is non-zero; 0 where the mask is empty. Half precision is computed in float32.

    Shapes: x and mask equal, any; returns a scalar, or x's shape without `dim`.
    Raises: ValueError when the shapes differ.
    """
    total = masked_sum(at_least_float32(x), mask, dim)
    count = mask.bool().sum() if dim is None else mask.bool().sum(dim=dim)
    return total / count.clamp(min=1)


def masked_variance(x: Tensor, mask: Tensor, unbiased: bool = True) -> Tensor:
    """Variance of `x` over the non-zero positions of `mask`, in units of x squared.

    `unbiased` divides by n - 1 (TRL, verl), otherwise by n (OpenRLHF; Secrets of RLHF, arXiv 2307.04964).
    An empty mask, and an unbiased variance of one number, give 0.

    Shapes: x and mask equal, any; returns a scalar.
    Raises: ValueError when the shapes differ.
    """
    kept = mask_out(at_least_float32(x), mask)
    count = mask.bool().sum()
    mean = kept.sum() / count.clamp(min=1)
    squares = mask_out(kept - mean, mask).square().sum()
    return squares / (count - int(unbiased)).clamp(min=1)


def whiten(x: Tensor, mask: Tensor, shift_mean: bool = True, unbiased: bool = True, epsilon: float = 1e-8) -> Tensor:
    """Scale `x` to unit variance and, with `shift_mean`, to zero mean over the positions of `mask`.

    (x - mean) / sqrt(variance + epsilon), plus the mean again when `shift_mean` is off. Masked positions are 0.
    Source: advantage and reward whitening of PPO for language models (Ziegler et al. 2019, arXiv 1909.08593).

    Shapes: x and mask equal, any (all positions share one mean and variance); returns the shape of x.
    Raises: ValueError when the shapes differ or `epsilon` is not positive.
    """
    require_positive("epsilon", epsilon)
    kept = mask_out(at_least_float32(x), mask)
    mean = masked_mean(kept, mask)
    white = (kept - mean) * torch.rsqrt(masked_variance(kept, mask, unbiased) + epsilon)
    return mask_out(white if shift_mean else white + mean, mask)


def last_token_index(mask: Tensor) -> Tensor:
    """Index of the last non-zero position of each row, -1 for an empty row. Gaps before it do not matter.

    Shapes: mask [B, T]; returns [B], int64.
    Raises: ValueError when mask is not two-dimensional.
    """
    require_dimensions("mask", mask, "BT")
    rows, length = mask.shape
    if length == 0:
        return torch.full((rows,), -1, dtype=torch.int64, device=mask.device)
    position = torch.arange(length, device=mask.device)
    return torch.where(mask.bool(), position, -1).amax(dim=1)


def place_at_last_token(score: Tensor, mask: Tensor) -> Tensor:
    """Put each row's score on its last response token; all else is 0. The score of an empty row is dropped.

    Shapes: score [B], mask [B, T]; returns [B, T] in the dtype of score.
    Raises: ValueError on other shapes.
    """
    require_rows(score, mask)
    position = torch.arange(mask.shape[1], device=mask.device)
    is_last = position[None, :] == last_token_index(mask)[:, None]
    return mask_out(score[:, None].expand(mask.shape), is_last)


def sequence_reward(rewards: Tensor, mask: Tensor) -> Tensor:
    """Sum of a row's token rewards.

    Shapes: rewards and mask [B, T]; returns [B].
    Raises: ValueError on other shapes.
    """
    require_dimensions("rewards", rewards, "BT")
    return masked_sum(rewards, mask, dim=1)


def aggregation_weights(
    mask: Tensor, mode: str, row_weight: Tensor | None = None, maximum_length: int | None = None
) -> Tensor:
    """What each token's loss x[i, t] is multiplied with, so that the plain sum is the loss of the *global* batch.

    With m the mask, T_i = sum_t m[i, t], w_i the row weight (1 by default) and W the sum of w_i over non-empty rows:

    - "token-mean"                w_i m / sum_j w_j T_j     DAPO (arXiv 2503.14476)
    - "sequence-mean-token-mean"  w_i m / (W T_i)           GRPO (arXiv 2402.03300, eq. 3)
    - "sequence-mean-token-sum"   w_i m / W                 the policy gradient of the sequence
    - "constant-length"           w_i m / (W L)             Dr. GRPO (arXiv 2503.20783), L = maximum_length

    Call it once on the mask of the whole optimiser step and cut the result into micro-batches and ranks; then no
    micro-batch weighs more than another. Empty rows and rows of weight 0 are left out of every count, so weight 0 is
    the same as removing the row, weight 2 the same as repeating it, and a common factor of all weights changes nothing.

    Shapes: mask [B, T], row_weight [B]; returns [B, T], float32 (float64 when row_weight is), not differentiable. All
    zeros when nothing counts. `maximum_length` (tokens) is read by "constant-length" only.
    Raises: ValueError on other shapes, an unknown mode, a negative or non-finite row weight on a non-empty row, or a
    missing or non-positive `maximum_length` in "constant-length".
    """
    require_choice("aggregation mode", mode, AGGREGATION_MODES)
    require_dimensions("mask", mask, "BT")
    mask = mask.bool()
    length = mask.sum(dim=1)
    not_empty = length > 0
    if row_weight is None:
        weight = not_empty.float()
    else:
        require_rows(row_weight, mask, name="row_weight")
        weight = mask_out(at_least_float32(row_weight.detach()), not_empty)
        if not bool((torch.isfinite(weight) & (weight >= 0)).all()):
            raise ValueError("row_weight must be finite and not negative")

    if mode == "token-mean":
        per_row, total = weight, (weight * length).sum()
    elif mode == "sequence-mean-token-mean":
        per_row, total = weight / length.clamp(min=1), weight.sum()
    elif mode == "sequence-mean-token-sum":
        per_row, total = weight, weight.sum()
    else:
        if maximum_length is None:
            raise ValueError("mode 'constant-length' needs maximum_length, the longest response allowed (tokens)")
        require_positive("maximum_length", maximum_length)
        per_row, total = weight / maximum_length, weight.sum()
    per_row = torch.where(total > 0, per_row / total, torch.zeros_like(per_row))
    return mask_out(per_row[:, None].expand(mask.shape), mask)


def marked_token(mask: Tensor, position: str) -> Tensor:
    """The positions of `mask` at which a response is judged: "all", or the first ("prompt") or last ("answer") of each row.

    What a critic says at the first token it says of the prompt alone; at the last, of all tokens but that one.

    Shapes: mask [B, T]; returns [B, T] bool.
    Raises: ValueError on other shapes or an unknown position.
    """
    require_choice("position", position, ("all", "prompt", "answer"))
    require_dimensions("mask", mask, "BT")
    kept = mask.bool()
    if position == "all":
        return kept
    count = kept.long().cumsum(1)
    return kept & (count == (1 if position == "prompt" else count[:, -1:]))
