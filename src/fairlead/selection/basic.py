"""Selections that look at the batch alone."""

from __future__ import annotations

import torch
from pydantic import Field

from fairlead.batch import Experience
from fairlead.selection.base import Selection

__all__ = ["DropFlatGroups", "DropTruncated"]


class DropFlatGroups(Selection, name="drop-flat-groups"):
    """Leave out prompts whose samples all got the same score: they say nothing about what is better.

    Source: the filter of DAPO's dynamic sampling (Yu et al. 2025, arXiv 2503.14476, eq. 11), without refilling the batch.
    """

    tolerance: float = Field(
        1e-6, ge=0, description="spread (maximum minus minimum) up to which a group counts as flat"
    )

    def __call__(self, experience: Experience) -> Experience:
        _, row_group = torch.unique(experience.group, return_inverse=True)
        counted = experience.weight > 0
        spread = torch.zeros_like(experience.score)
        for group in range(int(row_group.max()) + 1 if row_group.numel() else 0):
            scores = experience.score[counted & (row_group == group)]
            if scores.numel():
                spread[row_group == group] = scores.max() - scores.min()
        return experience.replace(weight=experience.weight * (spread > self.tolerance).float())


class DropTruncated(Selection, name="drop-truncated"):
    """Leave out responses that were cut by the length limit: their score judges something unfinished.

    Source: overlong filtering of DAPO (Yu et al. 2025, arXiv 2503.14476, section 3.4).
    """

    def __call__(self, experience: Experience) -> Experience:
        return experience.replace(weight=experience.weight * (~experience.truncated).float())
