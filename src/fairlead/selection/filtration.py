"""Policy filtration: learn from those ranks at which the reward can be trusted."""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from fairlead import functional
from fairlead.batch import Experience
from fairlead.selection.base import Selection
from fairlead.selection.basic import channel_of

__all__ = ["PolicyFiltration"]


class PolicyFiltration(Selection, name="policy-filtration"):
    """Learn from some ranks among the responses to a prompt, such as the best and the worst, where a reward model errs least.

    No importance weight makes up for it: the policy learns from the filtered distribution on purpose. Ranks are taken inside each
    prompt. A prompt whose scores are all equal has no ranks and is left out.

    Source: Shen and Zhang 2024 (PF-PPO, arXiv 2409.06957), section 4.
    """

    filter: Literal["none", "best", "best-random", "best-worst", "extremes", "adaptive"] = Field(
        "best-worst",
        description="which ranks count; adaptive: whichever of these explains `truth` best (R²) in the batch",
    )
    extremes: int = Field(1, ge=1, description="how many of the best and of the worst the filter extremes keeps")
    ranks: list[float] | None = Field(None, description="weights of all ranks, best first, in place of `filter`")
    power: float | None = Field(None, gt=0, description="weights |score|^power in place of `filter` (released code: 2)")
    mode: Literal["weigh", "draw", "filter"] = Field(
        "weigh",
        description="the weights as they are; as many rows as there are drawn with them, with replacement (released code); or two "
        "responses a prompt, the best and one other, equally",
    )
    moment: Literal["after-credit", "before-credit"] = Field(
        "after-credit",
        description="whether advantages are compared and whitened over all responses, or over the kept ones",
    )
    critic: Literal["filtered", "all"] = Field(
        "filtered",
        description="what the critic learns from: the same rows with the same weights, or every row that counted before, the same for all",
    )
    truth: str | None = Field(None, description="judge, of weight 0 in the rewards, that the filter adaptive asks")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.filter == "adaptive") != (self.truth is not None):
            raise ValueError(
                "filter adaptive needs `truth`, a judge that says what the score should be; no other takes one"
            )
        if self.ranks is not None and (self.power is not None or min(self.ranks) < 0 or sum(self.ranks) <= 0):
            raise ValueError("ranks are weights of which none is negative and one is positive; they exclude power")
        if self.mode == "filter" and (self.filter in ("none", "extremes") or self.ranks or self.power):
            raise ValueError("mode filter keeps the best and one other: set filter to best, best-random or best-worst")
        return self

    @property
    def after_credit(self) -> bool:
        return self.moment == "after-credit"

    def __call__(self, experience: Experience) -> Experience:
        counted = experience.weight > 0
        score = torch.where(counted, experience.score.double(), torch.nan)
        group = experience.group
        name = self.filter if self.truth is None else self._best(score, group, channel_of(experience, self.truth))
        share = functional.filter_weights(score, group, name, self.extremes, self.ranks, self.power)
        share = torch.where(_spread(score, group) > 0, share, 0.0)
        if self.mode == "draw":
            share = _drawn(share, int(counted.sum()))
        elif self.mode == "filter":
            share = _two(share, score, group, random=name == "best-random")
        else:
            share = share * _size(counted, group)
        if self.critic == "all" and experience.critic_weight is None:
            experience = experience.replace(critic_weight=experience.weight)
        return experience.replace(weight=experience.weight * share.to(experience.weight.dtype))

    def _best(self, score: Tensor, group: Tensor, truth: Tensor) -> str:
        known = torch.where(truth.isnan(), torch.nan, score)
        agreement = {}
        for name in functional.FILTERS:
            weight = functional.filter_weights(known, group, name, self.extremes)
            agreement[name] = functional.weighted_r_squared(known.nan_to_num(), truth.nan_to_num(), weight)
        # A prompt's two responses at least must be left, or there is nothing to push away from.
        choices = [name for name in functional.FILTERS if self.mode != "filter" or name.startswith("best")]
        return max(choices, key=lambda name: agreement[name])


def _size(counted: Tensor, group: Tensor) -> Tensor:
    """[B]: rows of the group that count."""
    _, row_group = torch.unique(group, return_inverse=True)
    return torch.bincount(row_group, weights=counted.double())[row_group]


def _spread(score: Tensor, group: Tensor) -> Tensor:
    """[B]: largest less smallest score of the group."""
    spread = torch.zeros_like(score)
    for number in torch.unique(group).tolist():
        rows = (group == number) & ~score.isnan()
        if bool(rows.any()):
            spread[rows] = score[rows].max() - score[rows].min()
    return spread


def _drawn(share: Tensor, count: int) -> Tensor:
    """[B]: how often each row comes up among `count` draws."""
    if float(share.sum()) == 0:
        return share
    drawn = torch.multinomial(share, count, replacement=True)
    return torch.bincount(drawn, minlength=len(share)).double()


def _two(share: Tensor, score: Tensor, group: Tensor, random: bool) -> Tensor:
    """[B]: 1 for the best of each group and for its worst, or for a random other; the best alone where no other has weight."""
    kept = torch.zeros_like(share)
    for number in torch.unique(group).tolist():
        rows = ((group == number) & (share > 0)).nonzero().squeeze(1)
        rows = rows[torch.argsort(score[rows], descending=True, stable=True)]
        kept[rows[:1]] = 1.0
        if len(rows) > 1:
            kept[rows[1 + int(torch.randint(len(rows) - 1, ())) if random else -1]] = 1.0
    return kept
