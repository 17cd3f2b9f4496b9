"""Direct preference optimisation as credit: the gradient of its loss on the pairs of a rollout."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from fairlead import functional
from fairlead.batch import Experience
from fairlead.credit.base import Credit

__all__ = ["DPOCredit"]


class DPOCredit(Credit, name="dpo"):
    """The chosen response of a pair is raised and the rejected one lowered, as much as the gradient of DPO's loss says.

    Takes the pairs of selection `pairs`, the only ones to count. With the objective `reinforce`, aggregation sequence-mean-token-sum and
    one update a rollout the step is that of −log σ(β Δ) − λ / |y⁺| · log π(y⁺), with Δ the difference of log-ratios, mean over pairs.
    Rewards, and with them a KL penalty in the reward, say nothing here but through the pairs.

    Source: CGPO (Xu et al. 2024, arXiv 2409.20370): CODPO; without λ Rafailov et al. 2023 (arXiv 2305.18290), eq. 7, on pairs of the
    present policy. Defaults of TRL's draft.
    """

    needs_reference: ClassVar[bool] = True
    minimum_samples: ClassVar[int] = 2

    beta: float = Field(0.1, gt=0, description="strength of the pull to the reference")
    likelihood: float = Field(
        5.0, ge=0, description="λ: weight of the chosen response's mean log-likelihood, which keeps it from sinking"
    )

    def __call__(self, experience: Experience) -> Experience:
        side = None if experience.extras is None else experience.extras.get("side")
        if side is None:
            raise ValueError("credit dpo takes the pairs that selection pairs makes: put it into selection")
        advantage = functional.dpo_advantages(
            (experience.logprobs * experience.mask).sum(1),
            (experience.reference_logprobs * experience.mask).sum(1),
            experience.mask.sum(1),
            experience.group,
            torch.where(experience.weight > 0, side, 0.0),
            self.beta,
            self.likelihood,
        )
        return experience.replace(advantages=functional.broadcast_to_tokens(advantage, experience.mask))
