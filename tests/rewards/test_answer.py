"""The view on the answer: what is extracted, and that no reward sees more."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from fairlead import functional
from fairlead.batch import Samples, row_table
from fairlead.checks.texts import answer_within
from fairlead.rewards import AnswerReward, ExactReward, MustInclude

THINK, ZERO = ("</think>", None), ("<response>", "</response>")


@pytest.mark.parametrize(
    ("text", "marks", "strict", "answer", "whole"),
    [
        ("<think>a</think>\n\nb", THINK, False, "b", True),
        ("a b", THINK, True, "[NULL]", False),
        ("a b", THINK, False, "a b", False),
        ("<think>a</think> <response> c </response> d", ZERO, True, "c", True),
        ("<think>a</think> <response> c d", ZERO, False, "c d", False),
        ("<think>a</think> <response> c d", ZERO, True, "[NULL]", False),
        ("x </response> <response> y </response>", ZERO, True, "y", True),
        ("a</think>b</think>c", THINK, True, "b</think>c", True),
        ("</think>", THINK, True, "", True),
        (" a </think> b", (None, None), True, " a </think> b", True),
    ],
)
def test_extraction(text: str, marks: tuple[Any, Any], strict: bool, answer: str, whole: bool) -> None:
    assert answer_within(text, *marks, strict) == (answer, whole)


def samples_of(*responses: str, **columns: Any) -> Samples:
    count = len(responses)
    rows = [{"prompt": "q", "response": response, **columns} for response in responses]
    zeros = torch.zeros(count, dtype=torch.int64)
    tokens = torch.zeros(count, 1, dtype=torch.int64)
    return Samples(
        prompt_ids=tokens,
        prompt_mask=tokens == 0,
        tokens=tokens,
        mask=tokens == 0,
        group=zeros,
        seed=zeros,
        logprobs=tokens.float(),
        sampling_logprobs=tokens.float(),
        truncated=zeros.bool(),
        rows=row_table(rows),
        batch_size=[count],
    )


WORDS = {"part": "must-include"}


def test_equal_answers_have_equal_rewards_whatever_was_thought() -> None:
    samples = samples_of("blue</think>sky", "I think of blue and red</think>sky", "</think>blue", must_include=["blue"])
    reward = AnswerReward(reward=WORDS)
    assert reward(samples).tolist() == [0.0, 0.0, 1.0]
    assert samples.rows[0]["response"] == "blue</think>sky"  # nobody else's rows are changed
    advantage = functional.group_relative(reward(samples)[:2], torch.zeros(2, dtype=torch.int64))
    assert advantage.tolist() == [0.0, 0.0]


def test_malformed_responses() -> None:
    samples = samples_of("blue", "x</think>blue", must_include=["blue"])
    for settings, expected in (({}, [1.0, 1.0]), ({"strict": True}, [0.0, 1.0]), ({"malformed": -3.0}, [-3.0, 1.0])):
        reward = AnswerReward(reward=WORDS, **settings)
        assert reward(samples).tolist() == expected
        assert reward.metrics() == {"malformed": 0.5}
    assert AnswerReward(reward=WORDS, malformed=-1.0)(samples_of("a", "b", must_include=["a"])).tolist() == [-1.0, -1.0]


def test_a_judge_in_other_processes_is_asked_early_and_about_the_answer() -> None:
    reward = AnswerReward(reward={"part": "exact", "workers": 1}, malformed=-1.0)
    reward.open(None, "r")  # type: ignore[arg-type]  # no model
    inner = reward.reward
    assert isinstance(inner, ExactReward)
    try:
        samples = samples_of("4</think> 5", "5", "5</think> 4", answer="5")
        for row in samples.rows:
            reward.begin(row)
        assert sorted(inner._begun) == ["4", "5"]  # not the malformed one
        assert reward(samples).tolist() == [1.0, -1.0, 0.0]
        assert reward.metrics() == {"errors": 0.0, "timeouts": 0.0, "malformed": pytest.approx(1 / 3)}
    finally:
        inner.close()


def test_refuses_a_weight_without_effect() -> None:
    with pytest.raises(ValidationError, match="set that of `answer`"):
        AnswerReward(reward=MustInclude(weight=2.0))
