"""Which rows of a batch are computed together.

Knows: prompts that repeat, lengths, the token budget and what sets it where a recipe does not.
Does not know: models but for their widths, what the rows are for.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fairlead.batch import alike, row_tokens
from fairlead.data import token_budget_batches
from fairlead.runtime.dispatch import row_lengths

__all__ = ["microbatches", "training_budget"]

_ON_A_GPU = 8192
_ON_A_PROCESSOR = 4096  # fewer are too short for two threads to be worth their while, more gain nothing
_ACTIVATIONS = 2**30  # bytes
_FEWEST = 1024


def training_budget(config: Any, device: str) -> int:
    """Tokens of one forward and backward pass of a model with this configuration, where a recipe does not say.

    On a processor no more than what keeps activations to about a gibibyte: for each token and layer some fourteen vectors of
    the hidden width and three of the inner one, four bytes a number.
    """
    if device != "cpu":
        return _ON_A_GPU
    text = config.get_text_config(decoder=True)
    inner = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    a_token = 4 * text.num_hidden_layers * (14 * text.hidden_size + 3 * inner)
    return max(_FEWEST, min(_ON_A_PROCESSOR, _ACTIVATIONS // a_token // _FEWEST * _FEWEST))


def microbatches(batch: Any, budget: int, ragged: bool) -> list[list[int]]:
    """Rows in groups of at most `budget` tokens, or of a single row that has more; longest rows first.

    Ragged rows have no padding, and rows of equal prompts stay together as far as the budget allows and share the prompt's tokens.
    Padded rows are as long as the longest of their group.
    """
    padded = row_lengths(batch)
    if not ragged:
        return token_budget_batches(padded, budget)
    filled: Tensor = row_tokens(batch)  # type: ignore[assignment]
    own: list[int] = filled.flatten(1).sum(1).tolist()
    if hasattr(batch, "prompt_mask"):
        families = alike(batch.prompt_ids, batch.prompt_mask)
        prompts: list[int] = batch.prompt_mask.sum(1).tolist()
    else:
        families, prompts = [[row] for row in range(len(own))], [0] * len(own)
    # Rows of similar length come together, as attention computes them side by side.
    families.sort(key=lambda rows: (-max(padded[row] for row in rows), rows[0]))
    groups: list[list[int]] = []
    tokens = 0
    for rows in families:
        prompt = prompts[rows[0]]
        whole = prompt + sum(own[row] for row in rows)
        known = False  # whether the present group has the prompt already
        if groups and tokens + whole > budget >= whole:
            groups.append([])
            tokens = 0
        for row in sorted(rows, key=lambda row: (-own[row], row)):
            cost = own[row] + (0 if known else prompt)
            if not groups or (groups[-1] and tokens + cost > budget):
                groups.append([])
                tokens, cost = 0, own[row] + prompt
            groups[-1].append(row)
            tokens, known = tokens + cost, True
    return groups
