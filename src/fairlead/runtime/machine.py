"""What this machine is.

Knows: the operating system's account of the processor.
Does not know: what is measured on it.
"""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

import torch

__all__ = ["cpu_flags", "fast_bfloat16", "hardware_precisions", "has_amx", "processor", "usable_cores"]


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def usable_cores() -> int:
    """How many cores this process may use, which a container or `taskset` can make fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_flags() -> set[str]:
    """What the processor can do, in the kernel's words; empty where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    found = [
        line.partition(":")[2].split() for line in lines if line.partition(":")[0].strip() in ("flags", "Features")
    ]
    return set(found[0]) if found else set()


def fast_bfloat16() -> bool:
    """Whether bfloat16 products are done by the hardware here: without it they are far slower than those in float32."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & cpu_flags())


@cache
def has_amx() -> bool:
    """Whether the processor multiplies bfloat16 matrices by tiles (Intel AMX)."""
    return "amx_bf16" in cpu_flags()


def hardware_precisions() -> tuple[str, ...]:
    """The precisions that are worth measuring here: float32, and bfloat16 where it is not emulated."""
    return ("float32", "bfloat16") if fast_bfloat16() else ("float32",)
