"""What a decoding step does between its matrix products: attention over the cache; norm and gate as those of a layer, in place.

Knows: one new token for each of many rows, bfloat16.
Does not know: models, weights, sampling, when it is used (`generation.compiled` does).

On a processor these parts are some forty operations a layer that each take longer to start than to compute, and batched products of two
queries each, for which matrix libraries are not made. Here a layer has four calls of three loops.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from fairlead.loops import layers
from fairlead.loops.compiling import COMPILED, loop
from fairlead.loops.numbers import exponential, memory, narrow, wide

__all__ = ["attend", "gated", "normed"]


def normed(x: Tensor, more: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """RMS norm times `weight` [D] of x [n, D] float32, to which `more` [n, D] is added in place before (unless it has no rows): [n, D] bfloat16."""
    out = torch.empty(x.shape, dtype=torch.bfloat16)
    scales = np.empty(len(x), np.float32)
    layers.norm_rows(memory(x), memory(more), memory(weight), np.float32(epsilon), memory(x), scales, memory(out))
    return out


def gated(both: Tensor, gelu: bool) -> Tensor:
    """The second half of `both` [n, 2 I] times SiLU, or tanh-GELU, of the first: [n, I] bfloat16."""
    out = torch.empty(len(both), both.shape[1] // 2, dtype=torch.bfloat16)
    layers.gate_rows(memory(both), memory(both), out.shape[1], gelu, memory(out))
    return out


# ---------------------------------------------------------------------------------------------------------------------
# The loops
# ---------------------------------------------------------------------------------------------------------------------


@njit(**COMPILED)
def _products(one: Any, two: Any, keys: Any, columns: int, out: Any) -> None:
    """out [2, columns]: products of two queries [W] with keys [columns, W] (bits)."""
    for c in range(columns):
        a = b = np.float32(0.0)
        for i in range(keys.shape[1]):
            key = wide(keys[c, i])
            a += one[i] * key
            b += two[i] * key
        out[0, c], out[1, c] = a, b


@njit(**COMPILED)
def _softmax(x: Any) -> None:
    """In place."""
    largest, total = np.float32(-3e38), np.float32(0.0)
    for c in range(x.shape[0]):
        largest = max(largest, x[c])
    for c in range(x.shape[0]):
        x[c] = exponential(x[c] - largest)
        total += x[c]
    for c in range(x.shape[0]):
        x[c] /= total


@njit(**COMPILED)
def _mix(shares: Any, values: Any, columns: int, out: Any) -> None:
    """Add the values [columns, W] (bits) in two shares [2, columns] to out [2, W]."""
    width = values.shape[1]
    even = columns - columns % 2
    for c in range(0, even, 2):  # two columns at a time, so that sums are loaded and stored half as often
        a, b, d, e = shares[0, c], shares[1, c], shares[0, c + 1], shares[1, c + 1]
        for i in range(width):
            one, two = wide(values[c, i]), wide(values[c + 1, i])
            out[0, i] += a * one + d * two
            out[1, i] += b * one + e * two
    for c in range(even, columns):
        a, b = shares[0, c], shares[1, c]
        for i in range(width):
            one = wide(values[c, i])
            out[0, i] += a * one
            out[1, i] += b * one


@loop
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
                a, b = wide(qkv[row, start + i]), wide(qkv[row, start + half + i])
                left = a * cosine[row, i] - b * sine[row, i]
                right = b * cosine[row, half + i] + a * sine[row, half + i]
                if g < group:
                    queries[g, i], queries[g, half + i] = left * scale, right * scale
                else:
                    keys[unit, here, i], keys[unit, here, half + i] = narrow(left), narrow(right)
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
                    out[row, (head * group + first + g) * width + i] = narrow(mixed[g, i])
