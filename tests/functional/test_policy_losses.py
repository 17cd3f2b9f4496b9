"""Per-token losses of policy and critic."""

import math

import pytest
import torch
from torch import Tensor

from fairlead import functional

NAN, INF = float("nan"), float("inf")


def logs(*ratios: float) -> Tensor:
    return torch.tensor([ratios], dtype=torch.float64).log()


def row(*numbers: float) -> Tensor:
    return torch.tensor([numbers], dtype=torch.float64)


def zeros(count: int) -> Tensor:
    return torch.zeros(1, count, dtype=torch.float64)


def close(x: Tensor, *expected: float) -> None:
    torch.testing.assert_close(x, row(*expected), atol=1e-6, rtol=0)


def test_ppo_clip_by_hand() -> None:
    # (rho, A): (1.5, 1) is cut at 1.2; (.5, -1): max(.5, .8); (5, -1): max(5, 1.2).
    ratios, advantages = logs(1.5, 0.5, 5), row(1, -1, -1)
    close(functional.ppo_clip(ratios, zeros(3), advantages), -1.2, 0.8, 5)
    close(functional.ppo_clip(ratios, zeros(3), advantages, clip_high=0.28), -1.28, 0.8, 5)
    close(functional.ppo_clip(ratios, zeros(3), advantages, dual_clip=3.0), -1.2, 0.8, 3)
    close(functional.ppo_clip(ratios, zeros(3), advantages, clip_low=0.6), -1.2, 0.5, 5)


def test_ppo_clip_gradient_is_ratio_times_advantage_or_nothing() -> None:
    logprobs = logs(1.5, 1.5, 0.5, 0.5, 1.1, 0.9, 5).requires_grad_()
    advantages = row(1, -1, 1, -1, 2, -2, -1)
    functional.ppo_clip(logprobs, zeros(7), advantages, dual_clip=3.0).sum().backward()
    assert logprobs.grad is not None
    close(logprobs.grad, 0, 1.5, -0.5, 0, -2.2, 1.8, 0)


def test_ppo_on_policy_has_the_policy_gradient() -> None:
    logprobs = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    advantages = torch.randn(2, 3, dtype=torch.float64)
    (ppo,) = torch.autograd.grad(functional.ppo_clip(logprobs, logprobs.detach(), advantages).sum(), logprobs)
    (plain,) = torch.autograd.grad(functional.reinforce(logprobs, advantages).sum(), logprobs)
    (weighted,) = torch.autograd.grad(functional.cispo(logprobs, logprobs.detach(), advantages).sum(), logprobs)
    torch.testing.assert_close(ppo, -advantages)
    torch.testing.assert_close(plain, -advantages)
    torch.testing.assert_close(weighted, -advantages)


def test_clip_fraction_counts_the_tokens_that_stopped_learning() -> None:
    ratios = logs(1.5, 1.5, 0.5, 0.5, 1.0, NAN)
    advantages = row(1, -1, 1, -1, 1, NAN)
    mask = row(1, 1, 1, 1, 1, 0)
    assert functional.clip_fraction(ratios, zeros(6), advantages, mask).item() == pytest.approx(2 / 5)
    assert functional.clip_fraction(ratios, zeros(6), advantages, mask, clip_high=0.6).item() == pytest.approx(1 / 5)
    assert functional.clip_fraction(ratios, zeros(6), advantages, mask, clip_low=0.6).item() == pytest.approx(1 / 5)
    assert functional.clip_fraction(ratios, zeros(6), advantages, torch.zeros_like(mask)).item() == 0


def test_importance_ratio_is_limited() -> None:
    logprobs = row(0.0, 100.0, -100.0, -INF).requires_grad_()
    ratio = functional.importance_ratio(logprobs, zeros(4))
    torch.testing.assert_close(ratio, row(1, math.exp(20), math.exp(-20), math.exp(-20)))
    ratio.sum().backward()
    assert logprobs.grad is not None
    close(logprobs.grad, 1, 0, 0, 0)
    assert functional.importance_ratio(row(30.0), zeros(1), clamp=None).item() == pytest.approx(math.exp(30))


def test_sequence_ratio_by_hand() -> None:
    # log-ratios .3 - .1 + .2 + 0 = .4: exp(.1) as a mean over four tokens, exp(.4) as a product.
    log_ratio, mask = row(0.3, -0.1, 0.2, 0, NAN), row(1, 1, 1, 1, 0)
    assert functional.sequence_ratio(log_ratio, zeros(5), mask).item() == pytest.approx(1.105171, abs=1e-6)
    assert functional.sequence_ratio(log_ratio, zeros(5), mask, mean=False).item() == pytest.approx(1.491825, abs=1e-6)
    assert functional.sequence_ratio(log_ratio, zeros(5), torch.zeros_like(mask)).item() == 1
    assert functional.sequence_ratio(row(1e3), zeros(1), row(1)).item() == pytest.approx(math.exp(20))


