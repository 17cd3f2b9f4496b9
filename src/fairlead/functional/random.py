"""Random numbers without a state: each is a function of a seed and a counter.

Knows 64-bit integers. Does not know generators, devices or batches: row i's number depends on seed_i and the counter
only, so it is the same alone or in a batch, in any order, on a CPU or a GPU, and after a resume.

The mix is SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators"), written with int64
tensors, whose products and sums wrap around modulo 2^64. Not for cryptography.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MODULUS = 1 << 64


def _signed(value: int) -> int:
    """The int64 with the same 64 bits as `value` modulo 2^64."""
    value %= _MODULUS
    return value - _MODULUS if value >= 1 << 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def uniform(seeds: Tensor, counter: int | Tensor) -> Tensor:
    """Uniform numbers in [0, 1) with 53 random bits.

    The seed is hashed to a key; the number is output `counter` of the SplitMix64 stream that starts at this key.
    Hashing first keeps nearby seeds (0, 1, 2, ...) on unrelated streams.

    Shapes: seeds [B] int64 (any shape works), counter an integer or an integer tensor that broadcasts with seeds, e.g.
    one per row; returns the broadcast shape, float64, on the device of seeds.
    Raises: ValueError when seeds or counter are not int64, shapes do not broadcast, or counter does not fit in 64 bits.
    """
    if seeds.dtype != torch.int64:
        raise ValueError(f"seeds must be int64, got {seeds.dtype}")
    if isinstance(counter, Tensor):
        if counter.dtype != torch.int64:
            raise ValueError(f"counter must be an int or an int64 tensor, got {counter.dtype}")
        try:
            torch.broadcast_shapes(seeds.shape, counter.shape)  # type: ignore[no-untyped-call, unused-ignore]
        except RuntimeError:
            raise ValueError(
                f"counter {list(counter.shape)} does not broadcast with seeds {list(seeds.shape)}"
            ) from None
        step = (counter + 1) * _GOLDEN
    else:
        if not -(1 << 63) <= counter < 1 << 63:
            raise ValueError(f"counter must fit in 64 bits, got {counter}")
        step = torch.tensor(_signed((counter + 1) * _GOLDEN), device=seeds.device)
    key = _mix(seeds + _GOLDEN)
    bits = _shift_right(_mix(key + step), 11)
    return bits.double() * 2.0**-53


def mix_seeds(seeds: Tensor, salt: int | Tensor) -> Tensor:
    """New seeds, unrelated to the old ones and to those of another salt: for the n-th copy of a request, say.

    Shapes: seeds [B] int64 (any shape works), salt an integer or an int64 tensor that broadcasts with it; returns int64.
    Raises: ValueError when seeds are not int64.
    """
    if seeds.dtype != torch.int64:
        raise ValueError(f"seeds must be int64, got {seeds.dtype}")
    steps = salt if isinstance(salt, Tensor) else torch.tensor(_signed(salt), device=seeds.device)
    return _mix(_mix(seeds + _GOLDEN) + (steps + 1) * _GOLDEN)


def _shift_right(x: Tensor, places: int) -> Tensor:
    """Logical shift: torch's >> on int64 copies the sign bit, which is cut off here."""
    return (x >> places) & ((1 << (64 - places)) - 1)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser, a bijection of 64-bit integers."""
    x = (x ^ _shift_right(x, 30)) * _FIRST
    x = (x ^ _shift_right(x, 27)) * _SECOND
    return x ^ _shift_right(x, 31)
