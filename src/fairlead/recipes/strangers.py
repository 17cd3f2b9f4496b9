"""Responses that answer another prompt, added to ranked feedback so that a reward model learns to look at the prompt.

Knows: ranked feedback (`responses`, `choices`, perhaps `kind`).
Does not know: tokenizers, models.

The idea is that of negatives from other examples of the batch, as in contrastive retrieval (Karpukhin et al. 2020, arXiv
2004.04906): a fluent text is easy to mistake for a good answer as long as every text in the data answers its own prompt.
"""

from __future__ import annotations

import copy
from typing import Any

__all__ = ["add_strangers"]

_STRANGER = "stranger"


def add_strangers(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each record with one more response: the best of another record of its kind, ranked with the worst by everyone.

    The other record is half the list of that kind away, so the choice depends on the data alone.
    """
    by_kind: dict[Any, list[dict[str, Any]]] = {}
    for record in records:
        by_kind.setdefault(record.get("kind"), []).append(record)
    places = {id(record): (group, index) for group in by_kind.values() for index, record in enumerate(group)}
    return [_with_stranger(record, *places[id(record)]) for record in records]


def _with_stranger(record: dict[str, Any], group: list[dict[str, Any]], index: int) -> dict[str, Any]:
    other = group[(index + max(len(group) // 2, 1)) % len(group)]
    if other is record:
        return record
    best = other["choices"][0]["ranking"][0][0]
    text = next(response["text"] for response in other["responses"] if response["id"] == best)
    widened = copy.deepcopy(record)
    widened["responses"].append({"id": _STRANGER, "text": text})
    for choice in widened["choices"]:
        choice["ranking"][-1].append(_STRANGER)
    return widened
