"""No credit at all: whatever was kept is imitated."""

from __future__ import annotations

from fairlead.batch import Experience
from fairlead.credit.base import Credit

__all__ = ["Uniform"]


class Uniform(Credit, name="uniform"):
    """Every token of every response that counts is worth 1: what selection kept is imitated, and the regulariser stands in the loss.

    Source: rejection sampling and fine-tuning inside the loop (SuperHF, Mukobi et al. 2023, arXiv 2310.16763; RAFT, Dong et al. 2023,
    arXiv 2304.06767).
    """

    def __call__(self, experience: Experience) -> Experience:
        return experience.replace(advantages=experience.mask.float())
