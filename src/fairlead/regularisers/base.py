"""The regulariser slot: how far the policy may move from where it began."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from fairlead.batch import Experience
from fairlead.parts import Part

__all__ = ["Regulariser"]


class Regulariser(Part, slot="regulariser"):
    """Keeps the policy near a reference, by a penalty in the reward or in the loss."""

    default_part: ClassVar[str] = "kl"

    @property
    @abstractmethod
    def needs_reference(self) -> bool:
        """Whether `experience.reference_logprobs` must be filled."""

    @abstractmethod
    def penalty(self, experience: Experience) -> Tensor:
        """[B, T] to be subtracted from the token rewards (zeros when the penalty stands in the loss)."""

    @property
    @abstractmethod
    def loss_coefficient(self) -> float:
        """Weight of the KL term in the loss; 0 when the penalty stands in the reward."""

    @property
    @abstractmethod
    def loss_estimator(self) -> str:
        """Which estimator stands in the loss (see `functional.kl_loss`), `exact` or `exact-forward` (`functional.vocabulary_kl`)."""

    @property
    def loss_reduction(self) -> str:
        """How the KL of tokens becomes one number: `loss` as the loss does, `mean` or `sum` over responses of means over tokens."""
        return "loss"

    @property
    def loss_clamp(self) -> float | None:
        """Limit on the estimated KL of a token in the loss, nats; None: none."""
        return None

    @abstractmethod
    def observe(self, experience: Experience) -> dict[str, float]:
        """Look at the finished rollout, move the coefficient, return metrics."""
