"""Nash-MD-PG: what a response wins more often than every second time."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from fairlead import functional
from fairlead.batch import Experience
from fairlead.credit.base import Credit

__all__ = ["NashPolicyGradient"]


class NashPolicyGradient(Credit, name="nash-pg"):
    """P(y beats the opponent) − ½ less the regulariser's penalty: the policy gradient of a preference game.

    The rollout `against-opponent` draws the opponent's responses and the reward `win-rate` gives P. Which opponent it is makes
    Nash-MD or Nash-EMA of it. ½ is the value of the game at its equilibrium, a baseline that needs no estimate. The default is the
    coefficient of the paper; penalties to go have the same expectation and less noise, since no token is blamed for the KL of
    those before it.

    Source: Nash-MD-PG and Nash-EMA-PG, Munos et al. 2023 (arXiv 2312.00886).
    """

    anchor_rollout: ClassVar[str | None] = "against-opponent"

    kl: Literal["sequence", "to-go"] = Field(
        "sequence", description="the penalty of the whole response, or that of this token and all later ones"
    )

    def __call__(self, experience: Experience) -> Experience:
        placed = functional.place_at_last_token(experience.score.nan_to_num(), experience.mask)
        penalties = placed - experience.rewards
        advantages = functional.nash_coefficients(
            experience.score.nan_to_num(), penalties, experience.mask, to_go=self.kl == "to-go"
        )
        return experience.replace(advantages=advantages)
