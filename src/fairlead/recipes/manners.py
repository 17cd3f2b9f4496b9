"""Rude and polite answers for the recipe `safe-rlhf`: from rated feedback to pairs for a model of costs.

Knows: records with `prompt` and `responses`, each with a text and a rating of politeness from 1 to 5.
Does not know: tokenizers, models.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

__all__ = ["rudeness_pairs"]

_RUDE = 2
"""The highest rating of politeness that counts as harmful."""


def rudeness_pairs(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Every two answers of which one is politer: that one is chosen, and both say whether they are rude."""
    pairs = []
    for first, second in combinations(record["responses"], 2):
        ratings = [answer["ratings"]["polite"] for answer in (first, second)]
        if ratings[0] == ratings[1]:
            continue
        politer, ruder = (first, second) if ratings[0] > ratings[1] else (second, first)
        pairs.append(
            {
                "prompt": record["prompt"],
                "chosen": politer["text"],
                "rejected": ruder["text"],
                "chosen_harmful": max(ratings) <= _RUDE,
                "rejected_harmful": min(ratings) <= _RUDE,
            }
        )
    return pairs
