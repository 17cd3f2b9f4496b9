"""How well each filter's ranks predict the truth."""

from __future__ import annotations

import torch
from pydantic import Field

from fairlead import functional
from fairlead.batch import Experience
from fairlead.diagnostics.base import Diagnostic
from fairlead.parts import nearest
from fairlead.runtime import ModelGroup

__all__ = ["FilterAgreement"]


class FilterAgreement(Diagnostic, name="filter-agreement"):
    """R² of the score against a judge who knows better, for each filter of `policy-filtration`: take the filter with the largest.

    Source: Shen and Zhang 2024 (PF-PPO, arXiv 2409.06957), section 4; pooled over the prompts of the rollout.
    """

    truth: str = Field(description="name of the judge, of weight 0 among the rewards, such as the tests passed")
    extremes: int = Field(1, ge=1, description="as in policy-filtration")

    def __call__(self, policy: ModelGroup, experience: Experience) -> dict[str, float]:
        known = list(experience.channels.keys())
        if self.truth not in known:
            raise ValueError(f"there is no judge {self.truth!r} among the rewards; {nearest(self.truth, known)}")
        truth = experience.channels[self.truth]
        judged = torch.ones_like(truth, dtype=torch.bool)
        for channel in experience.channels.values():
            judged &= torch.isfinite(channel)
        score = torch.where(judged, experience.score.double(), torch.nan)
        found = {}
        for name in functional.FILTERS:
            weight = functional.filter_weights(score, experience.group, name, self.extremes)
            found[name] = functional.weighted_r_squared(score.nan_to_num(), truth.nan_to_num(), weight)
        return found
