"""Losses on pairs."""

import math

import pytest
import torch

from fairlead import functional


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_bradley_terry_by_hand() -> None:
    # log(1 + exp(-1.5)) = .201413
    loss = functional.bradley_terry(torch.tensor([2.0, 0.0]), torch.tensor([0.5, 0.0]))
    assert loss.tolist() == pytest.approx([0.201413, math.log(2)], abs=1e-6)


def test_margin_and_centring() -> None:
    chosen, rejected = torch.tensor([2.0, 2.0]), torch.tensor([0.5, 0.5])
    for margin in (0.5, torch.tensor(0.5), torch.tensor([0.5, 0.5])):
        loss = functional.bradley_terry(chosen, rejected, margin)
        assert loss.tolist() == pytest.approx([-math.log(sigmoid(1.0))] * 2, abs=1e-6)
    centred = functional.bradley_terry(chosen, rejected, centring=0.01)
    assert centred.tolist() == pytest.approx([0.201413 + 0.01 * 6.25] * 2, abs=1e-6)


def test_bradley_terry_gradient() -> None:
    chosen = torch.tensor([2.0], requires_grad=True)
    rejected = torch.tensor([0.5], requires_grad=True)
    functional.bradley_terry(chosen, rejected, centring=0.1).sum().backward()
    assert chosen.grad is not None
    assert rejected.grad is not None
    # -(1 - sigmoid(1.5)) + 2 * .1 * 2.5
    assert chosen.grad.item() == pytest.approx(-(1 - sigmoid(1.5)) + 0.5, abs=1e-6)
    assert rejected.grad.item() == pytest.approx(1 - sigmoid(1.5) + 0.5, abs=1e-6)


def test_bradley_terry_does_not_overflow() -> None:
    loss = functional.bradley_terry(torch.tensor([-1e4]), torch.tensor([1e4]))
    assert loss.item() == 2e4


POLICY_CHOSEN, POLICY_REJECTED = torch.tensor([-10.0]), torch.tensor([-14.0])
REFERENCE_CHOSEN, REFERENCE_REJECTED = torch.tensor([-12.0]), torch.tensor([-13.0])
INPUTS = (POLICY_CHOSEN, POLICY_REJECTED, REFERENCE_CHOSEN, REFERENCE_REJECTED)  # h = 2 - (-1) = 3


def test_dpo_by_hand() -> None:
    loss, chosen, rejected = functional.dpo(*INPUTS, beta=0.1)
    assert loss.item() == pytest.approx(-math.log(sigmoid(0.3)), abs=1e-6)
    assert (chosen.item(), rejected.item()) == pytest.approx((0.2, -0.1))
    smoothed, _, _ = functional.dpo(*INPUTS, beta=0.1, label_smoothing=0.2)
    assert smoothed.item() == pytest.approx(-0.8 * math.log(sigmoid(0.3)) - 0.2 * math.log(sigmoid(-0.3)), abs=1e-6)


def test_hinge_and_ipo_by_hand() -> None:
    assert functional.dpo(*INPUTS, beta=0.1, loss="hinge")[0].item() == pytest.approx(0.7, abs=1e-6)
    assert functional.dpo(*INPUTS, beta=0.5, loss="hinge")[0].item() == 0
    assert functional.dpo(*INPUTS, beta=0.1, loss="ipo")[0].item() == pytest.approx(4.0, abs=1e-5)  # (3 - 5)^2
    assert functional.dpo(*INPUTS, beta=1 / 6, loss="ipo")[0].item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("loss", "slope"), [("sigmoid", -0.1 * (1 - sigmoid(0.3))), ("hinge", -0.1), ("ipo", 2 * (3 - 5))]
)
def test_dpo_gradient(loss: str, slope: float) -> None:
    inputs = [x.clone().requires_grad_() for x in INPUTS]
    functional.dpo(*inputs, beta=0.1, loss=loss)[0].sum().backward()
    assert inputs[0].grad is not None
    assert inputs[1].grad is not None
    assert inputs[0].grad.item() == pytest.approx(slope, abs=1e-5)
    assert inputs[1].grad.item() == pytest.approx(-slope, abs=1e-5)
    assert inputs[2].grad is None
    assert inputs[3].grad is None


def test_dpo_of_an_untrained_policy_is_log_two() -> None:
    x = torch.randn(4)
    loss, chosen, rejected = functional.dpo(x, x - 1, x, x - 1, beta=0.3)
    torch.testing.assert_close(loss, torch.full((4,), math.log(2)))
    assert chosen.tolist() == rejected.tolist() == [0] * 4


