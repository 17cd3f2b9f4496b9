"""The reward slot: `samples → one channel`."""

from __future__ import annotations

import logging
from abc import abstractmethod
from typing import Any

import torch
from pydantic import Field, PrivateAttr
from torch import Tensor

from fairlead.batch import Samples
from fairlead.parts import Part
from fairlead.runtime import Opener

__all__ = ["Reward", "combine"]

logger = logging.getLogger(__name__)


class Reward(Part, slot="reward"):
    """A source of judgement. A recipe gives each a name, which becomes its channel, and a weight."""

    weight: float = Field(1.0, description="share of the channel in the score; 0 only records it")

    _answered: bool = PrivateAttr(False)

    def open(self, run: Opener, name: str) -> None:
        """Open whatever the source needs; called once before the first step."""

    def begin(self, row: dict[str, Any]) -> None:
        """A response is finished while others are still sampled: start judging it. The next call asks for the result.

        `row` is what `samples.rows` will hold, unless the rollout changes it. A row may never be asked for.
        """

    @abstractmethod
    def __call__(self, samples: Samples) -> Tensor:
        """[B] float32, one number a response; NaN where the source failed, which leaves the row out of learning."""

    def ask(self, samples: Samples) -> Tensor:
        """[B] float32: what the source says, NaN where it failed or named no finite number.

        A source that raises has failed for every row: judges go down for a while. One that has never answered in this process
        raises on, since then the recipe is wrong. ValueError when the answer is not one number a response.
        """
        try:
            found = self(samples)
        except Exception as error:
            if not self._answered:
                raise
            logger.warning("reward %s failed for a whole rollout: %s: %s", self.part_name, type(error).__name__, error)
            return torch.full((len(samples),), torch.nan)
        if found.shape != (len(samples),):
            raise ValueError(
                f"reward {self.part_name} must return one number for each of {len(samples)} responses; its shape is {tuple(found.shape)}"
            )
        self._answered = True
        return torch.where(found.isfinite(), found, torch.nan).float()

    def metrics(self) -> dict[str, float]:
        """What the source wants to report of its last call (failures, time-outs)."""
        return {}


def combine(channels: dict[str, Tensor], rewards: dict[str, Reward]) -> Tensor:
    """[B] weighted sum of the channels; NaN when a channel that counts is NaN."""
    total = sum(rewards[name].weight * channels[name] for name in rewards if rewards[name].weight)
    if not isinstance(total, Tensor):
        raise ValueError("every reward has weight 0: nothing to learn from")
    return total
