"""What the C library and oneDNN do with memory that a process has freed or may need again.

Knows: glibc's allocator, the caches of compiled kernels of oneDNN and of what stands between it and torch.
Does not know: models, batches.

A training step frees and asks for the same large buffers again and again. By default glibc maps and unmaps them each time, and
every page is then zeroed anew by the kernel: some 100,000 page faults a step for a small model. oneDNN keeps the kernels of the
last 1,024 shapes, and so does torch's layer above it, which bfloat16 goes through; rows without padding have another shape in every
micro-batch, so that kernels of shapes which never come again fill both. What a step uses in all its layers is far fewer. With AMX more are
kept, since shapes are made to recur there (`fairlead.models.shapes`) and a kernel is expensive.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

from fairlead.runtime.machine import has_amx

__all__ = ["give_back_freed_memory", "peak_memory", "set_up_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_KERNELS, _KERNELS_WITH_AMX = "192", "512"
_KERNEL_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")


def set_up_memory() -> bool:
    """Keep freed memory, and few kernels; before the first matrix product. False where the C library has no such setting.

    A number of kernels that stands in ONEDNN_PRIMITIVE_CACHE_CAPACITY or LRU_CACHE_CAPACITY is left as it is.
    """
    for variable in _KERNEL_CACHES:
        os.environ.setdefault(variable, _KERNELS_WITH_AMX if has_amx() else _KERNELS)
    library = _glibc()
    if library is None:
        return False
    return bool(library.mallopt(_M_MMAP_MAX, 0)) and bool(library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def give_back_freed_memory() -> None:
    """Return all free pages to the system: what comes next may be of another size, and nothing would shrink."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def peak_memory() -> float:
    """Largest resident memory of this process so far, MiB."""
    try:  # what `getrusage` says of a new process begins with the peak of the process that started it
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (1024**2 if sys.platform == "darwin" else 1024)


@cache
def _glibc() -> Any:
    """The C library, if it is one with these settings."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        library = ctypes.CDLL("libc.so.6")
        return library if library.mallopt and library.malloc_trim else None
    except (OSError, AttributeError):  # another C library
        return None
