"""A rollout of its own for each task."""

from __future__ import annotations

from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from fairlead.batch import Prompts, Samples, concatenate, take, task_rows
from fairlead.models import ModelSpec
from fairlead.rollouts.base import Rollout
from fairlead.runtime import Opener
from fairlead.runtime.group import ModelGroup

__all__ = ["RolloutByTask"]


class RolloutByTask(Rollout, name="by-task"):
    """Every prompt is answered by the rollout of its task: more samples, say, where the search is hard.

    Source: the task-specific settings of CGPO (Xu et al. 2024, arXiv 2409.20370).
    """

    column: str = Field("task", description="column of the data that names the task")
    tasks: dict[str, Rollout] = Field(min_length=1, description="task → rollout")
    others: Rollout | None = Field(None, description="rollout of all other tasks; null: there must be none")

    @property
    def _all(self) -> list[Rollout]:
        return [*self.tasks.values(), *([] if self.others is None else [self.others])]

    @model_validator(mode="after")
    def _alike(self) -> Self:
        if len({part.temperature for part in self._all}) > 1:
            raise ValueError("training has one temperature: set the same sampling.temperature for every task")
        if len({part.draws_anchor for part in self._all}) > 1:
            raise ValueError("either every task's rollout draws an answer to compare with, or none does")
        return self

    @property
    def draws_anchor(self) -> bool:  # type: ignore[override]
        return self._all[0].draws_anchor

    @property
    def beside_policy(self) -> bool:  # type: ignore[override]
        return any(part.beside_policy for part in self._all)

    @property
    def n(self) -> int:
        """The fewest samples of a prompt."""
        return min(getattr(part, "n", 1) for part in self._all)

    @property
    def temperature(self) -> float:
        return self._all[0].temperature

    @property
    def maximum_tokens(self) -> int:
        return max(part.maximum_tokens for part in self._all)

    @property
    def needs_reference(self) -> bool:
        return any(part.needs_reference for part in self._all)

    def open(self, run: Opener, model: ModelSpec, reference: ModelGroup | None) -> None:
        for part in self._all:
            part.open(run, model, reference)

    def learned(self, policy: ModelGroup) -> None:
        for part in self._all:
            part.learned(policy)

    def metrics(self) -> dict[str, float]:
        return {f"{task}/{name}": value for task, part in self.tasks.items() for name, value in part.metrics().items()}

    def __call__(self, policy: ModelGroup, prompts: Prompts) -> Samples:
        drawn = [
            self.tasks.get(task, self.others or self._all[0])(policy, take(prompts, rows))
            for task, rows in task_rows(prompts, self.column, self.tasks, self.others is not None).items()
        ]
        whole = concatenate(drawn)
        return take(whole, torch.argsort(whole.group, stable=True))

    def logprobs(self, samples: Samples) -> Tensor | None:
        found: list[Tensor] = []
        for part in self._all:
            told = part.logprobs(samples)
            if told is None:
                return None
            found.append(told)
        whole = found[0].clone()
        for task, rows in task_rows(samples, self.column, self.tasks, self.others is not None).items():
            whole[rows] = found[list(self.tasks).index(task) if task in self.tasks else -1][rows]
        return whole
