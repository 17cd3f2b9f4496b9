"""Learning from the best answer that satisfies the judges."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from fairlead import functional
from fairlead.batch import Experience
from fairlead.selection.base import Selection
from fairlead.selection.pairing import Pairing

__all__ = ["BestFeasible", "FeasiblePair"]


class BestFeasible(Selection, name="best-feasible"):
    """Learn from the best response to each prompt that satisfies the judges and has not moved far from the reference.

    Where none is left the baseline answer of the rollout takes its place, if it is feasible and near itself; else the prompt is left out.
    After shaping `calibrated` the baseline's score is ½, which is its weight in the loss.

    Source: CGPO (Xu et al. 2024, arXiv 2409.20370): CRRAFT, calibrated and regularised reward-ranked fine-tuning.
    """

    channel: str = Field(
        description="name of the reward `judges`, or any other, that is above 0 for a feasible response"
    )
    maximum: float | None = Field(
        None, gt=0, description="largest log-ratio of policy and reference of a response, nats; null: any"
    )
    fallback: bool = Field(True, description="learn from the baseline answer where no response is left")

    @property
    def needs_reference(self) -> bool:  # type: ignore[override]
        return self.maximum is not None

    def __call__(self, experience: Experience) -> Experience:
        score = experience.score
        feasible = experience.feasible(self.channel) & experience.mask.any(1) & score.isfinite()
        if self.maximum is not None:
            difference = experience.logprobs - experience.reference_logprobs
            feasible &= functional.masked_sum(difference, experience.mask, dim=1) <= self.maximum
        anchor = torch.zeros_like(feasible) if experience.anchor is None else experience.anchor
        best = functional.best_of_group(score, experience.group, feasible & ~anchor & (experience.weight > 0))
        if experience.anchor is None or not self.fallback:
            return experience.replace(weight=torch.where(best, experience.weight, 0.0))
        served = torch.isin(experience.group, experience.group[best])
        promoted = anchor & feasible & ~served
        return experience.replace(
            weight=torch.where(promoted, 1.0, torch.where(best, experience.weight, 0.0)), anchor=anchor & ~promoted
        )


class FeasiblePair(Pairing, name="feasible"):
    """The best response that satisfies the judges, and beside it the worst that does not, or the worst of all where all do.

    Prompts without a feasible response have no pair.

    Source: CGPO (Xu et al. 2024, arXiv 2409.20370): the pairs of CODPO.
    """

    channel: str = Field(
        description="name of the reward `judges`, or any other, that is above 0 for a feasible response"
    )

    def pair(self, experience: Experience, rows: Tensor, generator: torch.Generator) -> tuple[int, int] | None:
        feasible, score = experience.feasible(self.channel)[rows], experience.score[rows]
        if not bool(feasible.any()):
            return None
        # Infinite, not 0 times the score: a violation must lose against a feasible response of negative score.
        best = score.masked_fill(~feasible, -torch.inf).argmax()
        worst = (score if bool(feasible.all()) else score.masked_fill(feasible, torch.inf)).argmin()
        return (int(rows[best]), int(rows[worst])) if best != worst else None
