"""What a set of texts looks like: length, variety, repetition, completeness.

Knows: texts and their words.
Does not know: scores, models, who wrote the texts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

__all__ = ["describe_texts", "distinct", "meteor", "ngrams", "plain_text", "self_repetition", "words"]

_WORD = re.compile(r"\w+(?:['’]\w+)*")
_ENDINGS = tuple(".!?…。！？")
_CLOSERS = "\"'”’»)]}*_` \t\n"


def plain_text(value: Any) -> str:
    """A prompt or response as text: a string stays, messages become `role: content` lines, nothing becomes ''."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        content = value.get("content", value)
        if content is not value:
            return plain_text(content)
        return str(value.get("text", ""))
    if isinstance(value, Sequence):
        if len(value) == 1:
            return plain_text(value[0])
        lines = []
        for item in value:
            role = item.get("role") if isinstance(item, Mapping) else None
            lines.append(f"{role}: {plain_text(item)}" if role else plain_text(item))
        return "\n".join(lines)
    return str(value)


def words(text: str) -> list[str]:
    """Lower-cased words without punctuation."""
    return _WORD.findall(text.lower())


def ngrams(tokens: Sequence[str], size: int) -> list[tuple[str, ...]]:
    """Every run of `size` neighbouring tokens, in order."""
    return list(zip(*(tokens[offset:] for offset in range(size)), strict=False))


def distinct(texts: Sequence[str], size: int) -> float | None:
    """Distinct n-grams over all n-grams of the set; None when there is no n-gram.

    Source: Li et al. 2016 (arXiv 1510.03055), distinct-1 and distinct-2. It falls as a set grows: compare sets of equal size.
    """
    found = [gram for text in texts for gram in ngrams(words(text), size)]
    return len(set(found)) / len(found) if found else None


def self_repetition(text: str, size: int = 3) -> float:
    """Share of a text's n-grams that have been said before in the same text; 0 for a text without n-grams."""
    found = ngrams(words(text), size)
    return 1 - len(set(found)) / len(found) if found else 0.0


def meteor(text: str, other: str) -> float:
    """METEOR of a text against another, on equal words alone: F · (1 − ½ (chunks / matches)³) with F = 10 P R / (R + 9 P).

    Words are those between blanks. Each word of the text is matched with the first equal word of the other that is still free; a
    chunk is a run of matches that are neighbours, in order, in both. It is 0 without a match and just below 1 for two equal texts.

    Source: Banerjee and Lavie 2005, with the parameters of NLTK; stems and synonyms are left out.
    """
    own, theirs = text.split(), other.split()
    places: dict[str, list[int]] = {}
    for place in reversed(range(len(theirs))):
        places.setdefault(theirs[place], []).append(place)
    matches = [(place, places[word].pop()) for place, word in enumerate(own) if places.get(word)]
    if not matches:
        return 0.0
    following = sum(b == (a[0] + 1, a[1] + 1) for a, b in pairwise(matches))
    precision, recall = len(matches) / len(own), len(matches) / len(theirs)
    mean = 10 * precision * recall / (recall + 9 * precision)
    return mean * (1 - 0.5 * ((len(matches) - following) / len(matches)) ** 3)


def ends_properly(text: str) -> bool:
    """Whether the last sign that counts is a sentence's end; quotes, brackets and markdown behind it are passed over."""
    return text.rstrip(_CLOSERS).endswith(_ENDINGS)


def describe_texts(texts: Sequence[str]) -> dict[str, float | int | None]:
    """Length, variety and completeness of a set of texts, as JSON-able numbers (None where a set says nothing).

    `ends_properly` and `self_repetition` are taken over the texts that are not empty.
    """
    filled = [text for text in texts if text.strip()]
    tokens = [words(text) for text in texts]
    return {
        "texts": len(texts),
        "mean_words": sum(map(len, tokens)) / len(texts) if texts else None,
        "empty": 1 - len(filled) / len(texts) if texts else None,
        "ends_properly": sum(map(ends_properly, filled)) / len(filled) if filled else None,
        "self_repetition": sum(map(self_repetition, filled)) / len(filled) if filled else None,
        "distinct_1": distinct(texts, 1),
        "distinct_2": distinct(texts, 2),
        "vocabulary": len({word for found in tokens for word in found}),
    }
