"""The rollout slot: `(policy, prompts) → samples`."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from fairlead.batch import Prompts, Samples
from fairlead.models import ModelSpec
from fairlead.parts import Part
from fairlead.runtime.group import ModelGroup, Opener

__all__ = ["Rollout"]


class Rollout(Part, slot="rollout"):
    """How a policy is asked for responses."""

    default_part: ClassVar[str] = "sample"

    draws_anchor: ClassVar[bool] = False
    """Whether some rows are marked in `samples.anchor`: responses that the others are only compared with."""

    beside_policy: ClassVar[bool] = False
    """Whether it asks models that must be where the policy is trained: mixed with it, or made from its weights."""

    @property
    def needs_reference(self) -> bool:
        """Whether the rollout asks the reference model."""
        return False

    def open(self, run: Opener, model: ModelSpec, reference: ModelGroup | None) -> None:
        """Open what else it needs; the online stage calls it once, before the first step.

        `model` is the policy as it begins. `reference` is None where the policy without its adapters is the reference, or where none
        is needed.
        """

    @abstractmethod
    def __call__(self, policy: ModelGroup, prompts: Prompts) -> Samples:
        """Samples for `prompts`, rows of one prompt next to each other and with the same `group`."""

    def learned(self, policy: ModelGroup) -> None:
        """The policy has learned from a rollout: called once at the end of each step of `online`, each round of `preference-rounds`."""

    def metrics(self) -> dict[str, float]:
        """What the rollout wants to report of its last call (how dialogues ended, say)."""
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