def test_dpo_rewards_are_detached() -> None:
    policy = torch.zeros(2, requires_grad=True)
    _, chosen, rejected = functional.dpo(policy, policy, torch.ones(2), torch.ones(2), beta=0.1)
    assert not chosen.requires_grad
    assert not rejected.requires_grad


def test_errors_say_what_is_wrong() -> None:
    x = torch.zeros(2)
    with pytest.raises(ValueError, match="choose one of sigmoid, hinge, ipo"):
        functional.dpo(x, x, x, x, beta=0.1, loss="logistic")
    with pytest.raises(ValueError, match="beta must be positive"):
        functional.dpo(x, x, x, x, beta=0.0)
    with pytest.raises(ValueError, match=r"\[0, 0.5\)"):
        functional.dpo(x, x, x, x, beta=0.1, label_smoothing=0.5)
    with pytest.raises(ValueError, match="'sigmoid' only"):
        functional.dpo(x, x, x, x, beta=0.1, loss="ipo", label_smoothing=0.1)
    with pytest.raises(ValueError, match="shapes must be equal"):
        functional.dpo(x, x, x, torch.zeros(3), beta=0.1)
    with pytest.raises(ValueError, match=r"must have shape \[B\]"):
        functional.bradley_terry(torch.zeros(2, 2), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="margin"):
        functional.bradley_terry(x, x, torch.zeros(3))
    with pytest.raises(ValueError, match="centring"):
        functional.bradley_terry(x, x, centring=-1.0)


# -- REBEL --------------------------------------------------------------------------------------------------------------


def test_rebel_numbers() -> None:
    """log-ratios -2.0 - (-2.5) = 0.5 and -3.0 - (-2.8) = -0.2 differ by 0.7."""
    policy = torch.tensor([[-2.0, -3.0]], dtype=torch.float64)
    previous = torch.tensor([[-2.5, -2.8]], dtype=torch.float64)

    def loss(difference: float, eta: float, one: torch.Tensor = policy) -> float:
        return float(functional.rebel(one, previous, torch.tensor([difference], dtype=torch.float64), eta)[0])

    assert float(functional.rebel(policy, previous, torch.zeros(1), 1.0)[1]) == pytest.approx(0.7)
    assert loss(0.7, 1.0) == pytest.approx(0, abs=1e-12)
    assert loss(0.0007, 1000.0) == pytest.approx(0, abs=1e-12)
    assert loss(0.2, 1.0) == pytest.approx(0.25)
    assert loss(0.0, 5.0, previous) == 0
    assert loss(0.3, 2.0, previous) == pytest.approx(4 * 0.09)
    swapped = functional.rebel(policy.flip(1), previous.flip(1), torch.tensor([-0.2]), 1.0)[0]
    assert float(swapped) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="eta must be positive"):
        loss(0.1, 0.0)


def test_the_gradient_of_rebel_at_the_sampling_policy_is_a_policy_gradient() -> None:
    logits = torch.randn(4, dtype=torch.float64, requires_grad=True)
    logp = logits.log_softmax(0)
    pair, difference, eta = logp[torch.tensor([[1, 3]])], torch.tensor([0.6], dtype=torch.float64), 0.5
    (found,) = torch.autograd.grad(functional.rebel(pair, pair.detach(), difference, eta)[0].sum(), logits)
    again = logits.log_softmax(0)
    (one,) = torch.autograd.grad(again[1] - again[3], logits)
    torch.testing.assert_close(found, -2 * eta * difference * one)


def test_the_minimiser_of_rebel_is_a_step_of_mirror_descent() -> None:
    previous = torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).log_softmax(0)
    reward = torch.tensor([0.3, -1.0, 0.8, 0.0, 0.5], dtype=torch.float64)
    often = previous.exp()[:, None] * previous.exp()[None, :]
    pairs = torch.cartesian_prod(torch.arange(5), torch.arange(5))
    logits = previous.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        policy = logits.log_softmax(0)[pairs]
        losses, _ = functional.rebel(policy, previous[pairs], reward[pairs[:, 0]] - reward[pairs[:, 1]], 2.0)
        loss = (often.flatten() * losses).sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    torch.testing.assert_close(logits.detach().softmax(0), (previous + 2.0 * reward).softmax(0), atol=1e-6, rtol=0)
