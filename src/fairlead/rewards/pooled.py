"""Rewards that are found in worker processes, which work while responses are still sampled.

Knows: what was begun early, how failures are counted.
Does not know: what is checked, how processes are kept.
"""

from __future__ import annotations

import logging
import weakref
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field, PrivateAttr
from torch import Tensor

from fairlead.batch import Samples
from fairlead.pool import Failure, Pool, wait
from fairlead.rewards.base import Reward
from fairlead.runtime import Opener

__all__ = ["PooledReward", "column"]

logger = logging.getLogger(__name__)


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
        found = wait(future, self.timeout)
        if not isinstance(found, Failure):
            try:
                return float(found)
            except (TypeError, ValueError) as error:
                found = Failure("error", f"{type(error).__name__}: {error}")
        self._fail(f"{found.kind}s", found.reason)
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
