"""Rewards that are compared with a baseline answer, constrained by judges, and fade with the distance from the reference."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from fairlead import functional
from fairlead.batch import Experience
from fairlead.shaping.base import Shaping

__all__ = ["Calibrated", "Constrained", "KLFactor"]


class Calibrated(Shaping, name="calibrated"):
    """The score becomes the modelled probability that the response beats the baseline answer: σ(r(x, y) − r(x, ȳ)).

    Whatever a reward model adds to all answers of one prompt drops out, so that scores of different prompts can be compared. A prompt
    whose baseline answer could not be judged is left out.

    Source: CGPO (Xu et al. 2024, arXiv 2409.20370), the calibrated reward.
    """

    anchor_rollout: ClassVar[str | None] = "with-baseline"

    def __call__(self, experience: Experience) -> Experience:
        if experience.anchor is None:
            raise ValueError("shaping calibrated compares with a baseline answer: set rollout.part to with-baseline")
        score = functional.calibrated_reward(experience.score, experience.group, experience.anchor)
        weight = torch.where(score.isnan(), 0.0, experience.weight)
        # An anchor that failed stays known by its score, as the stage has marked it.
        score = torch.where(experience.anchor, score, score.nan_to_num())
        return experience.replace(score=score, weight=weight)


class Constrained(Shaping, name="constrained"):
    """A response that violates the judges scores nothing, or less by a penalty.

    Without a penalty scores must not be negative, as those of `calibrated` are, or a violation would beat them.

    Source: CGPO (Xu et al. 2024, arXiv 2409.20370): the constrained reward; with a penalty the linear one it is compared with.
    """

    channel: str = Field(
        description="name of the reward `judges`, or any other, that is above 0 for a feasible response"
    )
    penalty: float | None = Field(None, ge=0, description="subtracted from a violation's score; null: it scores 0")

    def __call__(self, experience: Experience) -> Experience:
        feasible = experience.feasible(self.channel)
        score = experience.score
        violated = torch.zeros_like(score) if self.penalty is None else score - self.penalty
        return experience.replace(score=torch.where(feasible | score.isnan(), score, violated))


class KLFactor(Shaping, name="kl-factor"):
    """The score times max(1 − log-ratio / maximum, 0): it fades to nothing as a response moves away from the reference.

    Source: CGPO (Xu et al. 2024, arXiv 2409.20370), the KL-regularised reward of CRPG.
    """

    needs_reference: ClassVar[bool] = True

    maximum: float = Field(
        gt=0,
        description="log-ratio of policy and reference at which nothing is left, nats; grows with the length of responses",
    )
    per: Literal["response", "token"] = Field(
        "response", description="log-ratio of the response, or its mean over tokens"
    )
    clamp: bool = Field(
        False,
        description="let the factor be 1 at most; else a response that the policy likes less than the reference gains",
    )

    def __call__(self, experience: Experience) -> Experience:
        ratio = functional.masked_sum(experience.logprobs - experience.reference_logprobs, experience.mask, dim=1)
        if self.per == "token":
            ratio = ratio / experience.mask.sum(1).clamp(min=1)
        return experience.replace(score=experience.score * functional.kl_factor(ratio, self.maximum, self.clamp))
