"""The loops of a layer against torch in single precision, forwards and backwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

pytest.importorskip("numba", reason="the extra `fast`")
from fairlead.loops import layers

PRECISIONS = [torch.float32, torch.bfloat16]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def compare(mine: Callable[..., Any], exact: Callable[..., Any], inputs: list[Tensor], precision: torch.dtype) -> None:
    """Outputs and gradients of inputs in their precisions, against the same in float64."""
    results = []
    for function, wide in ((mine, False), (exact, True)):
        given = [(x.double() if wide else x.clone()).requires_grad_() for x in inputs]
        outputs = function(*given)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        upstream = [random(*x.shape, seed=9 + i).bfloat16().to(x.dtype) for i, x in enumerate(outputs)]
        results.append([*outputs, *torch.autograd.grad(outputs, given, upstream)])
    rtol = 2**-8 + 1e-4 if precision == torch.bfloat16 else 1e-5
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one.double(), two, rtol=rtol, atol=2e-5 if precision == torch.float32 else 2e-4)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_norm(precision: torch.dtype) -> None:
    """Rows of more than one chunk, in more than one dimension."""
    x, weight = random(300, 2, 37).to(precision), random(37, seed=1)
    compare(
        lambda x, w: layers.normed(x, w, 1e-5, precision),
        lambda x, w: F.rms_norm(x, (37,), w, 1e-5),
        [x, weight],
        precision,
    )


def test_norm_by_hand() -> None:
    """w x / sqrt(mean(x²) + ε) for x = (3, 4), w = (1, 2), ε = 0: mean 12.5."""
    found = layers.normed(torch.tensor([[3.0, 4.0]]), torch.tensor([1.0, 2.0]), 0.0, torch.float32)
    torch.testing.assert_close(found, torch.tensor([[3.0, 8.0]]) / 12.5**0.5)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_sum_and_norm(precision: torch.dtype) -> None:
    def exact(x: Tensor, change: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return x + change, F.rms_norm(x + change, (37,), weight, 1e-5)

    inputs = [random(300, 37), random(300, 37, seed=1).to(precision), random(37, seed=2)]
    compare(lambda x, c, w: layers.added_and_normed(x, c, w, 1e-5, precision), exact, inputs, precision)


@pytest.mark.parametrize("which", [0, 1])
def test_only_one_of_sum_and_norm_is_used(which: int) -> None:
    x, change, weight = random(5, 7).requires_grad_(), random(5, 7, seed=1).bfloat16().requires_grad_(), random(7)
    chosen = layers.added_and_normed(x, change, weight, 1e-5, torch.float32)[which]
    of_x, of_change = torch.autograd.grad(chosen.sum(), (x, change))
    assert torch.equal(of_change, of_x.bfloat16())
    assert float(of_x.abs().max()) > 0


@pytest.mark.parametrize("precision", PRECISIONS)
def test_turn(precision: torch.dtype) -> None:
    angle = random(11, 6, seed=1)
    cosine, sine = torch.cat([angle, angle], -1).cos(), torch.cat([angle, angle], -1).sin()

    def exact(x: Tensor) -> Tensor:
        first, second = x.chunk(2, -1)
        return x * cosine[:, None] + torch.cat([-second, first], -1) * sine[:, None]

    x = random(11, 3, 12).to(precision)
    compare(lambda x: layers.turned(x, cosine, sine), exact, [x], precision)
    # A model that is loaded in bfloat16 has its angles in it, too.
    cosine, sine = cosine.to(precision), sine.to(precision)
    compare(lambda x: layers.turned(x, cosine, sine), exact, [x], precision)


def test_a_quarter_turn_and_back() -> None:
    """It takes (1, 2, 3, 4), whose pairs are (1, 3) and (2, 4), to (-3, -4, 1, 2); the gradient is turned back."""
    x = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]], requires_grad=True)
    turned = layers.turned(x, torch.zeros(1, 4), torch.ones(1, 4))
    assert turned.tolist() == [[[-3.0, -4.0, 1.0, 2.0]]]
    (gradient,) = torch.autograd.grad(turned, x, torch.tensor([[[-3.0, -4.0, 1.0, 2.0]]]))
    assert gradient.tolist() == x.tolist()


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_gate(precision: torch.dtype, gelu: bool) -> None:
    def exact(gate: Tensor, up: Tensor) -> Tensor:
        return up * (F.gelu(gate, approximate="tanh") if gelu else F.silu(gate))

    inputs = [(4 * random(40, 29)).to(precision), random(40, 29, seed=1).to(precision)]
    compare(lambda gate, up: layers.gated(gate, up, gelu), exact, inputs, precision)


def test_threads_do_not_matter() -> None:
    x, weight, before = random(1000, 37).requires_grad_(), random(37, seed=1).requires_grad_(), torch.get_num_threads()
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        out = layers.normed(x, weight, 1e-5, torch.float32)
        results.append((out, *torch.autograd.grad(out.square().sum(), (x, weight))))
    torch.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)
