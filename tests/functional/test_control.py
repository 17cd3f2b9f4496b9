"""Controllers and the pessimistic critic: the numbers of the method, worked out by hand."""

from __future__ import annotations

import pytest
import torch

from fairlead.functional import (
    PHASES,
    Velocity,
    entropy_gate,
    excess_penalty,
    kl_threshold,
    marked_token,
    soft_minimum,
    training_phase,
    value_huber,
    value_loss,
)


def test_soft_minimum() -> None:
    pair = torch.tensor([1.0, 0.4], dtype=torch.float64)
    for alpha, expected in ((0.3, 0.569866), (0.01, 0.406931), (100.0, 0.699550), (0.0, 0.4)):
        assert float(soft_minimum(pair, alpha)) == pytest.approx(expected, abs=1e-6)
    values = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    for alpha in (0.0, 0.05, 0.3, 5.0):
        found = soft_minimum(values, alpha)
        assert bool((found >= values.min(1).values - 1e-6).all()) and bool((found <= values.mean(1) + 1e-6).all())
        torch.testing.assert_close(soft_minimum(values[:, :1].expand(20, 3), alpha), values[:, 0])
    with pytest.raises(ValueError, match="negative"):
        soft_minimum(values, -1.0)


def test_the_trace_of_the_controller() -> None:
    state, smoothed = Velocity(), 0.0
    rewards: list[float] = []
    found = []
    for kl, entropy, reward in ((0.2, 2.5, 0.5), (0.6, 2.0, 0.52), (0.9, 1.2, 0.51), (1.2, 0.6, 0.55)):
        state = state.observe(reward, (0.3, 0.01, 0.05))
        smoothed = 0.9 * smoothed + 0.1 * kl
        rewards.append(reward)
        threshold = kl_threshold(0.3, state.output, PHASES[training_phase(rewards)])
        gate = entropy_gate(entropy, 2.0)
        found.append((threshold, gate, smoothed, excess_penalty(smoothed, threshold, 0.1, gate)[0]))
    expected = [
        (0.45, 0.769231, 0.02, 0.0),
        (0.45, 0.952381, 0.078, 0.0),
        (0.449703, 1.538462, 0.1602, 0.0),
        (0.450804, 2.857143, 0.26418, 0.0),
    ]
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-6)


def test_above_the_threshold() -> None:
    """60 rewards of one half: a plateau, τ 0.24; the penalty 0.1 · 1.76² · 3.333 and its slope."""
    assert training_phase([0.5] * 60) == "plateau"
    threshold, gate = kl_threshold(0.3, 0.0, PHASES["plateau"]), entropy_gate(0.5, 2.0)
    assert threshold == pytest.approx(0.24) and gate == pytest.approx(3.333333, abs=1e-6)
    penalty, slope = excess_penalty(2.0, threshold, 0.1, gate)
    assert penalty == pytest.approx(1.032533, abs=1e-6) and slope == pytest.approx(0.2 * 1.76 * gate)
    numeric = (excess_penalty(2.001, threshold, 0.1, gate)[0] - excess_penalty(1.999, threshold, 0.1, gate)[0]) / 0.002
    assert slope == pytest.approx(numeric)
    assert excess_penalty(0.24, threshold, 0.1, gate) == (0, 0) == excess_penalty(-1.0, threshold, 0.1, gate)
    assert entropy_gate(9.0, 2.0) == 0.5 and entropy_gate(-0.3, 2.0) == 20
    assert kl_threshold(0.3, 1.0, 1.0) == 0.6 and kl_threshold(0.3, -1.0, 1.0) == 0.1


def test_phases() -> None:
    assert training_phase([0.5] * 49) == "warmup"
    assert training_phase([0.5] * 50 + [0.52] * 50) == "climbing" and training_phase([0.5] * 99 + [0.6]) == "plateau"
    assert training_phase([0.8] * 60) == "converged"
    assert training_phase([0.8, 0.85] * 30) == "plateau", "restless"
    assert training_phase([1.0, 3.0], window=2, still=2.0) == "converged"


def test_velocity_sums_only_so_far() -> None:
    state = Velocity().observe(0.0, (0.0, 1.0, 0.0))
    for _ in range(3):
        state = state.observe(100.0, (0.0, 1.0, 0.0))
    assert state.integral == state.output == 1.0


def test_value_huber() -> None:
    """Errors of 0.4 (inside) and 2 (outside δ = ½); old values half a unit below, of which a fifth may be made good."""
    values, old, returns = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 1.5]]), torch.tensor([[0.6, 0.0]])
    plain = [0.08, 0.5 * (2 - 0.25)]
    limited = [0.5 * 0.1**2, 0.5 * (1.7 - 0.25)]
    found = value_huber(values, old, returns)
    assert found[0].tolist() == pytest.approx([(a + b) / 2 for a, b in zip(plain, limited, strict=True)])
    assert value_huber(values, old, returns, combine="max")[0].tolist() == pytest.approx(plain)
    assert value_huber(values, old, returns, clip=None)[0].tolist() == pytest.approx(plain)
    squares = value_huber(values, old, returns, delta=None, combine="max")
    torch.testing.assert_close(squares, value_loss(values, old, returns, 0.2))


def test_marked_token() -> None:
    mask = torch.tensor([[0, 1, 0, 1, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    assert marked_token(mask, "prompt").int().tolist() == [[0, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0] * 5]
    assert marked_token(mask, "answer").int().tolist() == [[0, 0, 0, 0, 1], [1, 0, 0, 0, 0], [0] * 5]
    assert torch.equal(marked_token(mask, "all"), mask.bool())
