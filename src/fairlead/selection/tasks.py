"""Selections of its own for each task."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from fairlead.batch import Experience, by_task, in_turn
from fairlead.selection.base import Selection

__all__ = ["SelectionByTask"]


class SelectionByTask(Selection, name="by-task"):
    """Among the responses of every task its own list selects.

    Source: the task-specific settings of CGPO (Xu et al. 2024, arXiv 2409.20370).
    """

    column: str = Field("task", description="column of the data that names the task")
    tasks: dict[str, list[Selection]] = Field(min_length=1, description="task → selections, in order")
    others: list[Selection] | None = Field(None, description="selections of all other tasks; null: there must be none")

    @property
    def _all(self) -> list[Selection]:
        return [part for parts in [*self.tasks.values(), self.others or []] for part in parts]

    @model_validator(mode="after")
    def _one_moment(self) -> Self:
        if len({part.after_credit for part in self._all}) > 1:
            raise ValueError("selections of one by-task stand all before or all behind credit: write two of them")
        return self

    @property
    def after_credit(self) -> bool:
        return any(part.after_credit for part in self._all)

    @property
    def needs_reference(self) -> bool:  # type: ignore[override]
        return any(part.needs_reference for part in self._all)

    def __call__(self, experience: Experience) -> Experience:
        return by_task(experience, self.column, self.tasks, self.others, in_turn)
