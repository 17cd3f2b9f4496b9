"""Rewards that are found in worker processes: one pool for all of them, which works while responses are still sampled.

Knows: processes, time-outs, what was begun early.
Does not know: what is checked.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import weakref
from abc import abstractmethod
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field, PrivateAttr
from torch import Tensor

from fairlead.batch import Samples
from fairlead.rewards.base import Reward
from fairlead.runtime import Opener

__all__ = ["Pool", "PooledReward", "column"]

logger = logging.getLogger(__name__)


class Pool:
    """Worker processes that all rewards with the same number of workers share; the last to leave ends them.

    Workers find modules where this process found them when they were started, so rewards that came after a change of
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

    def ask(self, function: Callable[..., Any], arguments: tuple[Any, ...], timeout: float) -> Any:
        """A future of `function(*arguments)`, whose process is killed after `timeout` seconds of work."""
        return self._processes.schedule(function, args=arguments, timeout=timeout)

    def leave(self) -> None:
        """One reward less."""
        self._users -= 1
        if self._users == 0:
            del self._running[self._key]
            self._processes.stop()
            self._processes.join()


class PooledReward(Reward):
    """A reward that a function of one row finds, in processes that may fail or hang without harm.

    A row for which the function raises or takes too long gets NaN: it is counted and left out of learning.
    """

    timeout: float = Field(10.0, gt=0, description="seconds for one sample")
    workers: int = Field(
        0, ge=0, description="processes, shared with rewards of as many; 0: one for every core up to 4"
    )

    _pool: Pool | None = PrivateAttr(None)
    _forgotten: Any = PrivateAttr(None)
    _begun: dict[str, list[tuple[dict[str, Any], Any]]] = PrivateAttr(default_factory=dict)
    _problems: dict[str, float] = PrivateAttr(default_factory=dict)
    _told: set[str] = PrivateAttr(default_factory=set)

    @abstractmethod
    def task(self, row: dict[str, Any]) -> tuple[Callable[..., float], tuple[Any, ...]]:
        """A function that a worker can import, and its arguments; it returns the reward of the row."""

    def open(self, run: Opener, name: str) -> None:
        self.close()
        self._pool = Pool.share(self.workers)
        self._forgotten = weakref.finalize(self, self._pool.leave)

    def close(self) -> None:
        self._drop_begun()
        if self._pool is not None:
            self._forgotten()
            self._pool = None

    def begin(self, row: dict[str, Any]) -> None:
        self._begun.setdefault(row["response"], []).append((row, self._ask(row)))

    def __call__(self, samples: Samples) -> Tensor:
        return torch.tensor(self.judge_rows(list(samples.rows)), dtype=torch.float32)

    def judge_rows(self, rows: list[dict[str, Any]]) -> list[float]:
        """One number a row, NaN for a failure; what was begun is waited for, the rest is asked now."""
        futures = [self._pop_begun(row) or self._ask(row) for row in rows]
        self._drop_begun()
        self._problems = {"errors": 0.0, "timeouts": 0.0}
        return [self._result(future) for future in futures]

    def metrics(self) -> dict[str, float]:
        return dict(self._problems)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _ask(self, row: dict[str, Any]) -> Any:
        assert self._pool is not None, "open the reward before it is asked"
        return self._pool.ask(*self.task(row), self.timeout)

    def _pop_begun(self, row: dict[str, Any]) -> Any:
        """The future of a row that was begun and is the same still; each is given out once."""
        waiting = self._begun.get(row["response"], [])
        for place, (known, future) in enumerate(waiting):
            if known == row:
                del waiting[place]
                return future
        return None

    def _drop_begun(self) -> None:
        """Nobody asked for these rows: the rollout changed them or left them out."""
        for waiting in self._begun.values():
            for _, future in waiting:
                future.cancel()
        self._begun.clear()

    def _result(self, future: Any) -> float:
        try:
            return float(future.result())
        except FutureTimeout:
            self._fail("timeouts", f"took longer than {self.timeout:g} seconds")
        except (Exception, SystemExit) as error:  # code that people write also exits
            self._fail("errors", f"{type(error).__name__}: {error}")
        return float("nan")

    def _fail(self, kind: str, reason: str) -> None:
        """Count a failure; the first of each kind is told, the others would only repeat it."""
        self._problems[kind] += 1
        if kind not in self._told:
            self._told.add(kind)
            logger.warning("reward %s failed for a sample, which is left out: %s", self.label, reason)

    @property
    def label(self) -> str:
        """What warnings call the reward."""
        return self.part_name


def column(row: dict[str, Any], field: str, part: str) -> Any:
    """A column of the record that a reward cannot do without."""
    if row.get(field) is None:
        raise ValueError(
            f"reward {part}: a record has no column {field!r} (it has {', '.join(sorted(row))}); set `field` to the one that is meant"
        )
    return row[field]
