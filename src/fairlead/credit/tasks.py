"""Credit of its own for each task."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from fairlead.batch import Experience, by_task
from fairlead.credit.base import Credit

__all__ = ["CreditByTask"]


class CreditByTask(Credit, name="by-task"):
    """The responses of every task get their advantages from its own credit, whose statistics see no other's.

    Source: the task-specific optimisers of CGPO (Xu et al. 2024, arXiv 2409.20370).
    """

    column: str = Field("task", description="column of the data that names the task")
    tasks: dict[str, Credit] = Field(min_length=1, description="task → credit")
    others: Credit | None = Field(None, description="credit of all other tasks; null: there must be none")

    @property
    def _all(self) -> list[Credit]:
        return [*self.tasks.values(), *([] if self.others is None else [self.others])]

    @model_validator(mode="after")
    def _no_critic(self) -> Self:
        for part in self._all:
            if part.needs_values:
                raise ValueError(f"credit {part.part_name} has a critic, which tasks do not share: choose one without")
        return self

    @property
    def minimum_samples(self) -> int:  # type: ignore[override]
        return max(part.minimum_samples for part in self._all)

    @property
    def anchor_rollout(self) -> str | None:  # type: ignore[override]
        return next((part.anchor_rollout for part in self._all if part.anchor_rollout), None)

    @property
    def needs_reference(self) -> bool:  # type: ignore[override]
        return any(part.needs_reference for part in self._all)

    def __call__(self, experience: Experience) -> Experience:
        return by_task(experience, self.column, self.tasks, self.others, lambda part, rows: part(rows))
