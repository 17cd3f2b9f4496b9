"""Answers with a simulated thought before them for the recipe `rlmt`, and the same answers without one for its twin.

Knows: ranked feedback, `prompt`, `kind`, `responses` and `choices`.
Does not know: tokenizers, models.
"""

from __future__ import annotations

import re
from typing import Any

__all__ = ["answer_alone", "think_then_answer"]

_WORDS = 4
"""Words of the answer that the thought names."""


def think_then_answer(record: dict[str, Any]) -> dict[str, Any]:
    """The answer that the first annotator likes best, behind a thought: what was asked, and the longest words of the answer."""
    answer = _best(record)
    words = list(dict.fromkeys(re.findall(r"[^\W\d_]+", answer)))
    longest = sorted(words, key=len, reverse=True)[:_WORDS]
    names = ", ".join(word.lower() for word in words if word in longest)
    thought = f"A {record['kind'].replace('_', ' ')}. My answer has: {names}."
    return {"prompt": record["prompt"], "response": f"<think>\n{thought}\n</think>\n\n{answer}"}


def answer_alone(record: dict[str, Any]) -> dict[str, Any]:
    """The same answer without the thought."""
    return {"prompt": record["prompt"], "response": _best(record)}


def _best(record: dict[str, Any]) -> str:
    best = record["choices"][0]["ranking"][0][0]
    return next(str(answer["text"]) for answer in record["responses"] if answer["id"] == best)
