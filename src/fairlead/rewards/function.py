"""Any Python function as a reward, run in processes that may fail or hang without harm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import Field

from fairlead.calls import call
from fairlead.data import FunctionPath
from fairlead.rewards.pooled import PooledReward

__all__ = ["FunctionReward"]


class FunctionReward(PooledReward, name="function"):
    """A function `(prompt, response, **columns) → float`, named by its dotted path.

    The function is given those columns of the record that it asks for. A sample for which it raises, returns something
    that is not a finite number, or takes too long gets NaN: it is counted and left out of learning.

    Source: the reward-function interface of programmatic RL, as popularised by TRL's GRPO trainer.
    """

    function: FunctionPath = Field(description="`module:function`")
    arguments: dict[str, Any] = Field(default_factory=dict, description="further keyword arguments for every call")

    def task(self, row: dict[str, Any]) -> tuple[Callable[..., float], tuple[Any, ...]]:
        return call, (self.function, dict(row), self.arguments)

    @property
    def label(self) -> str:
        return self.function
