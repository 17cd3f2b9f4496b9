"""What a decoding step does between its matrix products, compiled by Numba: norms, attention over the cache, gates.

Knows: bfloat16 numbers as their bits, one new token for each of many rows.
Does not know: models, weights, sampling, when it is used (`compiled` does).

On a processor these parts are some forty operations a layer that each take longer to start than to compute, and batched products of two
queries each, for which matrix libraries are not made. Here a layer has four calls of three loops. Everything is computed in float32, and
rounded to bfloat16 where the next matrix product reads it. A row is computed by one thread, in the same order whatever their number.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic
from torch import Tensor

__all__ = ["attend", "bits", "gated", "normed", "use_threads"]

numba.config.THREADING_LAYER = "omp"  # the threads that torch uses; others would take turns with them on the cores


def use_threads() -> None:
    """As many threads as torch has."""
    numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))


def bits(x: Tensor) -> np.ndarray[Any, Any]:
    """The memory of a bfloat16 tensor as NumPy sees it: [same shape] uint16."""
    return x.view(torch.uint16).numpy()


def normed(x: Tensor, more: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """RMS norm times `weight` [D] of x [n, D] float32, to which `more` [n, D] is added in place before (unless it has no rows): [n, D] bfloat16."""
    out = torch.empty(x.shape, dtype=torch.bfloat16)
    norm(x.numpy(), bits(more), weight.detach().numpy(), np.float32(epsilon), bits(out))
    return out


def gated(both: Tensor, gelu: bool) -> Tensor:
    """The second half of `both` [n, 2 I] times SiLU, or tanh-GELU, of the first: [n, I] bfloat16."""
    out = torch.empty(len(both), both.shape[1] // 2, dtype=torch.bfloat16)
    gate(bits(both), gelu, bits(out))
    return out


# ---------------------------------------------------------------------------------------------------------------------
# The loops
# ---------------------------------------------------------------------------------------------------------------------

_compiled = {"cache": True, "fastmath": {"contract", "reassoc", "nsz", "arcp", "afn"}, "error_model": "numpy"}


@intrinsic
def _float(typing: Any, x: Any) -> Any:
    """The float32 with the bits of a uint32."""
    return types.float32(types.uint32), lambda context, builder, signature, args: builder.bitcast(
        args[0], ir.FloatType()
    )


@intrinsic
def _bits(typing: Any, x: Any) -> Any:
    """The bits of a float32 as a uint32."""
    return types.uint32(types.float32), lambda context, builder, signature, args: builder.bitcast(
        args[0], ir.IntType(32)
    )


@njit(**_compiled)
def _wide(x: Any) -> Any:
    """bfloat16 → float32."""
    return _float(np.uint32(np.uint32(x) << np.uint32(16)))


@njit(**_compiled)
def _narrow(x: Any) -> Any:
    """float32 → bfloat16, to the nearest, ties to even."""
    b = _bits(np.float32(x))
    odd = np.uint32(b >> np.uint32(16)) & np.uint32(1)
    return np.uint16(np.uint32(b + np.uint32(0x7FFF) + odd) >> np.uint32(16))


@njit(**_compiled)
def _exp(x: Any) -> Any:
    """e^x for x <= 88, to a unit in the last place; written out, because the library's is not vectorised.

    2^n times a polynomial of degree 6 on [-ln 2 / 2, ln 2 / 2] (Cephes' coefficients).
    """
    x = max(np.float32(x), np.float32(-87.0))
    n = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
    r = x - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
    y = np.float32(1.9875691500e-4)
    y = y * r + np.float32(1.3981999507e-3)
    y = y * r + np.float32(8.3334519073e-3)
    y = y * r + np.float32(4.1665795894e-2)
    y = y * r + np.float32(1.6666665459e-1)
    y = y * r + np.float32(5.0000001201e-1)
    y = y * r * r + r + np.float32(1.0)
    return y * _float(np.uint32(np.int32(n) + np.int32(127)) << np.uint32(23))


@njit(parallel=True, **_compiled)
def norm(x: Any, more: Any, weight: Any, epsilon: float, out: Any) -> None:
    """Add `more` [n, D] (bits; may have no rows) to x [n, D] in place; out [n, D] (bits): its RMS norm times `weight` [D]."""
    for row in prange(x.shape[0]):
        if more.shape[0]:
            for i in range(x.shape[1]):
                x[row, i] += _wide(more[row, i])
        square = np.float32(0.0)
        for i in range(x.shape[1]):
            square += x[row, i] * x[row, i]
        factor = np.float32(1.0) / np.sqrt(square / np.float32(x.shape[1]) + np.float32(epsilon))
        for i in range(x.shape[1]):
            out[row, i] = _narrow(x[row, i] * factor * weight[i])


@njit(parallel=True, **_compiled)
def gate(both: Any, gelu: bool, out: Any) -> None:
    """out [n, I] (bits): the second half of `both` [n, 2 I] (bits) times SiLU, or tanh-GELU, of the first."""
    width = out.shape[1]
    for row in prange(out.shape[0]):
        for i in range(width):
            x, up = _wide(both[row, i]), _wide(both[row, width + i])
            inner = np.float32(1.5957691216) * (x + np.float32(0.044715) * x * x * x) if gelu else x
            out[row, i] = _narrow(up * x / (np.float32(1.0) + _exp(min(-inner, np.float32(87.0)))))


@njit(**_compiled)
def _products(one: Any, two: Any, keys: Any, columns: int, out: Any) -> None:
    """out [2, columns]: products of two queries [W] with keys [columns, W] (bits)."""
    for c in range(columns):
        a = b = np.float32(0.0)
        for i in range(keys.shape[1]):
            key = _wide(keys[c, i])
            a += one[i] * key
            b += two[i] * key
        out[0, c], out[1, c] = a, b


@njit(**_compiled)
def _softmax(x: Any) -> None:
    """In place."""
    largest, total = np.float32(-3e38), np.float32(0.0)
    for c in range(x.shape[0]):
        largest = max(largest, x[c])
    for c in range(x.shape[0]):
        x[c] = _exp(x[c] - largest)
        total += x[c]
    for c in range(x.shape[0]):
        x[c] /= total


@njit(**_compiled)
def _mix(shares: Any, values: Any, columns: int, out: Any) -> None:
    """Add the values [columns, W] (bits) in two shares [2, columns] to out [2, W]."""
    width = values.shape[1]
    even = columns - columns % 2
    for c in range(0, even, 2):  # two columns at a time, so that sums are loaded and stored half as often
        a, b, d, e = shares[0, c], shares[1, c], shares[0, c + 1], shares[1, c + 1]
        for i in range(width):
            one, two = _wide(values[c, i]), _wide(values[c + 1, i])
            out[0, i] += a * one + d * two
            out[1, i] += b * one + e * two
    for c in range(even, columns):
        a, b = shares[0, c], shares[1, c]
        for i in range(width):
            one = _wide(values[c, i])
            out[0, i] += a * one
            out[1, i] += b * one


@njit(parallel=True, **_compiled)
def attend(
    qkv: Any,
    cosine: Any,
    sine: Any,
    keys: Any,
    values: Any,
    here: int,
    scale: float,
    hidden: Any,
    owner: Any,
    prompt_keys: Any,
    prompt_values: Any,
    out: Any,
) -> None:
    """Attention of one new token a row over its prompt and its own columns up to `here`, where its key and value are put.

    qkv [n, (H + 2 K) W] (bits): queries, keys and values before rotation; cosine, sine [n, W]; keys, values
    [n K, columns, W] (bits); hidden [n, length] bool: prompt padding (may have no rows);
    prompt_keys, prompt_values [prompts K, P, W] (bits) of which row i has those of `owner[i]` (P may be 0); out [n, H W] (bits).
    """
    rows, width, shared = qkv.shape[0], keys.shape[2], prompt_keys.shape[1]
    key_heads = keys.shape[0] // rows
    heads = out.shape[1] // width
    group, half, seen = heads // key_heads, width // 2, shared + here + 1
    for unit in prange(rows * key_heads):
        row, head = unit // key_heads, unit % key_heads
        queries = np.empty((group, width), np.float32)
        for g in range(group + 1):
            # The last of them is the new key, which goes into the cache.
            start = ((head * group + g) if g < group else heads + head) * width
            for i in range(half):
                a, b = _wide(qkv[row, start + i]), _wide(qkv[row, start + half + i])
                left = a * cosine[row, i] - b * sine[row, i]
                right = b * cosine[row, half + i] + a * sine[row, half + i]
                if g < group:
                    queries[g, i], queries[g, half + i] = left * scale, right * scale
                else:
                    keys[unit, here, i], keys[unit, here, half + i] = _narrow(left), _narrow(right)
        for i in range(width):
            values[unit, here, i] = qkv[row, (heads + key_heads + head) * width + i]
        source = owner[row] * key_heads + head
        shares = np.empty((2, seen), np.float32)
        mixed = np.empty((2, width), np.float32)
        for first in range(0, group, 2):
            # Two queries at a time read a key once; of an odd number the last is computed twice.
            second = min(first + 1, group - 1)
            _products(queries[first], queries[second], prompt_keys[source], shared, shares[:, :shared])
            _products(queries[first], queries[second], keys[unit], here + 1, shares[:, shared:])
            for g in range(2):
                if hidden.shape[0]:
                    for c in range(hidden.shape[1]):
                        if hidden[row, c]:
                            shares[g, c] = np.float32(-1e30)
                _softmax(shares[g])
            mixed[:] = 0.0
            _mix(shares[:, :shared], prompt_values[source], shared, mixed)
            _mix(shares[:, shared:], values[unit], here + 1, mixed)
            for g in range(min(2, group - first)):
                for i in range(width):
                    out[row, (head * group + first + g) * width + i] = _narrow(mixed[g, i])
