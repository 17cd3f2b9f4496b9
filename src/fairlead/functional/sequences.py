"""How alike two token sequences are: edit distance, longest common subsequence, a suffix that comes again, mean embeddings.

Knows: pairs of sequences of one length, all pairs at a time.
Does not know: models, texts; what tokens mean is a table that it is given.

Shapes: N pairs, r tokens. Each table of dynamic programming is filled row by row, and a row for all pairs in a few operations:
what a cell takes from its left neighbour is a running minimum or maximum over the row.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["edit_distance", "embedding_similarity", "rouge_l", "suffix_overlap"]


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


def embedding_similarity(first: Tensor, second: Tensor, table: Tensor) -> Tensor:
    """[N] float in [-1, 1]: cosine between the mean embeddings of both sequences. The order of tokens does not count.

    Shapes: first, second [N, r] int64; table [V, D], the embedding of each token.
    Source: the embedding distance of LATR (arXiv 2510.24302), there by a model of its own.
    """
    _same_shape(first, second)
    means = [F.embedding(tokens, table).float().mean(1) for tokens in (first, second)]
    return F.cosine_similarity(means[0], means[1], dim=-1)


def _same(first: Tensor, second: Tensor) -> tuple[Tensor, int]:
    """[N, r, r] bool, whether token i of the first is token j of the second; and r."""
    _same_shape(first, second)
    return first[:, :, None] == second[:, None, :], int(first.shape[1])


def _same_shape(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape or first.dim() != 2 or first.shape[1] < 1:
        raise ValueError(
            f"need two tensors [N, r] of one shape with r of 1 or more, got {list(first.shape)} and {list(second.shape)}"
        )
