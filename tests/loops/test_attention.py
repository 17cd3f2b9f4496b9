"""Attention among ragged rows by compiled loops, against the plain formula, forwards and backwards."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("numba", reason="the extra `fast`")
from fairlead.loops.attention import attended
from fairlead.models.attention import Ragged, Span

WIDTH = 6


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def turned(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * turn[0][:, None] + torch.cat([-second, first], -1) * turn[1][:, None]


def exact(
    inputs: list[Tensor],
    turns: list[tuple[Tensor, Tensor]],
    rows: list[tuple[Span, tuple[Span, ...]]],
    scale: float,
    window: int | None,
) -> Tensor:
    query, key, value = turned(inputs[0], turns[0]), turned(inputs[1], turns[1]), inputs[2]
    group = query.shape[1] // key.shape[1]
    out = torch.zeros_like(query)
    for (start, length), spans in rows:
        places = torch.cat([torch.arange(first, first + count) for first, count in spans])
        k, v = (x[places].repeat_interleave(group, 1) for x in (key, value))
        distance = torch.arange(len(places) - length, len(places))[:, None] - torch.arange(len(places))
        seen = (distance >= 0) & (distance < (window or len(places)))
        scores = torch.einsum("qhw,khw->hqk", query[start : start + length], k) * scale
        shares = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        out[start : start + length] = torch.einsum("hqk,khw->qhw", shares, v)
    return out


ROWS: dict[str, list[tuple[Span, tuple[Span, ...]]]] = {
    "apart": [((0, 5), ((0, 5),)), ((5, 1), ((5, 1),)), ((6, 11), ((6, 11),)), ((17, 9), ((17, 9),))],
    "a prompt shared": [((0, 4), ((0, 4),)), ((4, 3), ((0, 4), (4, 3))), ((7, 6), ((0, 4), (7, 6)))],
    "in pieces": [((0, 300), ((0, 300),)), ((300, 190), ((300, 190),))],
}


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("group", [1, 2, 3])
def test_values_and_gradients(group: int, name: str, window: int | None, precision: torch.dtype) -> None:
    rows, scale = ROWS[name], 0.7
    count = sum(queries[1] for queries, _ in rows)
    shapes = [(count, 2 * group, WIDTH), (count, 2, WIDTH), (count, 2, WIDTH)]
    inputs = [random(*shape, seed=i).to(precision).requires_grad_() for i, shape in enumerate(shapes)]
    angle = random(count, WIDTH // 2, seed=5)
    turn = torch.cat([angle, angle], -1).cos(), torch.cat([angle, angle], -1).sin()
    upstream = random(*shapes[0], seed=7).to(precision)

    found = attended(*inputs, (turn, turn), Ragged(rows, torch.device("cpu")).layout(count), scale, window)
    found.backward(upstream)
    wide = [x.detach().float().requires_grad_() for x in inputs]
    expected = exact(wide, [turn, turn], rows, scale, window)
    expected.backward(upstream.float())
    rtol, atol = (1e-4, 1e-5) if precision == torch.float32 else (0.05, 0.05)
    torch.testing.assert_close(found.float(), expected, rtol=rtol, atol=atol)
    for mine, right in zip(inputs, wide, strict=True):
        torch.testing.assert_close(mine.grad.float(), right.grad, rtol=rtol, atol=atol * float(right.grad.abs().max()))  # type: ignore[union-attr]


def test_some_queries_over_all_keys_and_tokens_that_nobody_sees() -> None:
    rows = ROWS["apart"]
    count = 26
    some, kept = Ragged(rows, torch.device("cpu")).only(torch.tensor([3, 7, 8, 20]))
    key, value = random(count + 2, 2, WIDTH, seed=1).requires_grad_(), random(count + 2, 2, WIDTH, seed=2)
    query = random(len(kept), 4, WIDTH).requires_grad_()
    angle = random(count + 2, WIDTH // 2, seed=5)
    turn = torch.cat([angle, angle], -1).cos(), torch.cat([angle, angle], -1).sin()
    mine = turn[0][kept], turn[1][kept]
    found = attended(query, key, value, (mine, turn), some.layout(len(key)), 1.0, None)
    torch.testing.assert_close(found, exact([query, key, value], [mine, turn], list(some.rows), 1.0, None))
    found.sum().backward()
    assert key.grad is not None and bool((key.grad[-2:] == 0).all()) and bool((key.grad[21:26] == 0).all())
    assert bool((key.grad[:4] != 0).any())


def test_no_row_looks_at_numbers_left_in_memory() -> None:
    """Padding is written: torch fills new memory with NaN here, which would spread."""
    rows = ROWS["apart"]
    inputs = [random(26, 2, WIDTH, seed=i).requires_grad_() for i in range(3)]
    turn = torch.ones(26, WIDTH), torch.zeros(26, WIDTH)
    layout = Ragged(rows, torch.device("cpu")).layout(26)
    torch.use_deterministic_algorithms(True)
    try:
        assert bool(torch.empty(9).isnan().all())
        found = attended(*inputs, (turn, turn), layout, 1.0, None)
        gradients = torch.autograd.grad(found.sum(), inputs)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(bool(x.isfinite().all()) for x in (found, *gradients))
