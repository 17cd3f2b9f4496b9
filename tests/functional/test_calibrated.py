"""Calibrated rewards, the KL factor, the best of a group, and online DPO as advantages: numbers by hand."""

from __future__ import annotations

import math

import pytest
import torch

from fairlead import functional


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_calibrated_rewards_by_hand() -> None:
    score = torch.tensor([2.0, 1.0, 1.7, 1.0, 0.5])
    group, anchor = torch.tensor([3, 3, 7, 7, 3]), torch.tensor([False, True, False, True, False])
    found = functional.calibrated_reward(score, group, anchor)
    assert found.tolist() == pytest.approx([0.731059, 0.5, 0.668188, 0.5, sigmoid(-0.5)], abs=1e-6)
    shifted = score + torch.tensor(
        [4.0, 4.0, -9.0, -9.0, 4.0]
    )  # whatever is added to all answers of a prompt drops out
    torch.testing.assert_close(functional.calibrated_reward(shifted, group, anchor), found)
    unknown = torch.tensor([2.0, torch.nan, 1.7, 1.0, 0.5])
    assert functional.calibrated_reward(unknown, group, anchor).isnan().tolist() == [True, True, False, False, True]
    with pytest.raises(ValueError, match="one baseline answer"):
        functional.calibrated_reward(score, group, torch.zeros(5, dtype=torch.bool))


def test_the_kl_factor_by_hand() -> None:
    ratio = torch.tensor([1.0, 5.0, -0.4])
    calibrated = torch.tensor([0.731059, 0.731059, sigmoid(-0.5)])
    assert (calibrated * functional.kl_factor(ratio, 4.0)).tolist() == pytest.approx([0.548294, 0, 0.415295], abs=1e-6)
    assert functional.kl_factor(ratio, 4.0, clamp=True).tolist() == pytest.approx([0.75, 0, 1])
    with pytest.raises(ValueError, match="maximum"):
        functional.kl_factor(ratio, 0.0)


def test_the_best_of_a_group() -> None:
    score, group = torch.tensor([-5.0, -1.0, 9.0, 1.0, 1.0, 2.0]), torch.tensor([0, 0, 0, 1, 1, 2])
    candidate = torch.tensor([True, True, False, True, True, False])
    assert functional.best_of_group(score, group, candidate).tolist() == [False, True, False, True, False, False]


def test_online_dpo_as_advantages_has_the_gradient_of_its_loss() -> None:
    """Log-ratios 0.5 and −0.3 at β 0.1 are a loss of 0.653947, with λ 5, 20 tokens and log π(y⁺) −12 of 3.653947."""
    beta, likelihood = 0.1, 5.0
    logprobs = torch.tensor([-12.0, -9.0, -4.0, -8.0, -6.0], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([-12.5, -8.7, -4.0, -7.0, -6.5], dtype=torch.float64)
    lengths, group = torch.tensor([20, 9, 5, 4, 6]), torch.tensor([5, 5, 5, 2, 2])
    side = torch.tensor([1.0, -1.0, 0.0, -1.0, 1.0], dtype=torch.float64)
    chosen, rejected = [0, 4], [1, 3]
    loss, _, _ = functional.dpo(logprobs[chosen], logprobs[rejected], reference[chosen], reference[rejected], beta)
    assert float(loss[0].detach()) == pytest.approx(0.653947, abs=1e-6)
    loss = loss - likelihood / lengths[chosen] * logprobs[chosen]
    assert float(loss[0].detach()) == pytest.approx(3.653947, abs=1e-6)
    (wanted,) = torch.autograd.grad(loss.mean(), logprobs)
    advantage = functional.dpo_advantages(logprobs.detach(), reference, lengths, group, side, beta, likelihood)
    assert float(advantage[2]) == 0
    (found,) = torch.autograd.grad(-(advantage * logprobs)[side != 0].mean(), logprobs)
    torch.testing.assert_close(found, wanted)


def test_a_side_without_its_other_is_told() -> None:
    one = torch.zeros(2)
    with pytest.raises(ValueError, match="one chosen and one rejected"):
        functional.dpo_advantages(one, one, one + 1, torch.tensor([0, 1]), torch.tensor([1.0, -1.0]), 0.1)
