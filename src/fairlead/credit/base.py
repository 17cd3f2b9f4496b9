"""The credit slot: `experience → experience with advantages and returns`."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from fairlead.batch import Experience
from fairlead.parts import Part

__all__ = ["Credit", "counted_tokens"]


class Credit(Part, slot="credit"):
    """How the reward of a response becomes an advantage of each token."""

    default_part: ClassVar[str] = "gae"

    needs_values: ClassVar[bool] = False
    """Whether the part reads `experience.values`, so that the stage opens a critic."""
    minimum_samples: ClassVar[int] = 1
    """How many samples of one prompt the part needs."""

    anchor_rollout: ClassVar[str | None] = None
    """The rollout, or one of several, that draws the rows marked in `experience.anchor`, for a part that needs them."""

    needs_reference: ClassVar[bool] = False
    """Whether the part reads `experience.reference_logprobs`."""

    @abstractmethod
    def __call__(self, experience: Experience) -> Experience:
        """The experience with `advantages` (and `returns` when it has a critic to teach), both detached."""


def counted_tokens(experience: Experience) -> Tensor:
    """[B, T] bool: the tokens of the rows that count; only they enter the statistics of a batch."""
    return experience.mask & (experience.weight > 0)[:, None]
