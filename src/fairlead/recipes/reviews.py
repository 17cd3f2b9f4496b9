"""Sentiment data for the recipe `sentiment`: from labelled sentences to pairs, texts and openings.

Knows: records with `id`, `text` and `label` (positive or negative).
Does not know: tokenizers, models.

Half of the labelled sentences train the reward model, the other half the judge. A hash of the identifier decides, so the halves
stay the same whatever the order of the file.
"""

from __future__ import annotations

import hashlib
from typing import Any

__all__ = ["judge_half", "opening", "pair_labels", "review", "reward_half"]

PROMPT = "Film review:"
_OPENING_WORDS = 4
_FEWEST_WORDS = 8


def review(record: dict[str, Any]) -> dict[str, Any]:
    """The sentence as a document that begins like every prompt."""
    return {"text": f"{PROMPT} {record['text']}"}


def opening(record: dict[str, Any]) -> dict[str, Any] | None:
    """The first words as a prompt to be continued; None for a sentence too short to leave anything open."""
    words = record["text"].split()
    if len(words) < _FEWEST_WORDS:
        return None
    return {"prompt": f"{PROMPT} {' '.join(words[:_OPENING_WORDS])}", "label": record["label"]}


def reward_half(record: dict[str, Any]) -> dict[str, Any] | None:
    """Records of the half that trains the reward model."""
    return record if _coin(record["id"]) == 0 else None


def judge_half(record: dict[str, Any]) -> dict[str, Any] | None:
    """Records of the half that trains the judge."""
    return record if _coin(record["id"]) == 1 else None


def pair_labels(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each positive sentence chosen over a negative one, matched in the (random) order of the file."""
    texts = {label: [r["text"] for r in records if r["label"] == label] for label in ("positive", "negative")}
    return [
        {"prompt": PROMPT, "chosen": f" {good}", "rejected": f" {bad}"}
        for good, bad in zip(texts["positive"], texts["negative"], strict=False)
    ]


def _coin(identifier: str) -> int:
    return hashlib.sha256(identifier.encode()).digest()[0] & 1
