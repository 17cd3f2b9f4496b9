"""What compiled loops share: threads, bfloat16 as its bits, an exponential that is vectorised.

Knows: Numba's threads; how a tensor's memory is read and written by a loop.
Does not know: any loop.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload
from torch import Tensor

from fairlead.loops.compiling import COMPILED

__all__ = ["exponential", "memory", "narrow", "put", "use_threads", "wide"]


def use_threads() -> None:
    """As many threads as torch has."""
    _launch()
    numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))


@cache
def _launch() -> None:
    """Numba's start sets OpenMP's number of threads, which is torch's too, to that of the cores: set it back."""
    threads = torch.get_num_threads()
    numba.set_num_threads(1)
    torch.set_num_threads(threads)


def memory(x: Tensor) -> np.ndarray[Any, Any]:
    """The memory of a tensor as NumPy sees it: [same shape] float32, or uint16 for bfloat16."""
    x = x.detach()
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()


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


@njit(**COMPILED)
def narrow(x: Any) -> Any:
    """float32 → bfloat16, to the nearest, ties to even."""
    b = _bits(np.float32(x))
    odd = np.uint32(b >> np.uint32(16)) & np.uint32(1)
    return np.uint16(np.uint32(b + np.uint32(0x7FFF) + odd) >> np.uint32(16))


def wide(x: Any) -> Any:
    """A number of a tensor's memory as float32."""


@overload(wide, strict=False)
def _(x: Any) -> Any:  # pragma: no cover - compiled
    if isinstance(x, types.Float):
        return lambda x: x
    return lambda x: _float(np.uint32(np.uint32(x) << np.uint32(16)))


def put(out: Any, i: int, x: Any) -> None:
    """Write float32 `x` to the memory `out[i]` of a tensor's row."""


@overload(put, strict=False)
def _(out: Any, i: Any, x: Any) -> Any:  # pragma: no cover - compiled
    if isinstance(out.dtype, types.Float):

        def as_it_is(out: Any, i: Any, x: Any) -> None:
            out[i] = x

        return as_it_is

    def rounded(out: Any, i: Any, x: Any) -> None:
        out[i] = narrow(x)

    return rounded


@njit(**COMPILED)
def exponential(x: Any) -> Any:
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
