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
    optimiser = build_optimiser(layer, OptimiserSpec(learning_rate=0.1, weight_decay=0.5))
    before = [p.detach().clone() for p in layer.parameters()]
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    assert set_learning_rate(optimiser, OptimiserSpec(learning_rate=0.2), 0) == 0.2
    optimiser.step()
    torch.testing.assert_close(layer.weight, before[0] * (1 - 0.2 * 0.5))
    assert torch.equal(layer.bias, before[1])


class _TwoLayers(nn.Module):
    """An embedding, two layers and a head, as a language model has them."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.head = nn.Linear(4, 5, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embedding(x)
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        return self.head(x)  # type: ignore[no-any-return]


def test_muon_turns_the_matrices_of_the_layers_only() -> None:
    """The first update of an orthogonalised matrix has singular values near 0.2 √4 × rate; AdamW's entries are ± rate."""
    torch.manual_seed(0)
    model = _TwoLayers()
    optimiser = build_optimiser(model, OptimiserSpec(algorithm="muon", learning_rate=0.01))
    set_learning_rate(optimiser, OptimiserSpec(learning_rate=0.01), 0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model(torch.arange(5)).square().sum().backward()
    optimiser.step()
    change = {name: p.detach() - before[name] for name, p in model.named_parameters()}
    for layer in ("layers.0", "layers.1"):
        values = torch.linalg.svdvals(change[f"{layer}.weight"]) / 0.01 / 0.4
        # Five Newton–Schulz iterations bring singular values near 1, not to 1 (Jordan et al. 2024).
        assert float(values.min()) > 0.3 and float(values.max()) < 1.3
        torch.testing.assert_close(change[f"{layer}.bias"].abs(), torch.full((4,), 0.01), atol=1e-5, rtol=0)
    torch.testing.assert_close(change["head.weight"].abs(), torch.full((5, 4), 0.01), atol=1e-5, rtol=0)


def test_muon_continues_from_its_state() -> None:
    def steps(model: nn.Module, optimiser: torch.optim.Optimizer, count: int) -> None:
        for _ in range(count):
            optimiser.zero_grad()
            model(torch.arange(5)).square().sum().backward()
            optimiser.step()

    spec = OptimiserSpec(algorithm="muon", learning_rate=0.01)
    torch.manual_seed(0)
    whole, first = _TwoLayers(), _TwoLayers()
    first.load_state_dict(whole.state_dict())
    steps(whole, build_optimiser(whole, spec), 4)
    optimiser = build_optimiser(first, spec)
    steps(first, optimiser, 2)
    second = _TwoLayers()
    second.load_state_dict(first.state_dict())
    again = build_optimiser(second, spec)
    again.load_state_dict(optimiser.state_dict())
    steps(second, again, 2)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))
