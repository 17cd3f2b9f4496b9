"""How alike the answers to different prompts are."""

from __future__ import annotations

import torch
from pydantic import Field

from fairlead.batch import Experience
from fairlead.diagnostics.base import Diagnostic
from fairlead.evaluation import meteor
from fairlead.runtime import ModelGroup

__all__ = ["Similarity"]


class Similarity(Diagnostic, name="similarity"):
    """Mean METEOR of two answers to different prompts: a policy that hacks its reward comes to say the same to everyone.

    Words are those between blanks, and match where they are equal; METEOR's stems and synonyms need word lists that do not come with
    this package. Answers to one prompt are never compared.

    Source: Mukobi et al. 2023 (SuperHF, arXiv 2310.16763); Banerjee and Lavie 2005 for METEOR.
    """

    pairs: int = Field(128, ge=1, description="pairs of answers that are drawn from the rollout, with replacement")

    def __call__(self, policy: ModelGroup, experience: Experience) -> dict[str, float]:
        groups = torch.unique(experience.group)
        if len(groups) < 2:
            return {}
        # A generator of its own: looking must not change what is drawn afterwards.
        generator = torch.Generator().manual_seed(0)
        found = []
        for _ in range(self.pairs):
            chosen = groups[torch.randperm(len(groups), generator=generator)[:2]]
            texts = [self._answer(experience, int(group), generator) for group in chosen]
            found.append(meteor(*texts))
        return {"meteor": sum(found) / len(found)}

    def _answer(self, experience: Experience, group: int, generator: torch.Generator) -> str:
        rows = (experience.group == group).nonzero().squeeze(1)
        row = rows[torch.randint(len(rows), (), generator=generator)]
        return str(experience.rows[int(row)]["response"])
