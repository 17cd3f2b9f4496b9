"""What a layer does between its matrix products, forwards and backwards: residual with norm, rotation, gate.

Knows: the arithmetic and its gradients, float32 and bfloat16.
Does not know: models, rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor
from torch.autograd.function import once_differentiable

from fairlead.loops.compiling import COMPILED, loop
from fairlead.loops.numbers import exponential, memory, put, use_threads, wide

__all__ = ["added_and_normed", "gate_rows", "gated", "norm_rows", "normed", "turned"]

_CHUNK = 256
"""Rows whose gradients of the weight are one sum."""


def normed(x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
    """RMS norm (Zhang and Sennrich 2019, arXiv 1910.07467) of x [..., D] times `weight` [D], as `dtype`."""
    return _Norm.apply(x, None, weight, epsilon, dtype)  # type: ignore[no-untyped-call, no-any-return]


def added_and_normed(
    x: Tensor, change: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """x + change [..., D] in the precision of x, and the RMS norm of that times `weight` [D], as `dtype`."""
    return _Norm.apply(x, change, weight, epsilon, dtype)  # type: ignore[no-untyped-call, no-any-return]


def turned(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021, arXiv 2104.09864) of [N, H, W], halves paired, by angles with `cosine` and `sine` [N, W]."""
    return _Turn.apply(heads, cosine, sine)  # type: ignore[no-untyped-call, no-any-return]


def gated(gate: Tensor, up: Tensor, gelu: bool) -> Tensor:
    """`up` [..., I] times SiLU, or tanh-GELU, of `gate` [..., I]."""
    return _Gate.apply(gate, up, gelu)  # type: ignore[no-untyped-call, no-any-return]


