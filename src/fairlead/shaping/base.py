"""The shaping slot: `experience → experience with token rewards`."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from fairlead.batch import Experience
from fairlead.parts import Part

__all__ = ["Shaping"]


class Shaping(Part, slot="shaping"):
    """What becomes of the score before it is a reward. Shapings are applied in the order of the list."""

    anchor_rollout: ClassVar[str | None] = None
    """The rollout that draws the rows marked in `experience.anchor`, for a part that compares with them."""
    needs_reference: ClassVar[bool] = False
    """Whether the part reads `experience.reference_logprobs`."""

    @abstractmethod
    def __call__(self, experience: Experience) -> Experience:
        """The experience with a new `score` ([B]); the stage then places it at each response's last token."""
