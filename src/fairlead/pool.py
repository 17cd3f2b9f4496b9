"""One pool of worker processes for all functions of rewards, tools and environments.

Knows: processes, time-outs.
Does not know: what is called, or what becomes of a failure.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from fairlead.calls import load, module_of

__all__ = ["Failure", "Pool", "wait"]

_LONGEST_IMPORT = 600.0


class Failure(NamedTuple):
    """A function that raised or was stopped."""

    kind: Literal["error", "timeout"]
    reason: str


class Pool:
    """Worker processes that all parts with the same number of workers share; the last to leave ends them.

    Workers find modules where this process found them when they were started, so parts that came after a change of
    the path or of the working directory have a pool of their own.
    """

    _running: ClassVar[dict[tuple[Any, ...], Pool]] = {}

    @classmethod
    def share(cls, workers: int) -> Pool:
        """The pool of so many workers (0: one for every core up to 4); ends with as many calls of `leave`."""
        workers = workers or min(os.cpu_count() or 1, 4)
        key = (workers, Path.cwd(), *sys.path)
        pool = cls._running.get(key)
        if pool is None:
            pool = cls._running[key] = cls(workers, key)
        pool._users += 1
        return pool

    def __init__(self, workers: int, key: tuple[Any, ...]) -> None:
        from pebble import ProcessPool

        # Never fork: this process has threads of torch, and a child would inherit their locks.
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        self._processes = ProcessPool(max_workers=workers, context=multiprocessing.get_context(method))
        self._key, self._users = key, 0
        self._imports: dict[str, float] = {}

    def ask(self, function: Callable[..., Any], arguments: tuple[Any, ...], timeout: float) -> Any:
        """A future of `function(*arguments)`, whose process is killed after `timeout` seconds of work.

        A process that begins anew imports the function's module first, so it is given twice as long more as that was seen to take.

        Raises RuntimeError when the pool has broken down.
        """
        try:
            module = module_of(function, arguments)
            if module not in self._imports:
                self._imports[module] = self._import(module)
            return self._processes.schedule(function, args=arguments, timeout=timeout + 2 * self._imports[module])
        except RuntimeError as error:
            raise RuntimeError(
                f"the worker processes of rewards and tools have broken down ({error}). They import the program that started the "
                'run: if that is a script, what it does must stand below `if __name__ == "__main__":`'
            ) from error

    def _import(self, module: str) -> float:
        """The seconds that a worker needs to import a module; one that cannot be imported fails again when it is called."""
        found = wait(self._processes.schedule(load, args=(module,), timeout=_LONGEST_IMPORT), _LONGEST_IMPORT)
        return 0.0 if isinstance(found, Failure) else float(found)

    def leave(self) -> None:
        """One part less."""
        self._users -= 1
        if self._users == 0:
            del self._running[self._key]
            self._processes.stop()
            self._processes.join()


def wait(future: Any, timeout: float) -> Any:
    """What a future of `Pool.ask` returns, or the Failure that came of it."""
    try:
        return future.result()
    except FutureTimeout:
        return Failure("timeout", f"took longer than {timeout:g} seconds")
    except (Exception, SystemExit) as error:  # code that people write also exits
        return Failure("error", f"{type(error).__name__}: {error}")
