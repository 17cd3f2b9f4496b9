"""Any Python function as a reward, run in processes that may fail or hang without harm."""

from __future__ import annotations

import logging
import multiprocessing
import os
import weakref
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

import torch
from pydantic import Field, PrivateAttr, field_validator
from torch import Tensor

from fairlead.batch import Samples
from fairlead.calls import call
from fairlead.data import import_function
from fairlead.rewards.base import Reward
from fairlead.runtime import Opener

__all__ = ["FunctionReward"]

logger = logging.getLogger(__name__)


class FunctionReward(Reward, name="function"):
    """A function `(prompt, response, **columns) → float`, named by its dotted path.

    The function is given those columns of the record that it asks for. A sample for which it raises, returns something
    that is not a finite number, or takes too long gets NaN: it is counted and left out of learning.

    Source: the reward-function interface of programmatic RL, as popularised by TRL's GRPO trainer.
    """

    function: str = Field(description="`module:function`")
    timeout: float = Field(10.0, gt=0, description="seconds for one sample")
    workers: int = Field(0, ge=0, description="processes; 0: one for every core up to 4")
    arguments: dict[str, Any] = Field(default_factory=dict, description="further keyword arguments for every call")

    _pool: Any = PrivateAttr(None)
    _forgotten: Any = PrivateAttr(None)
    _problems: dict[str, float] = PrivateAttr(default_factory=dict)
    _told: set[str] = PrivateAttr(default_factory=set)

    @field_validator("function")
    @classmethod
    def _importable(cls, path: str) -> str:
        import_function(path)
        return path

    def open(self, run: Opener, name: str) -> None:
        from pebble import ProcessPool

        self.close()
        # Never fork: this process has threads of torch, and a child would inherit their locks.
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        self._pool = ProcessPool(
            max_workers=self.workers or min(os.cpu_count() or 1, 4), context=multiprocessing.get_context(method)
        )
        self._forgotten = weakref.finalize(self, self._pool.stop)

    def close(self) -> None:
        if self._pool is not None:
            self._forgotten.detach()
            self._pool.stop()
            self._pool.join()
            self._pool = None

    def __call__(self, samples: Samples) -> Tensor:
        assert self._pool is not None, "open the reward before it is asked"
        futures = [
            self._pool.schedule(call, args=(self.function, dict(row), self.arguments), timeout=self.timeout)
            for row in samples.rows
        ]
        values: list[float] = []
        self._problems = {"errors": 0.0, "timeouts": 0.0}
        for future in futures:
            try:
                values.append(future.result())
            except FutureTimeout:
                self._fail("timeouts", f"took longer than {self.timeout:g} seconds")
                values.append(float("nan"))
            except (Exception, SystemExit) as error:  # code that people write also exits
                self._fail("errors", f"{type(error).__name__}: {error}")
                values.append(float("nan"))
        return torch.tensor(values, dtype=torch.float32)

    def _fail(self, kind: str, reason: str) -> None:
        """Count a failure; the first of each kind is told, the others would only repeat it."""
        self._problems[kind] += 1
        if kind not in self._told:
            self._told.add(kind)
            logger.warning("reward %s failed for a sample, which is left out: %s", self.function, reason)

    def metrics(self) -> dict[str, float]:
        return dict(self._problems)
