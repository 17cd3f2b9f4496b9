"""Texts: length, variety, repetition by hand."""

from __future__ import annotations

import pytest

from fairlead.evaluation import describe_texts, distinct, meteor, plain_text, self_repetition, words


def test_words_ignore_case_and_punctuation() -> None:
    assert words("Don't stop, NOW!") == ["don't", "stop", "now"]


def test_distinct_counts_over_the_set() -> None:
    assert distinct(["a b", "a c"], 1) == pytest.approx(3 / 4)
    assert distinct(["a b", "a b"], 2) == pytest.approx(1 / 2)
    assert distinct(["a"], 2) is None


def test_self_repetition_is_within_one_text() -> None:
    assert self_repetition("a b c a b c") == pytest.approx(1 / 4)  # abc bca cab abc
    assert self_repetition("a b") == 0.0


def test_meteor() -> None:
    words = "one two three four five six seven eight nine ten"
    assert meteor(words, words) == pytest.approx(1 - 0.5 * 0.1**3)  # one chunk of ten matches
    assert meteor("a b", "c d") == 0 and meteor("", "a") == 0
    # Three matches of four and five words in two chunks: P = 3/4, R = 3/5.
    mean = 10 * 0.75 * 0.6 / (0.6 + 9 * 0.75)
    assert meteor("a b x c", "c y a b z") == pytest.approx(mean * (1 - 0.5 * (2 / 3) ** 3))
    # A word is matched as often as both have it.
    assert meteor("a a a", "a") == pytest.approx(10 / 3 / (1 + 3) * 0.5)


def test_describe_texts() -> None:
    found = describe_texts(["One two three.", '"Four!" ', "", "five"])
    assert found["texts"] == 4 and found["vocabulary"] == 5
    assert found["mean_words"] == pytest.approx(5 / 4)
    assert found["empty"] == pytest.approx(1 / 4)
    assert found["ends_properly"] == pytest.approx(2 / 3)
    assert describe_texts([])["mean_words"] is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        ("x", "x"),
        ([{"role": "user", "content": "hi"}], "hi"),
        ([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}], "user: hi\nassistant: ho"),
        ([{"role": "user", "content": [{"type": "text", "text": "seen"}]}], "seen"),
        (3, "3"),
    ],
)
def test_plain_text(value: object, text: str) -> None:
    assert plain_text(value) == text
