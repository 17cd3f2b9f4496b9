"""How alike two token sequences are: edit distance, longest common subsequence, a suffix that comes again.

Knows: pairs of sequences of one length, all pairs at a time.
Does not know: what the tokens mean, texts.

Shapes: N pairs, r tokens. Each table of dynamic programming is filled row by row, and a row for all pairs in a few operations:
what a cell takes from its left neighbour is a running minimum or maximum over the row.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["edit_distance", "rouge_l", "suffix_overlap"]


def edit_distance(first: Tensor, second: Tensor) -> Tensor:
    """[N] float: insertions, deletions and substitutions that turn one sequence into the other, divided by their length r.

    Shapes: first, second [N, r].
    Source: Levenshtein 1966, by the dynamic programme of Wagner and Fischer 1974.
    """
    same, length = _same(first, second)
    columns = torch.arange(length + 1, device=first.device)
    row = columns.expand(len(first), -1)
    for i in range(length):
        best = torch.minimum(row[:, 1:] + 1, row[:, :-1] + (~same[:, i]).long())  # deleted, or put in place
        best = F.pad(best, (1, 0), value=i + 1)
        row = (best - columns).cummin(1).values + columns  # inserted: one more for each column to the right
    return row[:, -1] / length


def rouge_l(first: Tensor, second: Tensor) -> Tensor:
    """[N] float: F1 of ROUGE-L; for equal lengths r that is the length of the longest common subsequence divided by r.

    Shapes: first, second [N, r].
    Source: Lin 2004 (ROUGE), section 3.1.
    """
    same, length = _same(first, second)
    row = torch.zeros(len(first), length + 1, dtype=torch.int64, device=first.device)
    for i in range(length):
        row = F.pad(torch.maximum(row[:, 1:], row[:, :-1] + same[:, i].long()), (1, 0)).cummax(1).values
    return row[:, -1] / length


def suffix_overlap(first: Tensor, second: Tensor) -> Tensor:
    """[N] float: the longest suffix of one sequence that stands somewhere in the other, divided by r; the larger of both directions.

    Shapes: first, second [N, r].
    Source: LATR (arXiv 2510.24302), its released code.
    """
    same, length = _same(first, second)
    row = torch.zeros(len(first), length + 1, dtype=torch.int64, device=first.device)
    last = [row[:, -1]]
    for i in range(length):  # row[:, j]: length of the common suffix of the first i + 1 and the first j tokens
        row = F.pad((row[:, :-1] + 1) * same[:, i].long(), (1, 0))
        last.append(row[:, -1])
    return torch.maximum(row.amax(1), torch.stack(last, 1).amax(1)) / length


def _same(first: Tensor, second: Tensor) -> tuple[Tensor, int]:
    """[N, r, r] bool, whether token i of the first is token j of the second; and r."""
    if first.shape != second.shape or first.dim() != 2 or first.shape[1] < 1:
        raise ValueError(
            f"need two tensors [N, r] of one shape with r of 1 or more, got {list(first.shape)} and {list(second.shape)}"
        )
    return first[:, :, None] == second[:, None, :], int(first.shape[1])
