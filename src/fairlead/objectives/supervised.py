"""Supervised objectives: imitate text."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from fairlead import functional
from fairlead.batch import Sequences
from fairlead.objectives.base import Loss, Objective
from fairlead.runtime.forward import Outputs

__all__ = ["NegativeLogLikelihood", "SupervisedObjective"]


class SupervisedObjective(Objective, slot="supervised-objective"):
    """A loss on demonstrated tokens."""

    default_part: ClassVar[str] = "nll"


class NegativeLogLikelihood(SupervisedObjective, name="nll"):
    """Cross-entropy of the demonstrated tokens.

    Source: the supervised stage of Ouyang et al. 2022 (arXiv 2203.02155).
    """

    @property
    def needs(self) -> tuple[str, ...]:
        return ("logprobs",)

    aggregation: Literal["token-mean", "sequence-mean-token-mean", "sequence-mean-token-sum"] = Field(
        "token-mean", description="how per-token losses become one number"
    )

    def prepare(self, batch: Sequences) -> Sequences:
        return batch.replace(loss_weight=functional.aggregation_weights(batch.mask, self.aggregation, batch.weight))

    def __call__(self, outputs: Outputs, batch: Sequences) -> Loss:
        return (-batch.loss_weight * outputs.logprobs).sum(), {}