@pytest.mark.parametrize("clips", [(0.2, 0.3), (3e-4, 4e-4)])
def test_gspo_has_value_and_gradient_of_the_sequence_form(clips: tuple[float, float]) -> None:
    generator = torch.Generator().manual_seed(3)
    logprobs = torch.randn(6, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    old = (logprobs + 0.1 * torch.randn(6, 5, generator=generator, dtype=torch.float64)).detach()
    mask = torch.rand(6, 5, generator=generator) < 0.7
    mask[:, 0] = True
    score = torch.randn(6, generator=generator, dtype=torch.float64)
    advantages = functional.broadcast_to_tokens(score, mask)

    weights = functional.aggregation_weights(mask, "sequence-mean-token-mean", torch.ones(6, dtype=torch.float64))
    tokens = (functional.gspo(logprobs, old, advantages, mask, *clips) * weights).sum()
    ratio = functional.sequence_ratio(logprobs, old, mask)
    sequences = torch.maximum(-score * ratio, -score * ratio.clamp(1 - clips[0], 1 + clips[1])).mean()
    torch.testing.assert_close(tokens, sequences)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logprobs)[0] for loss in (tokens, sequences)))


def test_product_ratio_goes_through_ppo_clip_as_one_number_per_row() -> None:
    total, old = torch.tensor([0.4], requires_grad=True), torch.zeros(1)
    assert functional.ppo_clip(total, old, torch.tensor([1.0])).item() == pytest.approx(-1.2)


def test_cispo_by_hand() -> None:
    ratios, advantages = logs(8, 0.5, 1.1), row(1, 1, -2)
    for bounds, weights in (((0.0, 5.0), (5, 0.5, 1.1)), ((0.8, 1.2), (1.2, 0.8, 1.1))):
        logprobs = ratios.clone().requires_grad_()
        loss = functional.cispo(logprobs, zeros(3), advantages, *bounds)
        expected = -row(*weights) * advantages
        torch.testing.assert_close(loss, expected * ratios)
        loss.sum().backward()
        torch.testing.assert_close(logprobs.grad, expected)  # every token keeps a gradient
    first = functional.cispo(ratios, zeros(3), advantages)
    torch.testing.assert_close(first, functional.cispo(ratios, zeros(3), advantages, 0.0, 5.0))


def test_truncated_importance_weight_by_hand() -> None:
    old = logs(0.9, 0.5, 2.5, 1, 6).requires_grad_()
    weight = functional.truncated_importance_weight(old, zeros(5))
    close(weight, 0.9, 0.5, 2, 1, 2)
    assert not weight.requires_grad
    close(functional.truncated_importance_weight(old, zeros(5), cap=10.0), 0.9, 0.5, 2.5, 1, 6)
    # the untruncated product of the five is 6.75
    assert functional.sequence_ratio(old, zeros(5), torch.ones(1, 5), mean=False).item() == pytest.approx(6.75)


def test_value_loss_by_hand() -> None:
    # V_old = .5, V = .9, G = 1.2, clip .2: V is cut to .7; 1/2 * .5^2 = .125 against 1/2 * .3^2 = .045.
    values, old, returns = row(0.9), row(0.5), row(1.2)
    close(functional.value_loss(values, old, returns), 0.045)
    close(functional.value_loss(values, old, returns, clip=0.2), 0.125)
    close(functional.value_loss(values, old, returns, clip=10.0), 0.045)


def test_value_loss_gradient() -> None:
    values = row(0.9, 0.6, 0.9).requires_grad_()
    functional.value_loss(values, row(0.5, 0.5, 0.5), row(1.2, 1.2, 0.0), clip=0.2).sum().backward()
    assert values.grad is not None
    close(values.grad, 0, -0.6, 0.9)  # cut; inside the range; outside, but moving back is the larger error


@pytest.mark.parametrize("poison", [NAN, INF, -INF])
def test_nothing_leaks_from_masked_positions(poison: float) -> None:
    mask = row(1, 1, 0)

    def good() -> Tensor:
        return row(-1.0, -1.2, poison)

    calls = {
        "ratio": lambda x: functional.importance_ratio(x, good(), mask=mask),
        "ppo": lambda x: functional.ppo_clip(x, good(), good(), dual_clip=3.0, mask=mask),
        "reinforce": lambda x: functional.reinforce(x, good(), mask=mask),
        "gspo": lambda x: functional.gspo(x, good(), good(), mask, 0.5, 0.5),
        "sequence": lambda x: functional.sequence_ratio(x, good(), mask)[:, None].expand(1, 3) * mask,
        "cispo": lambda x: functional.cispo(x, good(), good(), mask=mask),
        "value": lambda x: functional.value_loss(x, good(), good() - 0.5, clip=0.2, mask=mask),
    }
    for name, call in calls.items():
        x = row(-0.9, -1.3, poison).requires_grad_()
        loss = call(x)
        loss.sum().backward()
        assert torch.isfinite(loss).all(), name
        assert loss[0, 2].item() == 0, name
        assert x.grad is not None
        assert torch.isfinite(x.grad).all(), name
        assert x.grad[0, 2].item() == 0, name
        assert (x.grad[0, :2] != 0).any(), name
    weight = functional.truncated_importance_weight(good(), row(-1.0, -1.0, poison), mask=mask)
    close(weight, 1, math.exp(-0.2), 0)


