"""Rewards that rules give, with numbers worked by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fairlead.batch import Samples, row_table
from fairlead.checks.texts import passes_check
from fairlead.rewards import CheckReward, LengthReward, MixedScripts, MustInclude, RepetitionPenalty, combine


def samples(*rows: dict[str, Any]) -> Samples:
    """Texts as samples; rules look at nothing else."""
    count = len(rows)
    tokens = torch.ones(count, 1, dtype=torch.int64)
    return Samples(
        prompt_ids=tokens,
        prompt_mask=tokens.bool(),
        tokens=tokens,
        mask=tokens.bool(),
        group=torch.arange(count),
        seed=torch.zeros(count, dtype=torch.int64),
        logprobs=torch.zeros(count, 1),
        sampling_logprobs=torch.zeros(count, 1),
        truncated=torch.zeros(count, dtype=torch.bool),
        rows=row_table([{"prompt": "p", **row} for row in rows]),
        batch_size=[count],
    )


def texts(*responses: str, **columns: Any) -> Samples:
    return samples(*({"response": response, **columns} for response in responses))


def test_must_include() -> None:
    batch = texts("A red boat at SEA", "a boat", "nothing", must_include=["boat", "sea"])
    assert MustInclude()(batch).tolist() == [1.0, 0.5, 0.0]
    assert MustInclude(ignore_case=False)(batch).tolist() == [0.5, 0.5, 0.0]
    assert MustInclude(free_words=1, price=0.25)(batch).tolist() == [0.0, 0.25, 0.0]  # 4, 1 and 0 words too many
    other = samples({"response": "x", "words": ["x"]}, {"response": "x", "words": []})
    assert MustInclude(field="words")(other).tolist() == [1.0, 0.0]


def test_length() -> None:
    reward = LengthReward(shortest=2, longest=4)(texts("", "a", "a b", "a b c d", "a b c d e f g"))
    torch.testing.assert_close(reward, torch.tensor([0.8, 0.9, 1.0, 1.0, 0.7]))


def test_repetition() -> None:
    # Two-word groups: "a b", "b a", "a b": 3, of which 2 are different.
    reward = RepetitionPenalty(n=2)(texts("a b A B", "a b c d", "a", ""))
    torch.testing.assert_close(reward, torch.tensor([-1 / 3, 0.0, 0.0, 0.0]))
    torch.testing.assert_close(RepetitionPenalty(n=1)(texts("go go go go")), torch.tensor([-0.75]))


def test_check() -> None:
    batch = samples(
        {"response": "The cat sat.", "check": {"all": ["cat"], "max_words": 3}},
        {"response": "The cat sat down.", "check": {"all": ["cat"], "max_words": 3}},
        {"response": "whatever", "check": None},
        {"response": "whatever"},
    )
    assert CheckReward()(batch).tolist() == [1.0, 0.0, 0.0, 0.0]
    assert CheckReward(without=0.5)(batch).tolist() == [1.0, 0.0, 0.5, 0.5]
    assert CheckReward(without=None)(batch).isnan().tolist() == [False, False, True, True]
    assert CheckReward(field="other")(samples({"response": "a", "other": {"any": ["a"]}})).tolist() == [1.0]


@pytest.mark.parametrize(
    ("check", "text", "passes"),
    [
        ({"all": ["cat", "dog"]}, "Cat and DOG", True),
        ({"all": ["cat", "dog"]}, "cat", False),
        ({"all": ["cat"]}, "concatenate", False),
        ({"all": ["c++"]}, "I like C++.", True),
        ({"any": ["cat", "dog"]}, "a dog", True),
        ({"any": ["cat", "dog"]}, "a cow", False),
        ({"any": []}, "a cow", True),
        ({"max_words": 2}, "one two", True),
        ({"max_words": 2}, "one two three", False),
        ({"all": ["größe"]}, "Die GRÖSSE? Die Größe!", True),
        ({"all": ["two words"]}, "these two words here", True),
        ({}, "", True),
    ],
)
def test_what_passes(check: dict[str, Any], text: str, passes: bool) -> None:
    assert passes_check(check, text) is passes


def test_an_unknown_check_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"unknown check \['none'\]; use all, any, max_words"):
        passes_check({"none": ["x"]}, "x")


def test_the_score_is_a_weighted_sum() -> None:
    channels = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([10.0, float("nan")])}
    parts = {"a": LengthReward(weight=2.0), "b": LengthReward(weight=-0.5)}
    score = combine(channels, parts)
    assert score[0] == -3.0 and score[1].isnan()
    assert combine(channels, parts | {"b": LengthReward(weight=0.0)}).tolist() == [2.0, 4.0]
    with pytest.raises(ValueError, match="nothing to learn from"):
        combine(channels, {"a": LengthReward(weight=0.0)})


def test_letters_of_another_script() -> None:
    batch = texts("plain", "café, naïve", "x² ≤ 3 · π", "так", "我 see", "42")
    assert MixedScripts()(batch).tolist() == [0, 0, 1, 1, 1, 0]
    assert MixedScripts(tolerated=1)(batch).tolist() == [0, 0, 0, 1, 0, 0]
    assert MixedScripts(script="CYRILLIC")(batch).tolist() == [1, 1, 1, 0, 1, 0]


def test_the_sheet_s_table_for_mathematics() -> None:
    """Right and clean 1, right and mixed 0, wrong and clean 0, wrong and mixed −1."""
    batch = texts("7", "семь 7", "8", "восемь")
    right = torch.tensor([1.0, 1.0, 0.0, 0.0])
    rewards = {"right": CheckReward(), "mixed": MixedScripts(weight=-1.0)}
    assert combine({"right": right, "mixed": rewards["mixed"](batch)}, rewards).tolist() == [1, 0, 0, -1]
