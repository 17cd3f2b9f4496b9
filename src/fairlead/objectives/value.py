"""Value objectives: what the critic learns."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from fairlead import functional
from fairlead.batch import Experience
from fairlead.objectives.base import Loss, Objective
from fairlead.runtime.forward import Outputs

__all__ = ["ValueClip", "ValueObjective"]


class ValueObjective(Objective, slot="value-objective"):
    """What the critic learns from returns."""

    default_part: ClassVar[str] = "value-clip"

    needs: ClassVar[tuple[str, ...]] = ("values",)

    def prepare(self, batch: Experience) -> Experience:
        return batch.replace(loss_weight=functional.aggregation_weights(batch.mask, "token-mean", batch.weight))


class ValueClip(ValueObjective, name="value-clip"):
    """Half the squared error to the return, the larger of clipped and unclipped.

    Source: Schulman et al.'s implementation as described by Engstrom et al. 2020 (arXiv 2005.12729), section 3.
    """

    clip: float | None = Field(0.2, gt=0, description="a value may move this far from its old value; null: no clipping")

    def __call__(self, outputs: Outputs, batch: Experience) -> Loss:
        values, weight = outputs.values, batch.loss_weight
        loss = functional.value_loss(values, batch.values, batch.returns, self.clip)
        with torch.no_grad():
            metrics = {
                "error": (weight * (values - batch.returns) ** 2).sum(),
                "mean": (weight * values).sum(),
            }
        return (weight * loss).sum(), metrics
