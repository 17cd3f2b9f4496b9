"""The KL above a threshold: what it observes, where it acts, what it remembers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from fairlead import functional
from fairlead.objectives import PPOClip
from fairlead.regularisers import ThresholdKL
from fairlead.runtime.forward import Outputs
from tiny_batches import experience


def batch(kl: float, entropy: float, reward: float, **channels: float) -> Any:
    """Two rows whose tokens have this log-ratio and this surprise."""
    rows = experience([[-entropy, -entropy], [-entropy]], reference_logprobs=[[-entropy - kl] * 2, [-entropy - kl]])
    for name, value in ({"reward": reward} | channels).items():
        rows.channels[name] = torch.tensor([value, value])
    return rows


TRACE = [(0.2, 2.5, 0.5), (0.6, 2.0, 0.52), (0.9, 1.2, 0.51), (1.2, 0.6, 0.55)]


def test_the_trace() -> None:
    part = ThresholdKL()
    seen = [part.observe(batch(*row)) for row in TRACE]
    assert [row["kl/threshold"] for row in seen] == pytest.approx([0.45, 0.45, 0.449703, 0.450804], abs=1e-5)
    assert [row["kl/gate"] for row in seen] == pytest.approx([0.769231, 0.952381, 1.538462, 2.857143], abs=1e-4)
    assert [row["kl/smoothed"] for row in seen] == pytest.approx([0.02, 0.078, 0.1602, 0.26418], abs=1e-5)
    assert all(row["kl/penalty"] == 0 and row["kl/phase"] == 1.5 for row in seen) and part.loss_coefficient == 0
    assert seen[0]["kl/k1"] == pytest.approx(0.3) and seen[0]["kl/slow"] == pytest.approx(0.002)


def above(**fields: Any) -> tuple[ThresholdKL, dict[str, float]]:
    """After 59 rewards of one half and a smoothed KL of 2, one more of the same."""
    part = ThresholdKL(**fields)
    state = part.state_dict() | {"rewards": [0.5] * 59, "smoothed": 2.0}
    part.load_state_dict(state)
    return part, part.observe(batch(2.0, 0.5, 0.5))


@pytest.mark.parametrize(
    ("fields", "threshold", "gate"),
    [
        ({}, 0.24, 10 / 3),
        ({"gate": None}, 0.24, 1.0),
        ({"gate": {"target": 0.1}}, 0.24, 0.5),
        ({"gate": {"target": 0.1, "floor": 0.25}}, 0.24, 0.25),
        ({"phase": None}, 0.3, 10 / 3),
        ({"phase": {"high": 0.4}}, 0.3, 10 / 3),
        ({"phase": {"window": 61}}, 0.45, 10 / 3),
        ({"threshold": 2.0}, 0.6, 10 / 3),
        ({"threshold": 2.0, "highest": 1.0}, 1.0, 10 / 3),
        ({"threshold": 0.0}, 0.1, 10 / 3),
        ({"threshold": 0.0, "lowest": 0.05}, 0.05, 10 / 3),
    ],
    ids=str,
)
def test_the_penalty(fields: dict[str, Any], threshold: float, gate: float) -> None:
    part, seen = above(**fields)
    assert seen["kl/threshold"] == pytest.approx(threshold) and seen["kl/gate"] == pytest.approx(gate)
    assert seen["kl/penalty"] == pytest.approx(0.1 * (2 - threshold) ** 2 * gate, rel=1e-5)
    assert part.loss_coefficient == seen["kl/coefficient"] == pytest.approx(0.2 * (2 - threshold) * gate, rel=1e-5)
    if not fields:
        assert seen["kl/penalty"] == pytest.approx(1.032533, abs=1e-5)


def test_where_it_acts() -> None:
    rows = batch(2.0, 0.5, 0.5)
    for place, in_loss, in_reward in (("loss", 1, 0), ("reward", 0, 1), ("none", 0, 0)):
        part = ThresholdKL(place=place)
        assert part.penalty(rows).abs().sum() == 0  # nothing is known before the first rollout
        part, seen = above(place=place)
        assert part.loss_coefficient == pytest.approx(in_loss * seen["kl/coefficient"])
        expected = in_reward * seen["kl/coefficient"] * 2.0 * rows.mask
        torch.testing.assert_close(part.penalty(rows), expected.float())


@pytest.mark.parametrize(("place", "pulls"), [("loss", True), ("none", False)])
def test_the_gradient(place: str, pulls: bool) -> None:
    """With advantages of 0 the loss has the gradient β·(log π − log π_ref) / tokens, and none as released."""
    part, seen = above(place=place)
    rows = batch(2.0, 0.5, 0.5).replace(advantages=torch.zeros(2, 2))
    logprobs = rows.logprobs.clone().requires_grad_()
    objective = PPOClip().with_kl(part.loss_coefficient, part.loss_estimator)
    loss, _ = objective(Outputs(logprobs=logprobs, entropy=torch.zeros(2, 2)), objective.prepare(rows))
    loss.backward()
    expected = pulls * seen["kl/coefficient"] * 2.0 * rows.mask / 3
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad, expected.float())


def test_the_asymmetric_controller() -> None:
    """0.1 (k − 0.3)²₊ + 5 ((k − k two steps ago) / 2)²₊ with its slope."""
    part = ThresholdKL(smoothing=0, gate=None, velocity=None, phase=None, rise_coefficient=5.0, rise_window=2)
    seen = [part.observe(batch(kl, 1.0, 0.0)) for kl in (0.2, 0.3, 0.5, 0.1)]
    assert [row["kl/penalty"] for row in seen] == pytest.approx([0, 0, 0.1 * 0.04 + 5 * 0.15**2, 0], abs=1e-6)
    assert (
        seen[2]["kl/coefficient"] == pytest.approx(0.2 * 0.2 + 10 * 0.15 / 2, abs=1e-6) and part.loss_coefficient == 0
    )


def test_velocity_follows_its_gains() -> None:
    gains = {"proportional": 1.0, "integral": 0.5, "derivative": 0.25, "target": 0.0, "keep": 0.5}
    part = ThresholdKL(velocity=gains, phase=None, highest=9.0)
    part.observe(batch(0.0, 1.0, 0.0))
    seen = part.observe(batch(0.0, 1.0, 1.0))  # the smoothed reward rises by a half
    assert seen["kl/threshold"] == pytest.approx(0.3 + 0.5 * 1.75)


def test_state_and_what_is_left_out() -> None:
    part, other = ThresholdKL(rise_coefficient=1.0, rise_window=2), ThresholdKL(rise_coefficient=1.0, rise_window=2)
    for row in TRACE[:3]:
        part.observe(batch(*row))
    other.load_state_dict(part.state_dict())
    assert other.observe(batch(*TRACE[3])) == part.observe(batch(*TRACE[3]))
    rows = batch(1.0, 1.0, 0.5)
    before = part.state_dict()
    assert part.observe(rows.replace(weight=torch.zeros(2))) == {} and part.state_dict() == before
    assert (
        ThresholdKL(coefficient=0).observe(experience([[-1.0]])) == {}
        and not ThresholdKL(coefficient=0).needs_reference
    )


def test_which_reward_is_followed() -> None:
    two = batch(0.1, 1.0, 0.5, other=0.9)
    with pytest.raises(ValueError, match="set `channel` to one of reward, other"):
        ThresholdKL().observe(two)
    with pytest.raises(ValueError, match="no reward 'rewards' for threshold-kl to follow; did you mean 'reward'"):
        ThresholdKL(channel="rewards").observe(two)
    part = ThresholdKL(channel="other")
    part.observe(two)
    assert part.state_dict()["rewards"] == pytest.approx([0.9])
    assert ThresholdKL(velocity=None, phase=None).observe(two)["kl/threshold"] == 0.3
    with pytest.raises(ValidationError, match=r"lowest \(0.7\) exceeds highest"):
        ThresholdKL(lowest=0.7)
    with pytest.raises(ValidationError, match="no KL whose rise"):
        ThresholdKL(coefficient=0, rise_coefficient=1)
    assert functional.PHASES["warmup"] == 1.5
