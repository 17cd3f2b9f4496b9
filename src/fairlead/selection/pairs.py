"""Two responses to each prompt, for credit that compares them."""

from __future__ import annotations

import torch
from pydantic import Field
from tensordict import TensorDict

from fairlead.batch import Experience
from fairlead.selection.base import Selection
from fairlead.selection.pairing import BestWorst, Pairing

__all__ = ["Pairs"]


class Pairs(Selection, name="pairs"):
    """Learn from two responses to each prompt, a chosen and a rejected one, which the credit `dpo` compares.

    Source: online preference learning (Guo et al. 2024, arXiv 2402.04792).
    """

    pairing: Pairing = Field(default_factory=BestWorst, description="which two responses are compared")

    def __call__(self, experience: Experience) -> Experience:
        # The step has seeded the global generator, so the draw is the same after a resumption.
        generator = torch.Generator().manual_seed(int(torch.randint(2**31, (1,))))
        chosen, rejected = self.pairing(experience, generator)
        side = torch.zeros_like(experience.weight)
        side[chosen], side[rejected] = 1.0, -1.0
        extras = {} if experience.extras is None else dict(experience.extras.items())
        return experience.replace(
            weight=experience.weight * side.abs(),
            extras=TensorDict(extras | {"side": side}, batch_size=experience.batch_size),
        )
