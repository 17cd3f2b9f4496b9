"""Loops compiled by Numba, for what lies between matrix products on a processor: one pass over memory where torch takes several.

Knows: whether they can be used here, and on which tensors.
Does not know: models, sampling, training; the modules of this room know the arithmetic.

Everything is computed in float32, and rounded to bfloat16 where the result is kept in that. A row is computed by one thread, and sums
over rows are taken in a fixed order, so that results do not depend on the number of threads. Numba is the extra `fast`; without it
torch does the same.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

__all__ = ["available", "fit"]


@cache
def available() -> bool:
    """Whether Numba is installed and has OpenMP, so that loops run on torch's own threads."""
    try:
        from fairlead.loops import decoding, numbers

        numbers.use_threads()
        decoding.gated(torch.zeros(1, 2, dtype=torch.bfloat16), False)
    except (ImportError, OSError, RuntimeError, ValueError):
        return False
    return True


def fit(*tensors: Tensor) -> bool:
    """Whether loops can read all of these: on a processor, in float32 or bfloat16."""
    return all(x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16) for x in tensors) and available()
