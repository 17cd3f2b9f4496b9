"""ReMax: the greedy response as the baseline."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from fairlead import functional
from fairlead.batch import Experience
from fairlead.credit.base import Credit, counted_tokens

__all__ = ["ReMax"]


class ReMax(Credit, name="remax"):
    """Reward of a response less that of the greedy response to the same prompt; needs no critic and one sample a prompt.

    The rollout `greedy-baseline` draws the greedy responses. Prompts whose greedy response could not be judged are left out.
    The default is the policy gradient of the regularised return; `kl: one-step` with gamma 0.99 is the released code, in which a
    token does not pay for the KL of those that it brings about.

    Source: Li et al. 2023 (arXiv 2310.10505), eq. 4.
    """

    anchor_rollout: ClassVar[str | None] = "greedy-baseline"

    clip: float | None = Field(5.0, gt=0, description="the difference is cut at ± this; null: not cut")
    gamma: float = Field(
        1.0, ge=0, le=1, description="discount of the difference a token earlier (released code: 0.99)"
    )
    kl: Literal["to-go", "one-step"] = Field(
        "to-go", description="the regulariser's penalty of this token and all later ones, or of this token alone"
    )
    whiten: bool = Field(False, description="bring advantages to mean 0 and variance 1 over the tokens of the batch")

    def __call__(self, experience: Experience) -> Experience:
        assert experience.anchor is not None, "ReMax needs the rollout greedy-baseline"
        difference = experience.score - functional.anchor_score(experience.score, experience.group, experience.anchor)
        known = torch.isfinite(difference)
        difference = torch.where(known, difference, 0.0)
        if self.clip is not None:
            difference = difference.clamp(-self.clip, self.clip)
        placed = functional.place_at_last_token(experience.score.nan_to_num(), experience.mask)
        advantages = functional.remax(
            difference, experience.rewards - placed, experience.mask, self.gamma, self.kl == "to-go"
        )
        experience = experience.replace(weight=torch.where(known, experience.weight, 0.0))
        if self.whiten:
            advantages = functional.whiten(advantages, counted_tokens(experience))
        return experience.replace(advantages=advantages)
