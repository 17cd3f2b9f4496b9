"""Generalised advantage estimation."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from fairlead import functional
from fairlead.batch import Experience
from fairlead.credit.base import Credit, counted_tokens

__all__ = ["GAE"]


class GAE(Credit, name="gae"):
    """Generalised advantage estimation with a learned critic: the exponentially weighted mean of all n-step advantages.

    Source: Schulman et al. 2016 (arXiv 1506.02438), eq. 16; on tokens as in Ouyang et al. 2022 (arXiv 2203.02155).
    """

    needs_values: ClassVar[bool] = True

    gamma: float = Field(1.0, ge=0, le=1, description="discount of a reward one token later")
    lam: float = Field(
        0.95, ge=0, le=1, description="1: Monte-Carlo return minus value; 0: one-step temporal difference"
    )
    whiten: bool = Field(True, description="bring advantages to mean 0 and variance 1 over the tokens of the batch")
    unbiased: bool = Field(True, description="variance with n − 1 in place of n (TRL, verl; OpenRLHF: n)")
    scale_rewards: bool = Field(
        False,
        description="first scale the rewards of tokens to variance 1 over the batch, their mean unchanged (TRL's whiten_rewards)",
    )
    clip: float | None = Field(
        None,
        gt=0,
        description="limit advantages to ±clip, whitened or not (PPO-max tries 0.12 and 0.5); null: no limit",
    )

    def __call__(self, experience: Experience) -> Experience:
        assert experience.values is not None, "GAE needs a critic"
        counted, rewards = counted_tokens(experience), experience.rewards
        if self.scale_rewards:
            rewards = functional.whiten(rewards, counted, shift_mean=False, unbiased=self.unbiased)
        advantages, returns = functional.gae(rewards, experience.values, experience.mask, self.gamma, self.lam)
        if self.whiten:
            advantages = functional.whiten(advantages, counted, unbiased=self.unbiased)
        if self.clip is not None:
            advantages = advantages.clamp(-self.clip, self.clip)
        return experience.replace(advantages=advantages, returns=returns)
