"""Two answers and the question which is better, as one prompt: for a language model that judges pairs.

Knows: the words of the question, records of pairs and of ranked feedback.
Does not know: who judges, tokenizers, models.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

from fairlead.data.records import Prompt

__all__ = ["LABELS", "comparison", "comparisons"]

LABELS = ("A", "B")
"""What the judge says for the first answer, and for the second."""


def comparison(prompt: Prompt, first: str, second: str) -> Prompt:
    """The question which of two answers is better; of a conversation only its last message is shown."""
    asked = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    text = f"{asked}\n\n{LABELS[0]}: {first}\n\n{LABELS[1]}: {second}\n\nWhich answer is better, {LABELS[0]} or {LABELS[1]}?"
    return [{"role": "user", "content": text}]


def comparisons(record: dict[str, Any]) -> list[dict[str, Any]]:
    """A transform for stage `sft`: every pair of a record as two prompts, in both orders, each with the right label as response.

    A record has `chosen` and `rejected`, or `responses` with `choices` as ranked feedback has them. Ties are left out.
    """
    rows = []
    for better, worse in _pairs(record):
        for first, second, label in ((better, worse, LABELS[0]), (worse, better, LABELS[1])):
            rows.append({"prompt": comparison(record["prompt"], first, second), "response": label})
    return rows


def _pairs(record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The better and the worse text of every judgement."""
    if "chosen" in record:
        yield record["chosen"], record["rejected"]
        return
    texts = {response["id"]: response["text"] for response in record["responses"]}
    for choice in record["choices"]:
        for above, below in combinations(choice["ranking"], 2):
            for better in above:
                for worse in below:
                    yield texts[better], texts[worse]
