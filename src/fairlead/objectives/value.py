"""Value objectives: what the critic learns."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fairlead import functional
from fairlead.batch import Experience
from fairlead.objectives.base import Loss, Objective
from fairlead.runtime.forward import Outputs

__all__ = ["ValueClip", "ValueHuber", "ValueObjective"]


class ValueObjective(Objective, slot="value-objective"):
    """What the critic learns from returns."""

    default_part: ClassVar[str] = "value-clip"

    aggregation: Literal["token-mean", "sequence-mean-token-mean", "sequence-mean-token-sum"] = Field(
        "token-mean", description="how per-token losses become one number (verl: as the policy's)"
    )

    @property
    def needs(self) -> tuple[str, ...]:
        return ("values",)

    def counted(self, batch: Experience) -> Tensor:
        """[B, T] bool: the tokens at which the critic learns."""
        return batch.mask

    def prepare(self, batch: Experience) -> Experience:
        rows = batch.weight if batch.critic_weight is None else batch.critic_weight
        weight = functional.aggregation_weights(self.counted(batch), self.aggregation, rows)
        return batch.replace(loss_weight=weight)

    @abstractmethod
    def loss(self, values: Tensor, batch: Experience) -> Tensor:
        """[B, T]"""

    def __call__(self, outputs: Outputs, batch: Experience) -> Loss:
        values, weight = outputs.values, batch.loss_weight
        with torch.no_grad():
            metrics = {
                "error": (weight * (values - batch.returns) ** 2).sum(),
                "mean": (weight * values).sum(),
            }
        return (weight * self.loss(values, batch)).sum(), metrics


class ValueClip(ValueObjective, name="value-clip"):
    """Half the squared error to the return, the larger of clipped and unclipped.

    Source: Schulman et al.'s implementation as described by Engstrom et al. 2020 (arXiv 2005.12729), section 3.
    """

    clip: float | None = Field(0.2, gt=0, description="a value may move this far from its old value; null: no clipping")

    def loss(self, values: Tensor, batch: Experience) -> Tensor:
        return functional.value_loss(values, batch.values, batch.returns, self.clip)


class ValueHuber(ValueObjective, name="value-huber"):
    """Huber loss to the return, of the value and of one that may move only so far, added up.

    Source: released code of SAFE (arXiv 2602.04651); Huber 1964, "Robust estimation of a location parameter".
    """

    delta: float | None = Field(
        0.5, gt=0, description="beyond this error the loss grows in a straight line; null: half the squared error"
    )
    clip: float | None = Field(0.2, gt=0, description="a value may move this far from its old value; null: no clipping")
    combine: Literal["sum", "max"] = Field(
        "sum", description="half the sum of clipped and unclipped, or the larger (PPO)"
    )
    position: Literal["all", "prompt", "answer"] = Field(
        "all", description="learn at every token, at the end of the prompt, or before the response's last token"
    )

    def counted(self, batch: Experience) -> Tensor:
        return functional.marked_token(batch.mask, self.position)

    def loss(self, values: Tensor, batch: Experience) -> Tensor:
        return functional.value_huber(values, batch.values, batch.returns, self.delta, self.clip, self.combine)
