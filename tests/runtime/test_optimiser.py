"""Schedules, in numbers worked out by hand, and what AdamW decays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fairlead.runtime import OptimiserSpec
from fairlead.runtime.optimiser import build_optimiser, schedule_factor, set_learning_rate


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"schedule": "constant"}, [1.0] * 5),
        # a warm-up of 2 updates rises in thirds, so that neither the first is 0 nor the last the peak
        ({"schedule": "constant", "warmup": 2}, [1 / 3, 2 / 3, 1.0, 1.0, 1.0]),
        ({"schedule": "constant", "warmup": 0.4}, [1 / 3, 2 / 3, 1.0, 1.0, 1.0]),
        ({"schedule": "linear"}, [1.0, 0.8, 0.6, 0.4, 0.2, 0.0, 0.0]),
        ({"schedule": "linear", "floor": 0.5}, [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.5]),
        ({"schedule": "linear", "warmup": 1}, [0.5, 1.0, 0.75, 0.5, 0.25, 0.0]),
        ({"schedule": "cosine", "total_steps": 4}, [1.0, 0.8535534, 0.5, 0.1464466, 0.0, 0.0]),
        ({"schedule": "warmup-stable-decay", "decay": 0.4}, [1.0, 1.0, 1.0, 1.0, 0.5, 0.0]),
    ],
)
def test_schedules(fields: dict[str, Any], expected: list[float]) -> None:
    spec = OptimiserSpec(**({"total_steps": 5} | fields))
    assert [schedule_factor(spec, step) for step in range(len(expected))] == pytest.approx(expected, abs=1e-7)


def test_a_schedule_without_length_does_not_divide_by_zero() -> None:
    assert schedule_factor(OptimiserSpec(schedule="linear"), 0) == 1.0
    assert schedule_factor(OptimiserSpec(schedule="linear"), 9) == 0.0


def test_vectors_are_not_decayed() -> None:
    layer = nn.Linear(3, 2)
    optimiser = build_optimiser(layer.parameters(), OptimiserSpec(learning_rate=0.1, weight_decay=0.5))
    before = [p.detach().clone() for p in layer.parameters()]
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    assert set_learning_rate(optimiser, OptimiserSpec(learning_rate=0.2), 0) == 0.2
    optimiser.step()
    torch.testing.assert_close(layer.weight, before[0] * (1 - 0.2 * 0.5))
    assert torch.equal(layer.bias, before[1])
