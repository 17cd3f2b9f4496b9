"""Advantages from the other samples of the same prompt: no critic needed."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from fairlead import functional
from fairlead.batch import Experience
from fairlead.credit.base import Credit, counted_tokens

__all__ = ["GroupRelative", "LeaveOneOut", "Reinforce", "ReinforcePlusPlus"]

Penalty = Literal["compared", "to-go"]
_PENALTY = (
    "a KL penalty in the reward: part of what is compared (TRL, verl), or added to a token's advantage behind the comparison, its own "
    "and that of later tokens (OpenRLHF)"
)


class GroupRelative(Credit, name="group-relative"):
    """Reward of a response relative to the mean (and spread) of the responses to the same prompt, as in GRPO.

    Source: Shao et al. 2024 (arXiv 2402.03300), section 4.1; without the division (`scale: none`) Dr. GRPO, Liu et al. 2025
    (arXiv 2503.20783).
    """

    minimum_samples: ClassVar[int] = 2

    scale: Literal["group", "batch", "none"] = Field(
        "group", description="whose standard deviation divides the difference"
    )
    unbiased: bool = Field(True, description="standard deviation with n − 1 in place of n")
    epsilon: float = Field(1e-6, gt=0, description="added to the standard deviation")
    penalty: Penalty = Field("compared", description=_PENALTY)

    def __call__(self, experience: Experience) -> Experience:
        score = _compared(experience, self.penalty)
        advantage = functional.group_relative(score, experience.group, self.scale, self.unbiased, self.epsilon)
        return experience.replace(advantages=_on_tokens(advantage, experience, self.penalty))


class LeaveOneOut(Credit, name="rloo"):
    """Leave-one-out baseline: each sample is compared with the mean of the other samples of its prompt.

    Source: Ahmadian et al. 2024 (arXiv 2402.14740), section 2; Kool et al. 2019.
    """

    minimum_samples: ClassVar[int] = 2

    normalise: bool = Field(False, description="divide by the standard deviation of the batch")
    penalty: Penalty = Field("compared", description=_PENALTY)

    def __call__(self, experience: Experience) -> Experience:
        advantage = functional.leave_one_out(_compared(experience, self.penalty), experience.group)
        advantages = _on_tokens(advantage, experience, self.penalty)
        if self.normalise:
            variance = functional.masked_variance(advantages, counted_tokens(experience))
            advantages = advantages * torch.rsqrt(variance + 1e-8)
        return experience.replace(advantages=advantages)


class Reinforce(Credit, name="reinforce"):
    """Discounted reward-to-go as the advantage, with an optional batch-mean baseline.

    Source: Williams 1992.
    """

    gamma: float = Field(1.0, ge=0, le=1, description="discount of a reward one token later")
    baseline: Literal["none", "batch", "responses"] = Field(
        "batch",
        description="subtract the mean return over the tokens of the batch, the mean over its responses whatever their lengths (CGPO's CRPG), "
        "or nothing",
    )

    def __call__(self, experience: Experience) -> Experience:
        returns = functional.discounted_returns(experience.rewards, experience.mask, self.gamma)
        if self.baseline == "batch":
            mean = functional.masked_mean(returns, counted_tokens(experience))
            returns = torch.where(experience.mask, returns - mean, 0.0)
        elif self.baseline == "responses":
            returns = torch.where(experience.mask, returns - _row_score(experience).nanmean(), 0.0)
        return experience.replace(advantages=returns)


class ReinforcePlusPlus(Credit, name="reinforce++"):
    """Reward-to-go whitened over all tokens of the batch, optionally after subtracting the mean of the prompt's samples.

    Source: Hu et al. 2025 (arXiv 2501.03262): REINFORCE++, and with `baseline: group` REINFORCE++-baseline.
    """

    gamma: float = Field(1.0, ge=0, le=1, description="discount of a reward one token later")
    baseline: Literal["none", "group"] = Field("none", description="group: subtract the group's mean reward first")
    penalty: Penalty = Field("compared", description=_PENALTY + "; of the baseline group only")
    unbiased: bool = Field(True, description="variance with n − 1 in place of n (verl; OpenRLHF: n)")

    def __call__(self, experience: Experience) -> Experience:
        if self.baseline == "group":
            score = _compared(experience, self.penalty)
            advantages = _on_tokens(score - functional.group_mean(score, experience.group), experience, self.penalty)
        else:
            advantages = functional.discounted_returns(experience.rewards, experience.mask, self.gamma)
        white = functional.whiten(advantages, counted_tokens(experience), unbiased=self.unbiased)
        return experience.replace(advantages=white)


def _compared(experience: Experience, penalty: Penalty) -> torch.Tensor:
    """[B] what responses to a prompt are compared by; NaN for the rows that count nothing."""
    if penalty == "compared":
        return _row_score(experience)
    return torch.where(experience.weight > 0, experience.score, torch.nan)


def _on_tokens(advantage: torch.Tensor, experience: Experience, penalty: Penalty) -> torch.Tensor:
    """[B, T] the advantage of each token from [B] that of its response."""
    advantages = functional.broadcast_to_tokens(advantage, experience.mask)
    if penalty == "compared":
        return advantages
    placed = functional.place_at_last_token(experience.score.nan_to_num(), experience.mask)
    return advantages + functional.discounted_returns(experience.rewards - placed, experience.mask, 1.0)


def _row_score(experience: Experience) -> torch.Tensor:
    """[B] reward of each response; NaN for the rows that count nothing, which keeps them out of every group's statistics."""
    score = functional.sequence_reward(experience.rewards, experience.mask)
    return torch.where(experience.weight > 0, score, torch.full_like(score, torch.nan))
