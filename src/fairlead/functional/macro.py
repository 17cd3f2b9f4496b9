"""Macro actions: consecutive tokens as one decision.

Knows masks, segment numbers, values and rewards. Does not know why tokens belong together.

Segments [B, T] are int64, counted 0, 1, 2, … along each row over the mask and -1 outside. Letters: B rows, T tokens, M the
largest number of segments of a row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fairlead.functional._checks import (
    at_least_float32,
    require_choice,
    require_dimensions,
    require_positive,
    require_same_shape,
)
from fairlead.functional.advantages import gae
from fairlead.functional.masks import mask_out

__all__ = [
    "fixed_segments",
    "length_segments",
    "macro_gae",
    "parse_segments",
    "perplexity_segments",
    "segment_sum",
    "split_at_gaps",
    "spread_segments",
]

VALUE_WEIGHTS = ("equal", "last", "decayed")
MACRO_REWARDS = ("sum", "mean")


def fixed_segments(mask: Tensor, length: int) -> Tensor:
    """A new segment every `length` tokens of the mask.

    Shapes: mask [B, T]; returns [B, T].
    Raises: ValueError when mask is not two-dimensional or length is not positive.
    """
    require_dimensions("mask", mask, "BT")
    require_positive("length", length)
    return torch.where(mask.bool(), _place(mask) // length, -1)


def length_segments(mask: Tensor, lengths: Sequence[Sequence[int]]) -> Tensor:
    """Segments of given lengths, a list a row; tokens beyond the list are one segment.

    Shapes: mask [B, T]; returns [B, T].
    Raises: ValueError when the number of lists is not B or a length is not positive.
    """
    require_dimensions("mask", mask, "BT")
    if len(lengths) != mask.shape[0] or any(length < 1 for row in lengths for length in row):
        raise ValueError(f"need a list of positive lengths for each of {mask.shape[0]} rows")
    place = _place(mask)
    segments = torch.zeros_like(place)
    for row, of_row in enumerate(lengths):
        ends = torch.tensor(of_row, dtype=torch.int64, device=mask.device).cumsum(0)
        segments[row] = torch.searchsorted(ends, place[row].contiguous(), right=True)
    return torch.where(mask.bool(), segments, -1)


def perplexity_segments(logprobs: Tensor, mask: Tensor) -> Tensor:
    """A new segment where a token is less likely than the one before it: runs of non-increasing perplexity exp(-log pi).

    Shapes: logprobs and mask [B, T]; returns [B, T].
    Raises: ValueError on other shapes.
    """
    require_dimensions("mask", mask, "BT")
    require_same_shape(logprobs=logprobs, mask=mask)
    segments = torch.full(mask.shape, -1, dtype=torch.int64, device=mask.device)
    for row in range(mask.shape[0]):
        kept = mask[row].bool()
        own = logprobs.detach()[row][kept]
        segments[row, kept] = (
            torch.cat((own.new_zeros(1), (own[1:] < own[:-1]).to(own.dtype)))[: len(own)].cumsum(0).long()
        )
    return segments


def split_at_gaps(segments: Tensor) -> Tensor:
    """The segments cut wherever the mask has a gap: what others said between two tokens makes them two decisions.

    Shapes: segments [B, T]; returns [B, T], numbered anew.
    Raises: ValueError when segments is not two-dimensional.
    """
    require_dimensions("segments", segments, "BT")
    begins = segments >= 0
    begins[:, 1:] &= segments[:, 1:] != segments[:, :-1]
    return torch.where(segments >= 0, begins.long().cumsum(1) - 1, -1)


def parse_segments(tree: object, largest: int) -> list[int]:
    """Lengths of the macro actions of a constituency tree: leaves are numbers of tokens, nodes are sequences.

    Depth first: a node of one token joins the macro action before it, one of fewer than `largest` tokens is a macro action,
    any other is taken apart; a leaf is never cut.
    Source: the parsing-based termination of MA-RLHF (arXiv 2410.02743, section 3.2).

    Raises: ValueError when largest is not positive, or a leaf is no non-negative integer.
    """
    require_positive("largest", largest)
    lengths: list[int] = []
    _parse(tree, largest, lengths)
    return lengths


def segment_sum(x: Tensor, segments: Tensor) -> Tensor:
    """Sum of `x` over each segment, with gradient.

    Shapes: x and segments [B, T]; returns [B, M].
    Raises: ValueError on other shapes.
    """
    require_dimensions("segments", segments, "BT")
    require_same_shape(x=x, segments=segments)
    inside = segments >= 0
    count = int(segments.max()) + 1 if segments.numel() else 0
    total = x.new_zeros(x.shape[0], max(count, 1))
    return total.scatter_add(1, segments.clamp(min=0), mask_out(x, inside))


def spread_segments(x: Tensor, segments: Tensor) -> Tensor:
    """Give every token the number of its segment, exactly 0 outside.

    Shapes: x [B, M], segments [B, T]; returns [B, T].
    """
    return mask_out(x.gather(1, segments.clamp(min=0)), segments >= 0)


def macro_gae(
    rewards: Tensor,
    values: Tensor,
    segments: Tensor,
    gamma: float,
    lam: float,
    value_weight: str = "equal",
    reward: str = "sum",
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation over macro actions, given back to their tokens.

    A segment of n tokens has the reward R = sum of its tokens' rewards and the value V = sum_i sigma_i v_i; `gae` runs over the
    segments, and each token gets its segment's A and return G = A + V. `value_weight` sigma: "equal" 1/n, "last" the last token
    alone, "decayed" proportional to 1/i. `reward` "mean" weighs rewards by sigma, too, as the released code does.
    Source: MA-RLHF (Chai et al. 2024, arXiv 2410.02743, section 3.2 and appendix).

    Shapes: rewards, values, segments [B, T]; returns (advantages, returns), both [B, T], exactly 0 outside.
    Raises: ValueError on other shapes, an unknown choice, or when gamma or lam lies outside [0, 1].
    """
    require_choice("value_weight", value_weight, VALUE_WEIGHTS)
    require_choice("macro reward", reward, MACRO_REWARDS)
    require_same_shape(rewards=rewards, values=values, segments=segments)
    rewards, values = at_least_float32(rewards.detach()), at_least_float32(values.detach())
    inside = segments >= 0
    length = segment_sum(inside.to(values.dtype), segments)
    if value_weight == "equal":
        raw = torch.ones_like(values)
    else:
        first = length.cumsum(1) - length
        place = _place(inside) - spread_segments(first, segments)
        last = spread_segments(length, segments) - 1
        raw = (place == last).to(values.dtype) if value_weight == "last" else 1 / (place + 1)
    raw = mask_out(raw, inside)
    sigma = raw / spread_segments(segment_sum(raw, segments), segments).clamp(min=1e-12)
    macro_value = segment_sum(sigma * mask_out(values, inside), segments)
    macro_reward = segment_sum(mask_out(rewards, inside) * (sigma if reward == "mean" else 1.0), segments)
    advantages, returns = gae(macro_reward, macro_value, length > 0, gamma, lam)
    return spread_segments(advantages, segments), spread_segments(returns, segments)


def _place(mask: Tensor) -> Tensor:
    """[B, T]: how many tokens of the mask stand before each position."""
    return mask.long().cumsum(1) - mask.long()


def _size(tree: object) -> int:
    if isinstance(tree, list | tuple):
        return sum(_size(child) for child in tree)
    if not isinstance(tree, int) or tree < 0:
        raise ValueError(f"a leaf of a parse tree is a number of tokens, got {tree!r}")
    return tree


def _parse(tree: object, largest: int, lengths: list[int]) -> None:
    size = _size(tree)
    if size == 0:
        return
    if size == 1 and lengths:
        lengths[-1] += 1
    elif size < largest or not isinstance(tree, list | tuple):
        lengths.append(size)
    else:
        for child in tree:
            _parse(child, largest, lengths)