class _Norm(torch.autograd.Function):
    """y = w n with n = x r and r = (mean(x²) + ε)^-½; dx = r (g w − n mean(g w n)), dw = Σ g n."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Tensor | None, weight: Tensor, epsilon: float, dtype: torch.dtype) -> Any:
        """The norm; behind the sum where there is a change."""
        x = x.contiguous()
        total = x if change is None else torch.empty_like(x)
        out = torch.empty(x.shape, dtype=dtype)
        scales = np.empty(x[..., 0].numel(), np.float32)
        use_threads()
        norm_rows(
            _rows(x),
            _rows(x[:0] if change is None else change.contiguous()),
            memory(weight.float()),
            np.float32(epsilon),
            _rows(total),
            scales,
            _rows(out),
        )
        ctx.save_for_backward(total, weight)
        ctx.scales, ctx.precision, ctx.added = scales, dtype, None if change is None else change.dtype
        return out if change is None else (total, out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Of the input, the change and the weight."""
        total, weight = ctx.saved_tensors
        gradient = gradients[-1].to(ctx.precision).contiguous()
        of_x = torch.empty_like(total)
        rounded = ctx.added == torch.bfloat16  # else the change has the sum's own gradient
        of_change = torch.empty(total.shape if rounded else (0, total.shape[-1]), dtype=torch.bfloat16)
        learns = ctx.needs_input_grad[2]
        of_weight = torch.zeros(-(-len(ctx.scales) // _CHUNK), weight.numel()) if learns else torch.empty(0, 1)
        use_threads()
        _norm_backward(
            _rows(gradient),
            _rows(gradients[0].contiguous() if ctx.added else total[:0]),
            _rows(total),
            memory(weight.float()),
            ctx.scales,
            _rows(of_x),
            _rows(of_change),
            memory(of_weight),
        )
        change = of_change if rounded else None if ctx.added is None else of_x.to(ctx.added)
        return of_x, change, of_weight.sum(0).to(weight.dtype) if learns else None, None, None


class _Turn(torch.autograd.Function):
    """The gradient turns back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """As `turned`."""
        ctx.save_for_backward(cosine, sine)
        return _turned(x, cosine, sine, 1.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """The gradient turned by the opposite angles."""
        cosine, sine = ctx.saved_tensors
        return _turned(gradient, cosine, sine, -1.0), None, None


def _turned(x: Tensor, cosine: Tensor, sine: Tensor, direction: float) -> Tensor:
    x, out = x.contiguous(), torch.empty(x.shape, dtype=x.dtype)
    use_threads()
    _turn(_rows(x.flatten(1)), memory(cosine), memory(sine), np.float32(direction), _rows(out.flatten(1)))
    return out


class _Gate(torch.autograd.Function):
    """y = u a(x) with a(x) = x σ(z): z = x for SiLU, and 2 √(2/π) (x + 0.044715 x³) for GELU."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, gelu: bool) -> Tensor:
        """As `gated`."""
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        ctx.gelu = gelu
        out = torch.empty_like(up)
        use_threads()
        gate_rows(_rows(gate), _rows(up), 0, gelu, _rows(out))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """Of gate and up."""
        gate, up = ctx.saved_tensors
        of_gate, of_up = torch.empty_like(gate), torch.empty_like(up)
        use_threads()
        _gate_backward(
            _rows(gradient.to(up.dtype).contiguous()), _rows(gate), _rows(up), ctx.gelu, _rows(of_gate), _rows(of_up)
        )
        return of_gate, of_up, None


def _rows(x: Tensor) -> np.ndarray[Any, Any]:
    return memory(x.view(-1, x.shape[-1]))


# ---------------------------------------------------------------------------------------------------------------------
# The loops
# ---------------------------------------------------------------------------------------------------------------------


@loop
def norm_rows(x: Any, change: Any, weight: Any, epsilon: float, total: Any, scales: Any, out: Any) -> None:
    """total [n, D], which may be x: x plus `change` (without rows total must be x); scales [n]: r; out [n, D]: the norm of total."""
    for row in prange(x.shape[0]):
        sums, result = total[row], out[row]
        if change.shape[0]:
            for i in range(x.shape[1]):
                put(sums, i, wide(x[row, i]) + wide(change[row, i]))
        square = np.float32(0.0)
        for i in range(x.shape[1]):
            square += wide(sums[i]) * wide(sums[i])
        scale = np.float32(1.0) / np.sqrt(square / np.float32(x.shape[1]) + np.float32(epsilon))
        scales[row] = scale
        for i in range(x.shape[1]):
            put(result, i, wide(sums[i]) * scale * weight[i])


@loop
def _norm_backward(
    gradient: Any, beyond: Any, x: Any, weight: Any, scales: Any, of_x: Any, of_change: Any, of_weight: Any
) -> None:
    """of_x [n, D]: the norm's gradient plus `beyond` (which may have no rows); of_change the same, rounded (may have no rows);
    of_weight [chunks, D]: sums over the rows of a chunk (may have no rows)."""
    for chunk in prange((x.shape[0] + _CHUNK - 1) // _CHUNK):
        for row in range(chunk * _CHUNK, min(x.shape[0], (chunk + 1) * _CHUNK)):
            scale, share = scales[row], np.float32(0.0)
            for i in range(x.shape[1]):
                share += wide(gradient[row, i]) * weight[i] * wide(x[row, i])
            share *= scale * scale / np.float32(x.shape[1])
            for i in range(x.shape[1]):
                value = scale * (wide(gradient[row, i]) * weight[i] - share * wide(x[row, i]))
                if beyond.shape[0]:
                    value += wide(beyond[row, i])
                put(of_x[row], i, value)
                if of_change.shape[0]:
                    put(of_change[row], i, value)
            if of_weight.shape[0]:
                for i in range(x.shape[1]):
                    of_weight[chunk, i] += wide(gradient[row, i]) * scale * wide(x[row, i])


@loop
def _turn(x: Any, cosine: Any, sine: Any, direction: float, out: Any) -> None:
    """x, out [N, H W]; cosine, sine [N, W]."""
    half = cosine.shape[1] // 2
    for row in prange(x.shape[0]):
        for start in range(0, x.shape[1], cosine.shape[1]):
            first, second = x[row, start:], x[row, start + half :]
            left, right = out[row, start:], out[row, start + half :]
            for i in range(half):
                a, b, c, s = wide(first[i]), wide(second[i]), wide(cosine[row, i]), direction * wide(sine[row, i])
                put(left, i, a * c - b * s)
                put(right, i, b * c + a * s)


@njit(**COMPILED)
def _share(x: Any, gelu: bool) -> Any:
    """σ(z) of `_Gate`."""
    z = np.float32(1.5957691216) * (x + np.float32(0.044715) * x * x * x) if gelu else x
    return np.float32(1.0) / (np.float32(1.0) + exponential(min(-z, np.float32(87.0))))


@loop
def gate_rows(by: Any, up: Any, start: int, gelu: bool, out: Any) -> None:
    """out [n, I]: up [n, ...] from column `start` on, times SiLU or GELU of `by` [n, ...], which may be the same array."""
    for row in prange(out.shape[0]):
        shared, result = up[row, start:], out[row]
        for i in range(out.shape[1]):
            x = wide(by[row, i])
            put(result, i, wide(shared[i]) * x * _share(x, gelu))


@loop
def _gate_backward(gradient: Any, gate: Any, up: Any, gelu: bool, of_gate: Any, of_up: Any) -> None:
    """All [n, I]."""
    for row in prange(gate.shape[0]):
        by, up_by = of_gate[row], of_up[row]
        for i in range(gate.shape[1]):
            x, g = wide(gate[row, i]), wide(gradient[row, i])
            share, slope = _share(x, gelu), np.float32(1.0)
            if gelu:
                slope = np.float32(1.5957691216) * (np.float32(1.0) + np.float32(0.134145) * x * x)
            put(up_by, i, g * x * share)
            put(by, i, g * wide(up[row, i]) * share * (np.float32(1.0) + x * (np.float32(1.0) - share) * slope))
