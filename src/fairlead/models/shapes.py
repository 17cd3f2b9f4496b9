"""Sizes that come again.

Knows: how a size is rounded up.
Does not know: what has it, where rounding pays.

oneDNN compiles a kernel for each new shape of a product in bfloat16. For AMX that takes 5 to 8 ms, where a layer of width 256 takes one
to read 2,000 tokens. Rows without padding have another length in every micro-batch, so nearly every product would be the first of
its shape. Rounded up by a few hundredths, sizes recur.
"""

from __future__ import annotations

__all__ = ["recurring"]


def recurring(size: int, steps: int = 16) -> int:
    """The next of a few sizes: all up to twice `steps`, then `steps` of them, evenly, to each doubling."""
    unit = 1 << max(0, (size - 1).bit_length() - steps.bit_length())
    return -(-size // unit) * unit
