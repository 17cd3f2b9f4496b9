"""The reward slot: `samples → one channel`."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from pydantic import Field
from torch import Tensor

from fairlead.batch import Samples
from fairlead.parts import Part
from fairlead.runtime import Opener

__all__ = ["Reward", "combine"]


class Reward(Part, slot="reward"):
    """A source of judgement. A recipe gives each a name, which becomes its channel, and a weight."""

    weight: float = Field(1.0, description="share of the channel in the score; 0 only records it")

    def open(self, run: Opener, name: str) -> None:
        """Open whatever the source needs; called once before the first step."""

    def begin(self, row: dict[str, Any]) -> None:
        """A response is finished while others are still sampled: start judging it. The next call asks for the result.

        `row` is what `samples.rows` will hold, unless the rollout changes it. A row may never be asked for.
        """

    @abstractmethod
    def __call__(self, samples: Samples) -> Tensor:
        """[B] float32, one number a response; NaN where the source failed, which leaves the row out of learning."""

    def metrics(self) -> dict[str, float]:
        """What the source wants to report of its last call (failures, time-outs)."""
        return {}


def combine(channels: dict[str, Tensor], rewards: dict[str, Reward]) -> Tensor:
    """[B] weighted sum of the channels; NaN when a channel that counts is NaN."""
    total = sum(rewards[name].weight * channels[name] for name in rewards if rewards[name].weight)
    if not isinstance(total, Tensor):
        raise ValueError("every reward has weight 0: nothing to learn from")
    return total
