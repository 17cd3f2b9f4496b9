"""What every objective shares: the loss of a whole minibatch as a sum that micro-batches and replicas can be added up to."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Self

from pydantic import PrivateAttr
from torch import Tensor

from fairlead.parts import Part
from fairlead.runtime.forward import Outputs

__all__ = ["Loss", "Objective"]

Loss = tuple[Tensor, dict[str, Tensor]]


class Objective(Part):
    """A loss on what a model says about a batch; the base class of the objective slots.

    `prepare` looks at the whole minibatch and sets `loss_weight`; `__call__` looks at a part of it and returns
    `Σ loss_weight × loss` with metrics that add up in the same way (`max/…` metrics: the maximum is taken).
    """

    _temperature: float = PrivateAttr(1.0)

    @property
    def needs(self) -> tuple[str, ...]:
        """The outputs of the model that the loss is made of (see `fairlead.runtime.forward`)."""
        return ("logprobs",)

    @property
    def temperature(self) -> float:
        """What the logits are divided by."""
        return self._temperature

    @property
    def limits(self) -> dict[str, float]:
        """Metrics, by name, that end an update before its next optimiser step where they exceed a number."""
        return {}

    def at_temperature(self, temperature: float) -> Self:
        """A copy whose log-probabilities are taken at the temperature of sampling."""
        copy = self.model_copy()
        copy._temperature = temperature
        return copy

    @abstractmethod
    def prepare(self, batch: Any) -> Any:
        """The minibatch with its `loss_weight`."""

    @abstractmethod
    def __call__(self, outputs: Outputs, batch: Any) -> Loss:
        """Weighted sum of the loss, and metrics."""
