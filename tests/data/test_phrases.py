"""Phrases: what begins one, and that every token is in one."""

from __future__ import annotations

import re
from typing import Any

import pytest

from fairlead import functional
from fairlead.data import TextCodec, phrase_tree

from .conftest import KINDS


def by_words(text: str) -> list[str]:
    """A token for each word with the blank before it."""
    return re.findall(r"\s*\S+", text)


def test_function_words_begin_phrases_and_punctuation_ends_clauses_and_sentences() -> None:
    text = "The old man of the sea walked, and he did not look back. Then it rained!"
    tree = phrase_tree(text, by_words(text))
    # (The old man)(of the sea walked,) | (and he did not look back.)   ||   (Then)(it rained!)
    assert tree == [[[[1, 1, 1], [1, 1, 1, 1]], [[1] * 6]], [[[1], [1, 1]]]]
    assert functional.parse_segments(tree, 5) == [
        3,
        10,
        3,
    ]  # a phrase of six falls into words, which join the action before
    assert functional.parse_segments(tree, 7) == [3, 4, 6, 3]


def test_a_word_of_several_tokens_is_never_cut() -> None:
    tree = phrase_tree("harbour.\n\nyes", ["har", "b", "our", ".", "\n", "\n", "yes", ""])
    assert tree == [[[[6]]], [[[2]]]]
    assert functional.parse_segments(tree, 3) == [6, 2]


def test_scripts_without_blanks_and_texts_without_words() -> None:
    assert phrase_tree("你好。再见！", list("你好。再见！")) == [[[[3]]], [[[3]]]]
    assert phrase_tree("你好，再见", list("你好，再见")) == [[[[3]], [[2]]]]
    assert phrase_tree("", []) == [] and phrase_tree("", ["", ""]) == [[[[2]]]]


@pytest.mark.parametrize("kind", KINDS)
def test_texts_of_tokens_make_up_the_text(tokenizers: Any, kind: str) -> None:
    codec = TextCodec(tokenizers[kind])
    for text in ("the quick brown fox, and a story", "héllo — 你好。", "one\n\ntwo  three"):
        ids = codec.encode_response(text, "a")
        texts = codec.token_texts(ids)
        assert len(texts) == len(ids) and "".join(texts).split() == codec.decode(ids).split()
        assert sum(functional.parse_segments(phrase_tree(text, texts), 5)) == len(ids)
    assert codec.token_texts([]) == []
