"""Credit: from rewards and scores to advantages.

Knows rewards, values, masks and which rows answer the same prompt. Does not know policies, losses, or whitening over
the batch (`whiten`). Everything returned is detached, at least float32.

A score of NaN means "could not be scored": such a row takes no part in any statistic and gets advantage 0. An infinite
score is an error.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fairlead.functional._checks import (
    at_least_float32,
    require_choice,
    require_dimensions,
    require_positive,
    require_range,
    require_rows,
    require_same_shape,
)
from fairlead.functional.masks import mask_out

SCALES = ("group", "batch", "none")
SMALLEST_DEVIATION = 1e-8  # a spread below this is rounding noise, and dividing by it would make advantages of noise


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation.

    delta_t = R_t + gamma V_{t+1} - V_t,  A_t = delta_t + gamma lam A_{t+1},  return_t = A_t + V_t, with zeros after the
    end. Masked gaps (tool outputs, other speakers) are skipped: t + 1 is the next position under the mask, so nothing
    is discounted across a gap, and rewards and values inside a gap are ignored.
    Source: Schulman et al. 2015 (arXiv 1506.02438, eq. 16).

    Shapes: rewards, values, mask [B, T]; returns (advantages, returns), both [B, T], exactly 0 where masked.
    Raises: ValueError on other shapes, or when gamma or lam lies outside [0, 1].
    """
    require_dimensions("rewards", rewards, "BT")
    require_same_shape(rewards=rewards, values=values, mask=mask)
    require_range("gamma", gamma, 0.0, 1.0)
    require_range("lam", lam, 0.0, 1.0)
    keep = mask.bool()
    rewards = mask_out(at_least_float32(rewards.detach()), keep)
    values = mask_out(at_least_float32(values.detach()), keep).to(torch.promote_types(rewards.dtype, values.dtype))
    advantages = torch.zeros_like(values)
    next_value = values.new_zeros(values.shape[0])
    next_advantage = torch.zeros_like(next_value)
    for t in range(values.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * lam * next_advantage
        advantages[:, t] = advantage
        next_value = torch.where(keep[:, t], values[:, t], next_value)
        next_advantage = torch.where(keep[:, t], advantage, next_advantage)
    advantages = mask_out(advantages, keep)
    return advantages, advantages + values


def discounted_returns(rewards: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """Reward-to-go G_t = R_t + gamma G_{t+1}; masked gaps are skipped as in `gae`.

    Shapes: rewards and mask [B, T]; returns [B, T], exactly 0 where masked.
    Raises: ValueError on other shapes, or when gamma lies outside [0, 1].
    """
    return gae(rewards, torch.zeros_like(rewards), mask, gamma, 1.0)[1]


def group_mean(score: Tensor, group: Tensor) -> Tensor:
    """Mean score of each row's group, the row itself included; NaN scores are left out.

    Shapes: score [B], group [B] (any integers; rows of a group need not be neighbours); returns [B]. Rows of a group
    without any score get NaN.
    Raises: ValueError on other shapes, a non-integer group, or an infinite score.
    """
    table = _tabulate(score, group)
    mean = torch.where(table.count > 0, table.mean, torch.nan)
    return mean[table.row_group].to(at_least_float32(score).dtype)


def group_relative(
    score: Tensor, group: Tensor, scale: str = "group", unbiased: bool = True, epsilon: float = 1e-6
) -> Tensor:
    """(score - mean of its group) / (deviation + epsilon).

    - scale "group": the deviation of the row's own group: GRPO (arXiv 2402.03300, section 4.1.2)
    - scale "batch": the deviation of all scores of the batch (arXiv 2508.08221)
    - scale "none":  no division: Dr. GRPO (arXiv 2503.20783)

    `unbiased` divides squares by n - 1. A group (with "batch", also a batch) with a deviation below 1e-8 gets exactly
    0, in particular a group with one score. NaN scores are left out and get 0.

    Shapes: score [B], group [B] integers; returns [B].
    Raises: ValueError on other shapes, an unknown scale, an infinite score, or a non-positive epsilon.
    """
    require_choice("scale", scale, SCALES)
    require_positive("epsilon", epsilon)
    table = _tabulate(score, group)
    deviation = _deviation(table.squares, table.count, unbiased)
    centred = table.score - table.mean[table.row_group]
    counts = table.scored & (deviation > SMALLEST_DEVIATION)[table.row_group]
    if scale == "group":
        centred = centred / (deviation[table.row_group] + epsilon)
    elif scale == "batch":
        total = table.count.sum()
        batch_mean = mask_out(table.score, table.scored).sum() / total.clamp(min=1)
        squares = mask_out(table.score - batch_mean, table.scored).square().sum()
        batch_deviation = _deviation(squares, total, unbiased)
        counts = counts & (batch_deviation > SMALLEST_DEVIATION)
        centred = centred / (batch_deviation + epsilon)
    return mask_out(centred, counts).to(at_least_float32(score).dtype)


def leave_one_out(score: Tensor, group: Tensor) -> Tensor:
    """Score minus the mean of the *other* scores of its group: (G r_i - sum r) / (G - 1).

    Source: RLOO (Kool et al. 2019; Ahmadian et al. 2024, arXiv 2402.14740).
    NaN scores are left out and get 0; so does the only score of a group whose other rows are NaN.

    Shapes: score [B], group [B] integers; returns [B].
    Raises: ValueError on other shapes, an infinite score, or a group with a single row: there is no other to compare
    with.
    """
    table = _tabulate(score, group)
    single = table.rows == 1
    if bool(single.any()):
        example = group[single[table.row_group]][0].item()
        raise ValueError(
            "leave-one-out needs at least two samples per group; "
            f"{int(single.sum())} group(s) have one, e.g. group {example}"
        )
    count = table.count[table.row_group]
    advantage = (table.score - table.mean[table.row_group]) * count / (count - 1).clamp(min=1)
    return mask_out(advantage, table.scored & (count > 1)).to(at_least_float32(score).dtype)


def anchor_score(score: Tensor, group: Tensor, anchor: Tensor) -> Tensor:
    """Mean score of the anchors of each row's group: what the other rows are compared with.

    Source: the greedy baseline of ReMax (Li et al. 2023, arXiv 2310.10505, section 4).

    Shapes: score [B], group [B] integers, anchor [B] bool; returns [B], NaN for a group without an anchor that has a score.
    Raises: ValueError on other shapes, a non-integer group, or an infinite score.
    """
    require_same_shape(score=score, group=group, anchor=anchor)
    return group_mean(torch.where(anchor.bool(), at_least_float32(score), torch.nan), group)


def remax(difference: Tensor, token_rewards: Tensor, mask: Tensor, gamma: float = 1.0, to_go: bool = True) -> Tensor:
    """Weight of log pi(y_t): what a response is better than its baseline by, and what its tokens earn by themselves.

    c_t = gamma^(T - t + 1) difference + sum over s >= t of token_rewards_s, which is the policy gradient of the regularised
    return when gamma = 1 and token_rewards = -beta log(pi / pi_ref). Without `to_go` a token earns its own reward only, as in
    the released code, whose last token (t = T) is discounted once as well. Masked gaps are skipped.
    Source: ReMax (Li et al. 2023, arXiv 2310.10505, eq. 4, and liziniu/ReMax, remax_trainer.py).

    Shapes: difference [B], token_rewards and mask [B, T]; returns [B, T] without gradient, exactly 0 where masked.
    Raises: ValueError on other shapes, or when gamma lies outside [0, 1].
    """
    require_range("gamma", gamma, 0.0, 1.0)
    require_same_shape(token_rewards=token_rewards, mask=mask)
    left = mask.long().flip(1).cumsum(1).flip(1)  # T - t + 1 counted over the mask
    own = discounted_returns(token_rewards, mask, 1.0) if to_go else mask_out(token_rewards.detach(), mask)
    return broadcast_to_tokens(difference, mask) * gamma**left + own


def broadcast_to_tokens(score: Tensor, mask: Tensor) -> Tensor:
    """Give every token of a row the row's number, exactly 0 where masked.

    Shapes: score [B], mask [B, T]; returns [B, T] in the dtype of score.
    Raises: ValueError on other shapes.
    """
    require_rows(score, mask)
    return mask_out(score.detach()[:, None].expand(mask.shape), mask)


@dataclass(frozen=True)
class _Table:
    """U groups, B rows; statistics in float64 over the rows that have a score."""

    score: Tensor  # [B]
    scored: Tensor  # [B] bool, False where the score is NaN
    row_group: Tensor  # [B] in [0, U)
    rows: Tensor  # [U] rows of the group, scored or not
    count: Tensor  # [U] scored rows
    mean: Tensor  # [U], 0 for a group without scores
    squares: Tensor  # [U] sum of squared distances from the mean


def _tabulate(score: Tensor, group: Tensor) -> _Table:
    require_dimensions("score", score, "B")
    require_same_shape(score=score, group=group)
    if group.is_floating_point() or group.is_complex():
        raise ValueError(f"group must hold integers, got {group.dtype}")
    score = score.detach().double()
    if bool(score.isinf().any()):
        raise ValueError("score holds an infinite value; mark an answer that could not be scored with NaN")
    scored = ~score.isnan()
    _, row_group, rows = torch.unique(group, return_inverse=True, return_counts=True)
    # Lay groups out as rows of a rectangle [U, largest group] and sum along it: unlike index_add, whose order of
    # addition varies on a GPU, this gives the same bits every time.
    order = torch.argsort(row_group, stable=True)
    start = rows.cumsum(0) - rows
    place = torch.empty_like(order)
    place[order] = torch.arange(order.numel(), device=order.device) - start[row_group[order]]
    width = int(rows.max()) if rows.numel() else 0
    rectangle = score.new_full((rows.numel(), width), torch.nan)
    rectangle[row_group, place] = score
    present = ~rectangle.isnan()
    count = present.sum(dim=1)
    mean = mask_out(rectangle, present).sum(dim=1) / count.clamp(min=1)
    squares = mask_out(rectangle - mean[:, None], present).square().sum(dim=1)
    return _Table(score, scored, row_group, rows, count, mean, squares)


def _deviation(squares: Tensor, count: Tensor, unbiased: bool) -> Tensor:
    return (squares / (count - int(unbiased)).clamp(min=1)).sqrt()
