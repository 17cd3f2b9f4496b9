"""The selection slot: `experience → experience with weights`."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from fairlead.batch import Experience
from fairlead.parts import Part

__all__ = ["Selection"]


class Selection(Part, slot="selection"):
    """Which samples are learned from, and how much each counts."""

    needs_reference: ClassVar[bool] = False
    """Whether the part reads `experience.reference_logprobs`."""

    @property
    def after_credit(self) -> bool:
        """Whether it chooses among rows that credit has looked at already, all of which then enter credit's statistics."""
        return False

    @abstractmethod
    def __call__(self, experience: Experience) -> Experience:
        """The experience with a new `weight` ([B]); 0 leaves a row out of the loss and of every statistic."""
