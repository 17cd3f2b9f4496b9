"""Judges of pairs: hand numbers, trivial rules, calibration."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from fairlead.evaluation import bag_of_words_accuracy, judge_pairs

ROWS = [
    {"prompt": "p", "chosen": "long answer", "rejected": "no"},
    {"prompt": "p", "chosen": "yes", "rejected": "a longer one"},
    {"prompt": "p", "chosen": "abc", "rejected": "abd"},
    {"prompt": "p", "chosen": "quite long", "rejected": "short"},
]


def test_hand_numbers() -> None:
    result = judge_pairs([1.0, 0.0, 0.5, 2.0], [0.0, 1.0, 0.5, 1.0], ROWS)
    assert result["pairs"] == 4
    assert result["accuracy"] == pytest.approx(2.5 / 4)  # two right, one wrong, one draw
    assert result["accuracy_low"] < 0.625 < result["accuracy_high"]
    assert result["baselines"] == {"longer": 2.5 / 4, "shorter": 1.5 / 4}
    assert result["accuracy_longer_chosen"] == 1.0 and result["pairs_longer_chosen"] == 2
    assert result["accuracy_shorter_chosen"] == 0.0 and result["pairs_shorter_chosen"] == 1
    assert result["score_mean"] == pytest.approx(6 / 8)
    assert result["score_sd"] == pytest.approx(np.std([1, 0, 0.5, 2, 0, 1, 0.5, 1], ddof=1))
    json.dumps(result, allow_nan=False)


def test_scores_that_are_missing_are_counted_and_left_out() -> None:
    result = judge_pairs([1.0, math.nan, 2.0, 2.0], [0.0, 1.0, math.inf, 1.0], ROWS)
    assert (result["pairs"], result["failed"], result["accuracy"]) == (2, 2, 1.0)
    nothing = judge_pairs([math.nan] * 4, [0.0] * 4, ROWS)
    assert nothing["pairs"] == 0 and nothing["accuracy"] is None


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="3 rows"):
        judge_pairs([1.0], [0.0], ROWS[:3])


def test_temperature_recovers_the_scale_of_the_scores() -> None:
    generator = np.random.default_rng(0)
    true = generator.normal(0, 1.5, 20_000)
    wins = generator.random(20_000) < 1 / (1 + np.exp(-true))
    margin = np.where(wins, true, -true)
    rows = [{"chosen": "a", "rejected": "b"}] * margin.size
    right = judge_pairs(margin, np.zeros_like(margin), rows)
    sure = judge_pairs(3 * margin, np.zeros_like(margin), rows)
    assert right["temperature"] == pytest.approx(1.0, rel=0.05)
    assert sure["temperature"] == pytest.approx(3.0, rel=0.05)
    assert right["calibration_error"] < 0.02 < 0.08 < sure["calibration_error"]
    assert sum(row[2] for row in right["reliability"]) == 20_000


def test_reliability_does_not_change_between_calls() -> None:
    first, second = (judge_pairs([1.0, 0.0, 0.5, 2.0], [0.0, 1.0, 0.5, 1.0], ROWS) for _ in range(2))
    assert first == second


def test_bag_of_words_finds_a_word_and_nothing_in_noise() -> None:
    generator = np.random.default_rng(1)
    words = [f"word{index}" for index in range(50)]

    def text(extra: str) -> str:
        return " ".join([*generator.choice(words, 6), extra])

    telling = [{"chosen": text("please"), "rejected": text("whatever")} for _ in range(120)]
    noise = [{"chosen": text(""), "rejected": text("")} for _ in range(400)]
    assert bag_of_words_accuracy(telling[:80], telling[80:]) == 1.0
    assert bag_of_words_accuracy(noise[:200], noise[200:]) == pytest.approx(0.5, abs=0.12)
    assert bag_of_words_accuracy(telling[:5], telling[80:]) is None
    assert bag_of_words_accuracy([{"chosen": "!", "rejected": "?"}] * 20, telling[80:]) is None


def test_train_rows_add_the_bag_of_words() -> None:
    train = [{"chosen": f"good {index}", "rejected": f"bad {index}"} for index in range(30)]
    result = judge_pairs([1.0, 1.0], [0.0, 0.0], [{"chosen": "good", "rejected": "bad"}] * 2, train)
    assert result["baselines"]["bag_of_words"] == 1.0


def test_messages_are_read_as_text() -> None:
    row = {"chosen": [{"role": "assistant", "content": "longer"}], "rejected": [{"role": "assistant", "content": "s"}]}
    assert judge_pairs([1.0], [0.0], [row])["baselines"]["longer"] == 1.0
