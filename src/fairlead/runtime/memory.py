"""Keeping the C library from giving memory back after every step.

Knows: glibc's allocator.
Does not know: torch, models.

A training step frees and asks for the same large buffers again and again. By default glibc maps and unmaps them each time, and
every page is then zeroed anew by the kernel: some 100,000 page faults a step for a small model.
"""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Serve large requests from the heap and never shrink it; False where the C library has no such setting."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
