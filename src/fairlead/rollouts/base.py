"""The rollout slot: `(policy, prompts) → samples`."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from fairlead.batch import Prompts, Samples
from fairlead.parts import Part
from fairlead.runtime.group import ModelGroup

__all__ = ["Rollout"]


class Rollout(Part, slot="rollout"):
    """How a policy is asked for responses."""

    default_part: ClassVar[str] = "sample"

    draws_anchor: ClassVar[bool] = False
    """Whether some rows are marked in `samples.anchor`: responses that the others are only compared with."""

    @abstractmethod
    def __call__(self, policy: ModelGroup, prompts: Prompts) -> Samples:
        """Samples for `prompts`, rows of one prompt next to each other and with the same `group`."""

    def metrics(self) -> dict[str, float]:
        """What the rollout wants to report of its last call."""
        return {}

    @property
    def temperature(self) -> float:
        """The temperature at which training computes log-probabilities; that of the sampler where it makes sense."""
        return 1.0

    @property
    def maximum_tokens(self) -> int:
        """The longest response, tokens: what a prompt must leave of the context. 0 where it is not known."""
        return 0

    def logprobs(self, samples: Samples) -> Tensor | None:
        """[B, T] log-probabilities at `temperature` as the sampler found them; None where it cannot say."""
        return samples.logprobs if self.temperature == 1.0 else None
