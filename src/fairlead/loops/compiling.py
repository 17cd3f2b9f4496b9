"""How loops are compiled: by another process, once a machine, and read from Numba's cache.

Knows: Numba, its cache, the process that compiles.
Does not know: any loop.

What Numba has just compiled rounds otherwise than what it reads from its cache in another process (which is optimised again). So another
process compiles, and this one reads: a run that is resumed goes on with the same numbers. That process is started when something has
to be compiled, serves all loops that come, and goes when none has come for a while, or with the process that started it.

Numba keeps what it has compiled beside a loop's source and sees changes of that file only: after a change of `numbers` or of this file
delete `__pycache__` of this room.
"""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import njit, typeof

__all__ = ["COMPILED", "loop"]

numba.config.THREADING_LAYER = "omp"  # the threads that torch uses; others would take turns with them on the cores

COMPILED: dict[str, Any] = {
    "cache": True,
    "fastmath": {"contract", "reassoc", "nsz", "arcp", "afn"},
    "error_model": "numpy",
}
"""How loops are compiled: sums in any order, but infinities and NaN as they are."""

_IDLE = 60
"""Seconds without a loop to compile after which the process that compiles goes."""

_process: tuple[int, subprocess.Popen[bytes]] | None = None
"""The process that compiles, and the process whose it is: one that was forked starts its own."""


def loop(function: Callable[..., None]) -> Callable[..., None]:
    """Compile a loop whose `prange` runs on several threads, for each kind of arguments when they first come."""
    known: dict[tuple[Any, ...], Any] = {}

    def call(*arguments: Any) -> None:
        kinds = tuple(
            (x.dtype.num, x.ndim, x.flags.c_contiguous) if isinstance(x, np.ndarray) else type(x) for x in arguments
        )
        if kinds not in known:
            signature = tuple(typeof(x) for x in arguments)
            known[kinds] = njit(parallel=True, **COMPILED)(function)
            if known[kinds]._cache.load_overload(signature, known[kinds].targetctx) is None:
                _compile_elsewhere(function, signature)
            known[kinds].compile(signature)
        known[kinds](*arguments)

    call.loop = function  # type: ignore[attr-defined]
    return call


def _compile_elsewhere(function: Callable[..., None], signature: tuple[Any, ...]) -> None:
    """Into the cache; should that fail, this process compiles for itself, and rounds a little otherwise than the next."""
    request = pickle.dumps((function.__module__, function.__name__, signature))
    for _ in range(2):  # once more where it has just gone
        process = _serving()
        try:
            process.stdin.write(request)  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
        except BrokenPipeError:
            continue
        if process.stdout.read(1):  # type: ignore[union-attr]
            return


def _serving() -> subprocess.Popen[bytes]:
    global _process
    if _process is None or _process[0] != os.getpid() or _process[1].poll() is not None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, "-c", f"from {__name__} import serve; serve()"]
        pipe = subprocess.PIPE
        _process = os.getpid(), subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment)
    return _process[1]


def serve() -> None:
    """Compile what standard input asks for, and answer each with a byte, until it ends or nothing comes."""
    alarm = getattr(signal, "alarm", lambda seconds: None)  # not on Windows, where the process stays to the end
    while True:
        alarm(_IDLE)
        try:
            module, name, signature = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        alarm(0)
        function = getattr(importlib.import_module(module), name).loop
        njit(parallel=True, **COMPILED)(function).compile(signature)
        sys.stdout.buffer.write(b".")
        sys.stdout.buffer.flush()
