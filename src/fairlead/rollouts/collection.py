"""The collection slot: `draws → experience`, how many rollouts make the batch of a step."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import torch
from pydantic import Field

from fairlead.batch import Experience, concatenate, take
from fairlead.parts import Part

__all__ = ["Collection", "Once", "Refill"]


class Collection(Part, slot="collection"):
    """How many rollouts make the batch of a step, and what is kept of them."""

    default_part: ClassVar[str] = "once"

    @abstractmethod
    def __call__(self, draws: Iterator[Experience]) -> tuple[Experience, dict[str, float]]:
        """The batch, and metrics. `draws` gives one rollout after another, of other prompts, judged and selected."""


class Once(Collection, name="once"):
    """One rollout is one batch.

    Source: the ordinary loop of RLHF (Ouyang et al. 2022, arXiv 2203.02155).
    """

    def __call__(self, draws: Iterator[Experience]) -> tuple[Experience, dict[str, float]]:
        return next(draws), {}


class Refill(Collection, name="refill"):
    """Draw on until as many prompts count as one rollout has; prompts that selection left out whole are replaced.

    Every batch then has as much to learn from, however many prompts are solved or hopeless. Surplus is thrown away.

    Source: dynamic sampling of DAPO (Yu et al. 2025, arXiv 2503.14476), section 3.2, with the selection `drop-flat-groups`.
    """

    most_draws: int = Field(10, ge=1, description="rollouts of a step at most; then it goes on with what there is")

    def __call__(self, draws: Iterator[Experience]) -> tuple[Experience, dict[str, float]]:
        kept: list[Experience] = []
        wanted, found, drawn = 1, 0, 0
        while found < wanted and drawn < self.most_draws:
            experience = next(draws)
            drawn += 1
            if drawn == 1:
                first, wanted = experience, int(torch.unique(experience.group).numel())
            useful = torch.unique(experience.group[experience.weight > 0])[: wanted - found]
            found += int(useful.numel())
            if useful.numel():
                kept.append(take(experience, torch.isin(experience.group, useful).nonzero().squeeze(1)))
        metrics = {"collection/draws": float(drawn), "collection/filled": found / wanted}
        return concatenate(kept) if kept else first, metrics
