"""Tidying plain-English corpora for pre-training: a transform of the recipe `pretrain-base`.

Knows: the habits of stories, reviews and crowd-written dialogues (stray blanks, lower-case turns, name placeholders, loops).
Does not know: tokenizers, models.
"""

from __future__ import annotations

import re
from typing import Any

__all__ = ["tidy"]

_PLAIN = str.maketrans(
    {
        "“": '"',
        "”": '"',
        "‘": "'",
        "’": "'",
        "´": "'",
        "`": "'",
        "–": "-",
        "—": "-",
        "―": "-",
        "…": "...",
        "\u2029": "\n",
        "\u2003": " ",
        "\u3000": " ",
        "\u00a0": " ",
        "\t": " ",
    }
)
_PLACEHOLDER = re.compile(
    r"\[[^\]]*\]|\{[^}]*\}|<[^>]*>|_{2,}|\buser ?\d|\bpersona \d"
    r"|\((?:your |my |user ?\d?|first |last |other )*(?:'s )?(?:name|hometown|location|city|country)[^)]*\)",
    re.IGNORECASE,
)
_GREETING = re.compile(r"nice to meet you|same to you|and you\?$|what.s yours", re.IGNORECASE)
_SHORTEST_TEXT = 200
_FEWEST_TURNS = 4
_LOOP = 25


def tidy(record: dict[str, Any]) -> dict[str, Any] | None:
    """A `text` or `messages` record with plain punctuation and blanks; None when too little of it is left.

    Dialogues lose opening turns with placeholders such as "(user 1's name)", end where they begin to repeat themselves, and
    consist of whole exchanges.
    """
    if "text" in record:
        text = _plain(record["text"])
        return {"text": text} if len(text) >= _SHORTEST_TEXT else None
    turns = [
        {"role": turn["role"], "content": _sentence_case(turn["content"])} for turn in _sound_turns(record["messages"])
    ]
    turns = turns[: len(turns) // 2 * 2]
    if len(turns) < _FEWEST_TURNS or any(not turn["content"] for turn in turns):
        return None
    return {"messages": turns}


def _plain(text: str) -> str:
    text = text.translate(_PLAIN).replace("\r", "")
    text = re.sub(r" {2,}", " ", text)
    text = re.sub(r' +([,.!?;:])(?=\s|$|")', r"\1", text)
    text = re.sub(r" *\n *", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def _sentence_case(text: str) -> str:
    text = re.sub(r"\s+", " ", _plain(text))
    text = re.sub(r"\bi\b(?=$|[ ,!?]|'(?:m|ve|d|ll)\b)", "I", text)
    return re.sub(r"(^|[.!?] )([a-z])(?!\.)", lambda found: found[1] + found[2].upper(), text)


def _sound_turns(turns: list[dict[str, str]]) -> list[dict[str, str]]:
    """The longest stretch without placeholders and without a loop, beginning with the user."""
    marked = [index for index, turn in enumerate(turns) if _PLACEHOLDER.search(turn["content"])]
    opening = [index for index in marked if index < len(turns) // 3]
    start = opening[-1] + 1 if opening else 0
    start += start % 2
    while opening and start + 1 < len(turns) and _GREETING.search(turns[start]["content"]):
        start += 2
    kept: list[dict[str, str]] = []
    seen: set[str] = set()
    for turn in turns[start:]:
        words = turn["content"].lower().strip()
        if _PLACEHOLDER.search(words) or (words in seen and len(words) > _LOOP):
            break
        seen.add(words)
        kept.append(turn)
    return kept
