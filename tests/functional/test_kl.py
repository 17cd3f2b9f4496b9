"""KL estimators, their expectations and the gradients they have as losses, on one enumerated distribution."""

import math

import pytest
import torch
from torch import Tensor

from fairlead import functional

P = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
Q = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
# KL(p||q) = .5 ln 2.5 + .3 ln .6 + .2 ln (2/3) = .458145 - .153248 - .081093
KL = 0.223805


def expectation(x: Tensor) -> float:
    return (P * x).sum().item()


def deviation(x: Tensor) -> float:
    return (P * (x - (P * x).sum()).square()).sum().sqrt().item()


def test_expectations_and_spreads() -> None:
    estimates = {name: functional.kl_estimate(P.log(), Q.log(), name) for name in ("k1", "k2", "k3", "abs")}
    assert expectation(estimates["k1"]) == pytest.approx(KL, abs=1e-6)
    assert expectation(estimates["k3"]) == pytest.approx(KL, abs=1e-6)
    assert expectation(estimates["k2"]) == pytest.approx(0.265479, abs=1e-6)
    assert deviation(estimates["k1"]) == pytest.approx(0.693447, abs=1e-6)
    assert deviation(estimates["k2"]) == pytest.approx(0.155219, abs=1e-6)
    assert deviation(estimates["k3"]) == pytest.approx(0.094893, abs=1e-6)
    # |delta| = (.916291, .510826, .405465)
    assert expectation(estimates["abs"]) == pytest.approx(0.5 * 0.916291 + 0.3 * 0.510826 + 0.2 * 0.405465, abs=1e-6)
    assert functional.exact_kl(P.log(), Q.log()).item() == pytest.approx(KL, abs=1e-6)


def expected_gradient(estimator: str) -> list[float]:
    """Exact expectation over tokens from p of the gradient of the loss, with respect to p's logits."""
    logits = P.log().requires_grad_()
    logprobs = torch.log_softmax(logits, dim=-1)
    loss = (P * functional.kl_loss(logprobs, logprobs.detach(), Q.log(), estimator)).sum()
    return [float(x) for x in torch.autograd.grad(loss, logits)[0]]


# With softmax logits, dKL(p||q)/dx_v = p_v (delta_v - KL), e.g. .5 (.916291 - .223805) = .346243;
# dKL(q||p)/dx_v = p_v - q_v.
FORWARD = [0.346243, -0.220389, -0.125854]
REVERSE = [0.3, -0.2, -0.1]


@pytest.mark.parametrize(
    ("estimator", "gradient"), [("k1", [0, 0, 0]), ("k2", FORWARD), ("k3", REVERSE), ("k3-ratio", FORWARD)]
)
def test_gradients_of_the_loss_form(estimator: str, gradient: list[float]) -> None:
    assert expected_gradient(estimator) == pytest.approx(gradient, abs=1e-6)


def test_gradient_of_abs_is_that_of_the_expected_sign() -> None:
    # E sign(delta) = p_1 - p_2 - p_3 = 2 p_1 - 1: gradient 2 p_1 (1[v=1] - p_v) = (.5, -.3, -.2)
    assert expected_gradient("abs") == pytest.approx([0.5, -0.3, -0.2], abs=1e-6)


def test_exact_kl_has_the_closed_form_gradients() -> None:
    logits = P.log().requires_grad_()
    (forward,) = torch.autograd.grad(functional.exact_kl(logits, Q.log()), logits)
    (reverse,) = torch.autograd.grad(functional.exact_kl(Q.log(), logits), logits)
    assert forward.tolist() == pytest.approx(FORWARD, abs=1e-6)
    assert reverse.tolist() == pytest.approx(REVERSE, abs=1e-6)


def test_k1_as_a_reward_is_the_policy_gradient_of_the_kl() -> None:
    logits = P.log().requires_grad_()
    logprobs = torch.log_softmax(logits, dim=-1)
    penalty = functional.kl_estimate(logprobs, Q.log(), "k1").detach()
    loss = (P * functional.reinforce(logprobs, -penalty)).sum()
    assert torch.autograd.grad(loss, logits)[0].tolist() == pytest.approx(FORWARD, abs=1e-6)


def test_k3_ratio_stays_right_off_policy() -> None:
    # Tokens from an old policy: E_old[rho k3] = E_pi[k3] = KL(pi || ref), whatever the old policy is.
    old = torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64)
    logits = P.log().requires_grad_()
    loss = (old * functional.kl_loss(torch.log_softmax(logits, -1), old.log(), Q.log(), "k3-ratio")).sum()
    assert loss.item() == pytest.approx(KL, abs=1e-6)
    assert torch.autograd.grad(loss, logits)[0].tolist() == pytest.approx(FORWARD, abs=1e-6)


