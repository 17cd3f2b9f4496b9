"""The worth of a plain answer, counted by hand."""

from __future__ import annotations

import pytest

from fairlead.checks.plain_answers import worth

PROMPT = [{"role": "user", "content": "Hi!"}, {"role": "user", "content": "Why do cats sleep in warm places?"}]


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("Most cats sleep where it is nice and safe.", 2.5),
        ("Most cats rest where it is nice and safe.", 2.0),  # half of the topic
        ("Most cats sleep where it is nice and safe", 2.0),  # not finished
        ("Cats sleep.", 2.1),  # 4 words too few
        ("cats sleep cats sleep cats sleep", 2.0 - 2 * 3 / 5),  # 2 different pairs among 5
        ("", 0.4),
    ],
)
def test_worth(response: str, expected: float) -> None:
    assert worth(PROMPT, response) == pytest.approx(expected)
