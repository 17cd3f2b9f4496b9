"""Shapings of its own for each task."""

from __future__ import annotations

from pydantic import Field

from fairlead.batch import Experience, by_task, in_turn
from fairlead.shaping.base import Shaping

__all__ = ["ShapingByTask"]


class ShapingByTask(Shaping, name="by-task"):
    """The responses of every task are shaped by its own list, and enter no other's statistics.

    Source: the task-specific settings of CGPO (Xu et al. 2024, arXiv 2409.20370).
    """

    column: str = Field("task", description="column of the data that names the task")
    tasks: dict[str, list[Shaping]] = Field(min_length=1, description="task → shapings, in order")
    others: list[Shaping] | None = Field(None, description="shapings of all other tasks; null: there must be none")

    @property
    def _all(self) -> list[Shaping]:
        return [part for parts in [*self.tasks.values(), self.others or []] for part in parts]

    @property
    def anchor_rollout(self) -> str | None:  # type: ignore[override]
        return next((part.anchor_rollout for part in self._all if part.anchor_rollout), None)

    @property
    def needs_reference(self) -> bool:  # type: ignore[override]
        return any(part.needs_reference for part in self._all)

    def __call__(self, experience: Experience) -> Experience:
        return by_task(experience, self.column, self.tasks, self.others, in_turn)