def test_gradient_reaches_only_the_policy() -> None:
    inputs = [torch.randn(2, 3, requires_grad=True) for _ in range(3)]
    functional.kl_loss(*inputs, "k3-ratio").sum().backward()
    assert inputs[0].grad is not None
    assert inputs[1].grad is None
    assert inputs[2].grad is None


@pytest.mark.parametrize("clamp", [0.5, 10.0, 1e6])
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "abs"])
def test_clamp_limits_the_value_and_nothing_else(estimator: str, clamp: float) -> None:
    delta = torch.linspace(-30, 30, 241, dtype=torch.float64, requires_grad=True)
    clamped = functional.kl_estimate(delta, torch.zeros_like(delta), estimator, clamp=clamp)
    plain = functional.kl_estimate(delta, torch.zeros_like(delta), estimator).clamp(-clamp, clamp)
    torch.testing.assert_close(clamped, plain)
    gradients = [torch.autograd.grad(x.sum(), delta)[0] for x in (clamped, plain)]
    torch.testing.assert_close(gradients[0], gradients[1])


def test_clamped_k3_does_not_overflow() -> None:
    logprobs = torch.tensor([-1000.0], requires_grad=True)
    estimate = functional.kl_estimate(logprobs, torch.zeros(1), "k3", clamp=10.0)
    estimate.backward()
    assert estimate.item() == 10
    assert logprobs.grad is not None
    assert logprobs.grad.item() == 0


def test_k3_is_exact_for_small_differences() -> None:
    delta = torch.tensor([1e-3])
    assert functional.kl_estimate(delta, torch.zeros(1), "k3").item() == pytest.approx(4.998e-7, rel=2e-3)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "abs", "k3-ratio"])
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_nothing_leaks_from_masked_positions(estimator: str, poison: float) -> None:
    mask = torch.tensor([[1, 1, 0]])
    logprobs = torch.tensor([[-1.0, -2.0, poison]], requires_grad=True)
    other = torch.tensor([[-1.5, -1.0, poison]])
    loss = functional.kl_loss(logprobs, other, other, estimator, mask=mask)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert loss[0, 2].item() == 0
    assert logprobs.grad is not None
    assert torch.isfinite(logprobs.grad).all()
    assert logprobs.grad[0, 2].item() == 0


def test_exact_kl_with_impossible_tokens() -> None:
    p = torch.tensor([[0.0, 0.0, -math.inf], [0.0, 0.0, 0.0], [1.0, 2.0, -math.inf]], requires_grad=True)
    q = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, -math.inf], [1.0, 2.0, -math.inf]])
    divergence = functional.exact_kl(p, q)
    assert divergence.tolist() == pytest.approx([math.log(1.5), math.inf, 0], abs=1e-6)
    (gradient,) = torch.autograd.grad(functional.exact_kl(p[::2], q[::2]).sum(), p)
    assert torch.isfinite(gradient).all()


def test_adaptive_coefficient() -> None:
    # 12 / 6 - 1 = 1 is clipped to .2: .1 (1 + .2 * 256 / 10000)
    assert functional.adaptive_coefficient(0.1, 12.0, 6.0, 10_000, 256) == pytest.approx(0.1 * 1.00512)
    assert functional.adaptive_coefficient(0.1, 6.6, 6.0, 10_000, 256) == pytest.approx(0.1 * 1.00256)
    assert functional.adaptive_coefficient(0.1, 0.0, 6.0, 10_000, 256) == pytest.approx(0.1 * 0.99488)
    assert functional.adaptive_coefficient(0.1, 6.0, 6.0, 10_000, 256) == pytest.approx(0.1)
    assert functional.adaptive_coefficient(0.1, 12.0, 6.0, 100, 100, clip=0.5) == pytest.approx(0.15)


def test_errors_say_what_is_wrong() -> None:
    x = torch.zeros(2)
    with pytest.raises(ValueError, match=r"choose one of k1, k2, k3, abs$"):
        functional.kl_estimate(x, x, "k4")
    with pytest.raises(ValueError, match="k3-ratio"):
        functional.kl_loss(x, x, x, "low_var_kl")
    with pytest.raises(ValueError, match="shapes must be equal"):
        functional.kl_estimate(x, torch.zeros(3), "k1")
    with pytest.raises(ValueError, match="shapes must be equal"):
        functional.exact_kl(x, torch.zeros(3))
    with pytest.raises(ValueError, match="clamp must be positive"):
        functional.kl_estimate(x, x, "k1", clamp=0.0)
    with pytest.raises(ValueError, match="target must be positive"):
        functional.adaptive_coefficient(0.1, 1.0, 0.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="NaN"):
        functional.adaptive_coefficient(0.1, math.nan, 1.0, 1.0, 1.0)
