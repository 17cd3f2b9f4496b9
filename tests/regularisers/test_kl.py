"""KL: in the reward, in the loss, fixed and adaptive."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from fairlead import functional
from fairlead.regularisers import KL
from tiny_batches import experience

BATCH = experience([[-1.0, -2.0], [-0.5]], reference_logprobs=[[-1.5, -1.0], [-1.5]])


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "abs"])
def test_penalty_in_the_reward(estimator: str) -> None:
    part = KL(coefficient=0.5, estimator=estimator)
    expected = functional.kl_estimate(BATCH.logprobs, BATCH.reference_logprobs, estimator)
    torch.testing.assert_close(part.penalty(BATCH), 0.5 * expected * BATCH.mask)
    assert part.loss_coefficient == 0
    if estimator == "k1":
        torch.testing.assert_close(part.penalty(BATCH), torch.tensor([[0.25, -0.5], [0.5, 0.0]]))


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "abs", "k3-ratio"])
def test_place_loss(estimator: str) -> None:
    part = KL(coefficient=0.5, place="loss", estimator=estimator)
    assert part.penalty(BATCH).abs().sum() == 0
    assert (part.loss_coefficient, part.loss_estimator) == (0.5, estimator)


def test_nothing_to_do() -> None:
    part = KL(coefficient=0)
    assert not part.needs_reference
    assert KL(coefficient=0.1).needs_reference
    bare = experience([[-1.0]])
    assert part.penalty(bare).tolist() == [[0]] and part.observe(bare) == {}


def test_what_is_measured() -> None:
    metrics = KL(coefficient=0.1).observe(BATCH)
    assert metrics["kl/coefficient"] == 0.1
    assert metrics["kl/k1"] == pytest.approx((-0.5 + 1.0) / 2)
    k3 = functional.kl_estimate(BATCH.logprobs, BATCH.reference_logprobs, "k3")
    assert metrics["kl/k3"] == pytest.approx(float((k3 * BATCH.mask).sum() / 2))


def test_a_clamp_limits_tokens() -> None:
    """The log-ratios are 0.5, −1 and 1."""
    part = KL(coefficient=1.0, clamp=0.75)
    torch.testing.assert_close(part.penalty(BATCH), torch.tensor([[0.5, -0.75], [0.75, 0.0]]))
    assert part.loss_clamp == 0.75 and KL().loss_clamp is None
    with pytest.raises(ValidationError, match="leave clamp out"):
        KL(place="loss", estimator="exact", clamp=1.0)


def test_a_target_per_token() -> None:
    """The means over tokens are −0.25 and 1, so 0.375 in place of 0.25 a response."""
    part = KL(coefficient=0.1, adaptive={"target": 0.36, "horizon": 2, "per": "token"})
    part.observe(BATCH)
    assert part.current == pytest.approx(0.1 * 0.375 / 0.36)


def test_the_adaptive_coefficient() -> None:
    """Observed KL 0.25 nats a response, target 0.2: the error 0.25 is cut to 0.2; 2 of 10 samples."""
    part = KL(coefficient=0.1, adaptive={"target": 0.2, "horizon": 10})
    assert part.observe(BATCH)["kl/coefficient"] == 0.1
    assert part.current == pytest.approx(0.1 * (1 + 0.2 * 0.2))
    assert part.penalty(BATCH)[0, 0] == pytest.approx(part.current * 0.5)
    other = KL(coefficient=0.1, adaptive={"target": 0.2, "horizon": 10})
    other.load_state_dict(part.state_dict())
    assert other.current == part.current
    part.observe(BATCH)
    other.observe(BATCH)
    assert other.current == part.current > 0.1 * 1.04
    wide = KL(coefficient=0.1, adaptive={"target": 0.2, "horizon": 10, "clip": 0.5})
    wide.observe(BATCH)
    assert wide.current == pytest.approx(0.1 * (1 + 0.25 * 0.2))
    slow = KL(coefficient=0.1, place="loss", adaptive={"target": 0.5, "horizon": 100})
    slow.observe(BATCH)
    assert slow.loss_coefficient == pytest.approx(0.1 * (1 - 0.2 * 0.02))
    fixed = KL(coefficient=0.1)
    fixed.observe(BATCH)
    assert fixed.current == 0.1


def test_what_cannot_work_is_refused_at_once() -> None:
    with pytest.raises(ValidationError, match="k3-ratio exists in the loss only"):
        KL(estimator="k3-ratio")
    with pytest.raises(ValidationError, match="stays 0"):
        KL(coefficient=0, adaptive={})


def test_the_exact_kl_stands_in_the_loss_only() -> None:
    part = KL(coefficient=0.35, place="loss", estimator="exact-forward", reduction="sum")
    assert (part.loss_estimator, part.loss_reduction, KL().loss_reduction) == ("exact-forward", "sum", "loss")
    with pytest.raises(ValidationError, match="estimator exact-forward exists in the loss only"):
        KL(estimator="exact-forward")
    with pytest.raises(ValidationError, match="set place: loss, or leave reduction out"):
        KL(reduction="sum")
