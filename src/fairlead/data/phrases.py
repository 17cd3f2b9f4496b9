"""Phrases of a text, by punctuation and small words: a rough parse that needs no model.

Knows: texts of tokens, English function words.
Does not know: tokenizers, what phrases are for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

__all__ = ["phrase_tree"]

Tree = int | list["Tree"]
"""A number of tokens, or parts of which each is a tree."""

_FUNCTION_WORDS = """
    a an the this that these those my your his her its our their some any no every each
    i you he she it we they me him us them who whom whose which what
    about above across after against along among around as at before behind below beneath beside between beyond by despite down
    during except for from in inside into like near of off on onto out outside over past since through throughout to toward
    towards under until up upon with within without
    and but or nor so yet if because although though while when where whether than unless once
    am is are was were be been being do does did have has had can could may might must shall should will would not
"""
_SMALL = frozenset(_FUNCTION_WORDS.split())
_SENTENCE_END = re.compile(r"[.!?…。！？]['\")\]”’]*\s*$|\n\s*$")
_CLAUSE_END = re.compile(r"[,;:–—、，；：]['\")\]”’]*\s*$")
_WORD_ENDS = re.compile(r"[\s。！？、，；：]$")  # where there are no blanks, punctuation is all that ends a word


def phrase_tree(response: str, pieces: Sequence[str]) -> Tree:
    """Sentences of clauses of phrases of words, each word as its number of tokens; the sum is the number of `pieces`.

    A sentence and a clause end at punctuation, or a line. A phrase is function words followed by content words, so it ends before
    the next function word that follows a content word. `pieces` are the texts of the tokens of `response`; what adds no text
    belongs to the word before it.

    Source: the chinks and chunks of Liberman and Church 1992, "Text analysis and word pronunciation in text-to-speech synthesis".
    """
    words: list[str] = []
    sizes: list[int] = []
    for piece in pieces:
        if not words or (piece.strip() and (piece[0].isspace() or _WORD_ENDS.search(words[-1]))):
            words.append(piece)
            sizes.append(1)
        else:
            words[-1] += piece
            sizes[-1] += 1
    tree: list[Tree] = []
    for sentence in _split(range(len(words)), lambda last, _: bool(_SENTENCE_END.search(words[last]))):
        clauses: list[Tree] = []
        for clause in _split(sentence, lambda last, _: bool(_CLAUSE_END.search(words[last]))):
            phrases = _split(clause, lambda last, word: _small(words[word]) and not _small(words[last]))
            clauses.append([[sizes[word] for word in phrase] for phrase in phrases])
        tree.append(clauses)
    return tree


def _small(word: str) -> bool:
    return re.sub(r"\W", "", word).lower() in _SMALL


def _split(words: Iterable[int], ends: Callable[[int, int], bool]) -> list[list[int]]:
    """Runs of words; one ends where `ends(last, next)` says so."""
    runs: list[list[int]] = []
    for word in words:
        if not runs or ends(runs[-1][-1], word):
            runs.append([])
        runs[-1].append(word)
    return runs
