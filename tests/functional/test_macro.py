"""Macro actions: the worked example, rules of termination, agreement with token GAE."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fairlead import functional

VALUES = torch.tensor([[0.2, 0.4, 0.1, 0.3, 0.5, 0.6]], dtype=torch.float64)
REWARDS = torch.tensor([[-0.01, 0.02, -0.03, 0.01, 0.0, 0.98]], dtype=torch.float64)
WHOLE = torch.ones(1, 6, dtype=torch.bool)


def advantages(length: int, lam: float = 0.95, **choices: str) -> Tensor:
    segments = functional.fixed_segments(WHOLE, length)
    return functional.macro_gae(REWARDS, VALUES, segments, 1.0, lam, **choices)[0][0]


def close(x: Tensor, *expected: float) -> None:
    torch.testing.assert_close(x, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)


def test_the_worked_example() -> None:
    close(advantages(1), 0.632961, 0.466275, 0.785552, 0.647950, 0.461000, 0.380000)
    close(advantages(2), *[0.611575] * 2, *[0.7385] * 2, *[0.43] * 2)
    close(advantages(2, value_weight="last"), *[0.51895] * 2, *[0.641] * 2, *[0.38] * 2)
    close(advantages(2, value_weight="decayed"), *[0.64245] * 2, *[0.771] * 2, *[0.446667] * 2)
    close(advantages(6), *[0.62] * 6)
    close(advantages(60, lam=0.1), *[0.62] * 6)
    returns = functional.macro_gae(REWARDS, VALUES, functional.fixed_segments(WHOLE, 2), 1.0, 0.95)[1][0]
    close(returns, *[0.911575] * 2, *[0.9385] * 2, *[0.98] * 2)
    # Rewards averaged: R = (0.005, -0.01, 0.49), so the last advantage is 0.49 - 0.55.
    close(advantages(2, reward="mean")[-2:], -0.06, -0.06)


def test_one_token_a_macro_action_is_token_gae_with_padding_and_gaps() -> None:
    mask = torch.tensor([[1, 1, 0, 1, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)
    rewards, values = torch.randn(3, 5), torch.randn(3, 5)
    made = functional.macro_gae(rewards, values, functional.fixed_segments(mask, 1), 0.9, 0.8)
    torch.testing.assert_close(made, functional.gae(rewards, values, mask, 0.9, 0.8))


def test_the_sum_of_macro_rewards_is_that_of_the_tokens() -> None:
    for length in (1, 2, 3, 4, 6):
        total = functional.segment_sum(REWARDS, functional.fixed_segments(WHOLE, length)).sum()
        torch.testing.assert_close(total, REWARDS.sum())


def test_without_discount_it_is_the_advantage_of_the_first_token_where_values_are_constant() -> None:
    values = torch.tensor([[0.2, 0.2, 0.1, 0.1, 0.5, 0.5]], dtype=torch.float64)
    macro = functional.macro_gae(REWARDS, values, functional.fixed_segments(WHOLE, 2), 1.0, 1.0)[0]
    token = functional.gae(REWARDS, values, WHOLE, 1.0, 1.0)[0]
    torch.testing.assert_close(macro[:, ::2], token[:, ::2])


def test_rules() -> None:
    eleven = functional.fixed_segments(torch.ones(1, 11, dtype=torch.bool), 5)
    assert eleven.tolist() == [[0] * 5 + [1] * 5 + [2]]
    perplexity = torch.tensor([[3.0, 2, 4, 1, 1, 5]])
    assert functional.perplexity_segments(-perplexity.log(), WHOLE).tolist() == [[0, 0, 1, 1, 1, 2]]
    gap = torch.tensor([[True, True, False, True, False], [False] * 5])
    assert functional.fixed_segments(gap, 2).tolist() == [[0, 0, -1, 1, -1], [-1] * 5]
    assert functional.length_segments(gap, [[1], []]).tolist() == [[0, 1, -1, 1, -1], [-1] * 5]
    assert functional.perplexity_segments(torch.zeros(2, 5), gap).tolist() == [[0, 0, -1, 0, -1], [-1] * 5]
    # (2 tokens)(1 token joins them) | node of 6 is taken apart: (2, 1 -> 3) | 3
    assert functional.parse_segments([2, 1, [[2, 1], 3]], 5) == [3, 3, 3]
    assert functional.parse_segments([1, [1, 1], 7], 5) == [1, 2, 7]
    assert functional.parse_segments([[1, 1], 1], 9) == [3]


def test_no_segment_goes_on_beyond_a_gap() -> None:
    gap = torch.tensor([[True, True, True, False, False, True, True], [False, True, False, True, False, False, False]])
    whole = functional.fixed_segments(gap, 4)
    assert whole.tolist() == [[0, 0, 0, -1, -1, 0, 1], [-1, 0, -1, 0, -1, -1, -1]]
    assert functional.split_at_gaps(whole).tolist() == [[0, 0, 0, -1, -1, 1, 2], [-1, 0, -1, 1, -1, -1, -1]]


def test_refusals() -> None:
    for wrong in (lambda: functional.fixed_segments(WHOLE, 0), lambda: functional.length_segments(WHOLE, [[0]])):
        with pytest.raises(ValueError):
            wrong()
    for choices in ({"value_weight": "first"}, {"reward": "product"}):
        with pytest.raises(ValueError):
            advantages(2, **choices)
    with pytest.raises(ValueError, match="number of tokens"):
        functional.parse_segments(["word"], 5)
