"""What the rows of a batch have in common, so that it is computed once.

Knows: equal prompts, equal responses, the token budget of a micro-batch.
Does not know: models, what the rows are for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from fairlead.batch import Sequences, row_tokens
from fairlead.data import token_budget_batches
from fairlead.runtime.dispatch import alike, row_lengths

__all__ = ["distinct", "microbatches"]


def distinct(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The first of each set of equal rows [U], and for every row which of these it equals [B]."""
    families = alike(ids, mask)
    place = torch.empty(ids.shape[0], dtype=torch.int64)
    for number, rows in enumerate(families):
        place[rows] = number
    first = torch.tensor([rows[0] for rows in families], dtype=torch.int64)
    return first.to(ids.device), place.to(ids.device)


def microbatches(batch: Any, budget: int) -> list[list[int]]:
    """Rows that are computed together: at most `budget` tokens, padding counted and a shared prompt counted once.

    Rows of equal prompts stay together as far as the budget allows. Without equal prompts rows are ordered by length alone.
    """
    single = row_lengths(batch)
    if isinstance(batch, Sequences):
        return token_budget_batches(single, budget)
    families = alike(batch.prompt_ids, batch.prompt_mask)
    if len(families) == len(single):
        return token_budget_batches(single, budget)
    lengths = cast(Tensor, row_tokens(batch)).sum(-1)
    candidates = lengths.shape[1] if lengths.dim() == 2 else 1
    responses: list[int] = (lengths.max(-1).values if lengths.dim() == 2 else lengths).tolist()
    prompts: list[int] = batch.prompt_mask.sum(-1).tolist()
    pieces = [piece for rows in families for piece in _pieces(rows, prompts[rows[0]], responses, candidates, budget)]
    pieces.sort(key=lambda piece: (-max(responses[row] for row in piece), -prompts[piece[0]], piece[0]))
    batches: list[list[int]] = []
    count, widest, longest = 0, 0, 0
    for piece in pieces:
        prompt = prompts[piece[0]]
        rows = (len(batches[-1]) if batches else 0) + len(piece)
        # Pieces come longest response first, so the first of a batch sets its response width.
        if batches and (count + 1) * max(widest, prompt) + candidates * rows * longest <= budget:
            batches[-1] += piece
            count, widest = count + 1, max(widest, prompt)
        else:
            batches.append(list(piece))
            count, widest, longest = 1, prompt, max(responses[row] for row in piece)
    return batches


def _pieces(rows: list[int], prompt: int, responses: Sequence[int], candidates: int, budget: int) -> list[list[int]]:
    """The rows of one prompt cut into parts that fit the budget, longest responses first."""
    ordered = sorted(rows, key=lambda row: (-responses[row], row))
    pieces: list[list[int]] = []
    for row in ordered:
        if pieces and prompt + candidates * (len(pieces[-1]) + 1) * responses[pieces[-1][0]] <= budget:
            pieces[-1].append(row)
        else:
            pieces.append([row])
    return pieces
