"""A reward of its own for each task."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field, PrivateAttr
from torch import Tensor

from fairlead.batch import Samples, task_rows
from fairlead.rewards.base import Reward
from fairlead.runtime import Opener

__all__ = ["RewardByTask"]


class RewardByTask(Reward, name="by-task"):
    """Every response is judged by the reward of its prompt's task; the verdict is that reward's weight times what it says.

    Source: the task-specific reward models and judges of CGPO (Xu et al. 2024, arXiv 2409.20370).
    """

    column: str = Field("task", description="column of the data that names the task")
    tasks: dict[str, Reward] = Field(min_length=1, description="task → reward")
    others: Reward | None = Field(None, description="reward of all other tasks; null: there must be none")

    _metrics: dict[str, float] = PrivateAttr(default_factory=dict)

    @property
    def _named(self) -> dict[str, Reward]:
        return self.tasks if self.others is None else self.tasks | {"others": self.others}

    def open(self, run: Opener, name: str) -> None:
        for task, reward in self._named.items():
            reward.open(run, f"{name}-{task}")

    def begin(self, row: dict[str, Any]) -> None:
        reward = self.tasks.get(str(row.get(self.column)), self.others)
        if reward is not None:
            reward.begin(row)

    def __call__(self, samples: Samples) -> Tensor:
        found = torch.full((len(samples),), torch.nan)
        self._metrics = {}
        for task, rows in task_rows(samples, self.column, self.tasks, self.others is not None).items():
            reward = self._named[task]
            found[rows] = reward.weight * reward.ask(samples[rows])
            self._metrics |= {f"{task}/{key}": value for key, value in reward.metrics().items()}
            self._metrics[f"{task}/mean"] = float(found[rows].nanmean())
        return found

    def metrics(self) -> dict[str, float]:
        return self._metrics
