"""Batches written out by hand, for tests of parts.

experience([[1, 2], [3]], score=[1.0, 0.0], group=[0, 0])     # two responses of two and one tokens
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from fairlead.batch import Experience, Pairs, right_pad, row_table
from fairlead.functional import place_at_last_token


def rows_of(values: Sequence[Sequence[float]], width: int | None = None) -> Tensor:
    """Rows of unequal length as a matrix padded with zeros."""
    width = max(map(len, values)) if width is None else width
    return torch.tensor([[*map(float, row), *[0.0] * (width - len(row))] for row in values])


def experience(
    logprobs: Sequence[Sequence[float]],
    score: Sequence[float] | None = None,
    group: Sequence[int] | None = None,
    weight: Sequence[float] | None = None,
    truncated: Sequence[bool] | None = None,
    **tensors: Any,
) -> Experience:
    """An experience whose responses are as long as the rows of `logprobs`; `rewards` carry the score at the end.

    Further tensors ([B, T] as unequal rows, or ready tensors) are taken as they are.
    """
    rows = len(logprobs)
    tokens, mask = right_pad([[1] * len(row) for row in logprobs], 0)
    scores = torch.tensor([0.0] * rows if score is None else list(score))
    made = {
        name: value if isinstance(value, Tensor) else rows_of(value, mask.shape[1]) for name, value in tensors.items()
    }
    return Experience(
        prompt_ids=torch.ones(rows, 1, dtype=torch.int64),
        prompt_mask=torch.ones(rows, 1, dtype=torch.bool),
        tokens=tokens,
        mask=mask,
        group=torch.arange(rows) if group is None else torch.tensor(group),
        truncated=torch.zeros(rows, dtype=torch.bool) if truncated is None else torch.tensor(truncated),
        logprobs=rows_of(logprobs),
        behaviour_logprobs=rows_of(logprobs),
        channels=TensorDict({}, batch_size=[rows]),
        rows=row_table([{"prompt": "p", "response": "r"}] * rows),
        score=scores,
        weight=torch.ones(rows) if weight is None else torch.tensor(weight),
        batch_size=[rows],
        **{"rewards": place_at_last_token(scores, mask), **made},
    )


def pairs(
    chosen: Sequence[Sequence[float]],
    rejected: Sequence[Sequence[float]],
    margin: Sequence[float] | None = None,
    weight: Sequence[float] | None = None,
) -> Pairs:
    """Pairs whose responses are as long as the rows; the rows are the reference's log-probabilities."""
    rows = len(chosen)
    both = [side for pair in zip(chosen, rejected, strict=True) for side in pair]
    tokens, mask = right_pad([[1] * len(side) for side in both], 0)
    return Pairs(
        prompt_ids=torch.ones(rows, 1, dtype=torch.int64),
        prompt_mask=torch.ones(rows, 1, dtype=torch.bool),
        tokens=tokens.view(rows, 2, -1),
        mask=mask.view(rows, 2, -1),
        margin=torch.tensor([0.0] * rows if margin is None else list(margin)),
        weight=torch.tensor([1.0] * rows if weight is None else list(weight)),
        rows=row_table([{"prompt": "p", "chosen": "c", "rejected": "r"}] * rows),
        reference_logprobs=rows_of(both).view(rows, 2, -1),
        batch_size=[rows],
    )
