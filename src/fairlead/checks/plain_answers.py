"""A reward of plain answers that is a rule, so that what a learned reward gets wrong can be measured in real text.

Knows: words, sentence ends, repetition.
Does not know: models, pairs, methods.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

__all__ = ["worth"]

_WORD = re.compile(r"[a-z']+")
_SHORT, _SHORTEST, _LONGEST = 3, 6, 20  # letters of a word that says nothing of the topic; words of an answer


def worth(prompt: Sequence[dict[str, str]], response: str) -> float:
    """At most 2.5: 1 for keeping to the topic, 1 for 6 to 20 words, 0.5 for a finished sentence; repetition costs up to 2.

    The topic is kept where two words of the last message with four letters or more stand in the response, and half where one does. A word
    too many or too few costs 0.1. Repetition is the share of pairs of words that have stood in the response before.
    """
    words = _WORD.findall(response.lower())
    topic = {word for word in _WORD.findall(prompt[-1]["content"].lower()) if len(word) > _SHORT} & set(words)
    missed = max(_SHORTEST - len(words), len(words) - _LONGEST, 0)
    pairs = list(pairwise(words))
    repeated = 1 - len(set(pairs)) / len(pairs) if pairs else 0.0
    finished = response.rstrip().endswith((".", "!", "?"))
    return min(len(topic), 2) / 2 + (1 - missed / 10) + 0.5 * finished - 2 * repeated
