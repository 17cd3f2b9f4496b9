"""Selections that look at the batch alone."""

from __future__ import annotations

import torch
from pydantic import Field

from fairlead import functional
from fairlead.batch import Experience
from fairlead.parts import nearest
from fairlead.selection.base import Selection

__all__ = ["BestOfN", "DropFlatGroups", "DropTruncated", "KeepBand", "channel_of"]


class BestOfN(Selection, name="best-of-n"):
    """Learn from the best responses to each prompt only; among equals chance decides.

    Empty responses and those that could not be judged are never the best. A prompt that has no others is left out.

    Source: Mukobi et al. 2023 (SuperHF, arXiv 2310.16763); Stiennon et al. 2020 (arXiv 2009.01325).
    """

    keep: int = Field(1, ge=1, description="how many of the responses to a prompt are kept")

    def __call__(self, experience: Experience) -> Experience:
        said = torch.tensor([bool(str(row["response"]).strip()) for row in experience.rows])
        counted = said & (experience.weight > 0)
        kept = torch.zeros_like(experience.weight)
        for group in torch.unique(experience.group):
            rows = ((experience.group == group) & counted).nonzero().squeeze(1)
            rows = rows[torch.randperm(len(rows))]
            kept[rows[torch.argsort(experience.score[rows], descending=True, stable=True)[: self.keep]]] = 1.0
        return experience.replace(weight=experience.weight * kept)


class DropFlatGroups(Selection, name="drop-flat-groups"):
    """Leave out prompts whose samples all got the same score: they say nothing about what is better.

    Source: the filter of DAPO's dynamic sampling (Yu et al. 2025, arXiv 2503.14476, eq. 11); the collection `refill` fills the
    gaps that it leaves.
    """

    channel: str | None = Field(
        None, description="the judge whose spread counts, such as the correctness alone; null: the score"
    )

    tolerance: float = Field(
        1e-6, ge=0, description="spread (maximum minus minimum) up to which a group counts as flat"
    )

    def __call__(self, experience: Experience) -> Experience:
        _, row_group = torch.unique(experience.group, return_inverse=True)
        counted = experience.weight > 0
        judged = experience.score if self.channel is None else channel_of(experience, self.channel)
        spread = torch.zeros_like(experience.score)
        for group in range(int(row_group.max()) + 1 if row_group.numel() else 0):
            scores = judged[counted & (row_group == group)]
            if scores.numel():
                spread[row_group == group] = scores.max() - scores.min()
        return experience.replace(weight=experience.weight * (spread > self.tolerance).float())


class KeepBand(Selection, name="keep-band"):
    """Leave out prompts whose mean score lies outside a band: too hard, or solved already.

    Source: the form of DAPO's dynamic sampling in OpenRLHF (Hu et al. 2024, arXiv 2405.11143); the bounds themselves lie outside.
    """

    low: float = Field(0.0, description="the mean score must lie above this")
    high: float = Field(1.0, description="the mean score must lie below this")
    channel: str | None = Field(None, description="the judge whose mean counts; null: the score")

    def __call__(self, experience: Experience) -> Experience:
        judged = experience.score if self.channel is None else channel_of(experience, self.channel)
        counted = torch.where(experience.weight > 0, judged, torch.full_like(judged, torch.nan))
        mean = functional.group_mean(counted, experience.group)
        return experience.replace(weight=experience.weight * ((mean > self.low) & (mean < self.high)).float())


class DropTruncated(Selection, name="drop-truncated"):
    """Leave out responses that were cut by the length limit: their score judges something unfinished.

    Source: overlong filtering of DAPO (Yu et al. 2025, arXiv 2503.14476, section 3.4).
    """

    def __call__(self, experience: Experience) -> Experience:
        return experience.replace(weight=experience.weight * (~experience.truncated).float())


def channel_of(experience: Experience, name: str) -> torch.Tensor:
    """[B] what one judge said."""
    known = list(experience.channels.keys())
    if name not in known:
        raise ValueError(f"there is no judge {name!r} among the rewards; {nearest(name, known)}")
    return experience.channels[name]  # type: ignore[no-any-return]