def test_the_mask_changes_nothing_where_it_is_on() -> None:
    x, old, advantages = (torch.randn(3, 4) for _ in range(3))
    mask = torch.rand(3, 4) < 0.5
    for function in (functional.ppo_clip, functional.cispo, functional.value_loss):
        torch.testing.assert_close(function(x, old, advantages, mask=mask)[mask], function(x, old, advantages)[mask])


def test_gradient_reaches_only_the_first_argument() -> None:
    mask = torch.ones(2, 3)
    for function in (
        functional.ppo_clip,
        functional.cispo,
        functional.value_loss,
        lambda a, b, c: functional.gspo(a, b, c, mask),
    ):
        first, second, third = (torch.randn(2, 3, requires_grad=True) for _ in range(3))
        function(first, second, third).sum().backward()
        assert first.grad is not None
        assert second.grad is None
        assert third.grad is None


def test_errors_say_what_is_wrong() -> None:
    x = torch.zeros(1, 2)
    with pytest.raises(ValueError, match=r"logprobs \[1, 2\], old_logprobs \[1, 2\], advantages \[1, 3\]"):
        functional.ppo_clip(x, x, torch.zeros(1, 3))
    with pytest.raises(ValueError, match="shapes must be equal"):
        functional.reinforce(x, torch.zeros(1))
    with pytest.raises(ValueError, match="dual_clip must be above 1"):
        functional.ppo_clip(x, x, x, dual_clip=1.0)
    with pytest.raises(ValueError, match="clip_low must lie in"):
        functional.ppo_clip(x, x, x, clip_low=-0.1)
    with pytest.raises(ValueError, match="clip_high must lie in"):
        functional.clip_fraction(x, x, x, x, clip_high=-0.1)
    with pytest.raises(ValueError, match="minimum_ratio <= maximum_ratio"):
        functional.cispo(x, x, x, 2.0, 1.0)
    with pytest.raises(ValueError, match="cap must be positive"):
        functional.truncated_importance_weight(x, x, cap=0.0)
    with pytest.raises(ValueError, match="clip must be positive"):
        functional.value_loss(x, x, x, clip=0.0)
    with pytest.raises(ValueError, match=r"\[B, T\]"):
        functional.sequence_ratio(x[0], x[0], x[0])


def test_mismatch_weights_by_hand() -> None:
    """w = (.9, .5, 2.5, 1, 6), product 6.75."""
    old, behaviour, mask = logs(0.9, 0.5, 2.5, 1, 6), zeros(5), torch.ones(1, 5, dtype=torch.bool)
    weigh = functional.mismatch_weight
    close(weigh(old, behaviour, mask), 0.9, 0.5, 2, 1, 2)
    close(weigh(old, behaviour, mask, mode="mask", low=0.5, high=5.0), 0.9, 0.5, 2.5, 1, 0)
    close(weigh(old, behaviour, mask, low=0.6, high=5.0), 0.9, 0.6, 2.5, 1, 5)
    close(weigh(old, behaviour, mask, level="sequence", mode="mask", high=3.0), 0, 0, 0, 0, 0)
    close(weigh(old, behaviour, mask, level="sequence", high=3.0), 3, 3, 3, 3, 3)
    mean = 6.75**0.2
    close(weigh(old, behaviour, mask, level="geometric"), *[mean] * 5)
    close(weigh(old, behaviour, mask, level="geometric", mode="mask", token_weight=True), 0.9, 0.5, 2.5, 1, 6)
    half = torch.tensor([[True, True, False, False, False]])
    close(weigh(old, behaviour, half, level="sequence"), 0.45, 0.45, 0, 0, 0)


def test_mismatch_weights_refuse() -> None:
    mask = torch.ones(1, 1, dtype=torch.bool)
    for fields in ({"level": "row"}, {"mode": "drop"}, {"low": 2.0, "high": 2.0}, {"low": -1.0}):
        with pytest.raises(ValueError):
            functional.mismatch_weight(zeros(1), zeros(1), mask, **fields)  # type: ignore[arg-type]
