"""The merger slot: `(weights of each model, weights of the base) → weights`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from fairlead.parts import Part, nearest

__all__ = ["Merger"]


class Merger(Part, slot="merger"):
    """How the weights of several models become those of one."""

    default_part: ClassVar[str] = "linear"

    needs_base: ClassVar[bool] = False
    """Whether the part works on task vectors: the models' differences from a base that they all began from."""

    weights: dict[str, float] | None = Field(None, description="weight of each model, by its name; null: all alike")

    @abstractmethod
    def __call__(self, models: Mapping[str, Tensor], base: Tensor | None, name: str) -> Tensor:
        """The merged tensor, at least float32, from the tensors called `name` of every model and of the base."""

    def check(self, models: Collection[str]) -> None:
        """Raise ValueError where the settings do not fit models of these names."""
        for model in self.weights or ():
            if model not in models:
                raise ValueError(f"there is no model {model!r} to give a weight to; {nearest(model, models)}")
        missing = [model for model in models if self.weights is not None and model not in self.weights]
        if missing:
            raise ValueError(f"weights of {', '.join(missing)} are missing: give every model one, 0 to leave it out")

    def shares(self, models: Collection[str], total: float | None = None) -> list[float]:
        """The weights in the order of the models; without any given 1 each, or equal ones that sum to `total`."""
        if self.weights is None:
            return [1.0 if total is None else total / len(models)] * len(models)
        return [self.weights[model] for model in models]
