"""The pairing slot: `experience → pairs of rows`, which of several responses to a prompt are compared."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fairlead.batch import Experience
from fairlead.parts import Part

__all__ = ["BestWorst", "Pairing", "RandomPair"]

RowPairs = tuple[Tensor, Tensor]
"""Rows of the chosen and of the rejected responses, [N] int64 each."""


class Pairing(Part, slot="pairing"):
    """Which two of the responses to a prompt are learned from."""

    default_part: ClassVar[str] = "best-worst"

    def __call__(self, experience: Experience, generator: torch.Generator) -> RowPairs:
        """One pair of each group that has two different responses to tell apart; rows of weight 0 take no part."""
        chosen, rejected = [], []
        counted = experience.weight > 0
        for group in torch.unique(experience.group):
            rows = ((experience.group == group) & counted).nonzero().squeeze(1)
            # In another order, so that among equals it is not always the first one that wins.
            rows = rows[torch.randperm(rows.numel(), generator=generator)]
            found = self.pair(experience, rows, generator) if rows.numel() > 1 else None
            if found is not None and _response(experience, found[0]) != _response(experience, found[1]):
                chosen.append(found[0])
                rejected.append(found[1])
        return torch.tensor(chosen, dtype=torch.int64), torch.tensor(rejected, dtype=torch.int64)

    @abstractmethod
    def pair(self, experience: Experience, rows: Tensor, generator: torch.Generator) -> tuple[int, int] | None:
        """The chosen and the rejected one of `rows` ([K ≥ 2] int64, shuffled); None where they cannot be told apart."""


class BestWorst(Pairing, name="best-worst"):
    """The response with the highest score, and beside it the one with the lowest, the second or any other.

    `length_penalty` is subtracted for every token before the choice, and the pair is ordered by what is left (the released code
    orders by the raw score, which turns the penalty round).

    Source: Dong et al. 2024 (RLHF Workflow, arXiv 2405.07863), section 3.2; names in the released code: max_min, max_max,
    max_random, and max_min_p with a penalty.
    """

    rejected: Literal["worst", "second", "random"] = Field("worst", description="which response is the rejected one")
    length_penalty: float = Field(0.0, ge=0, description="subtracted from the score for every token of the response")

    def pair(self, experience: Experience, rows: Tensor, generator: torch.Generator) -> tuple[int, int] | None:
        score = experience.score[rows] - self.length_penalty * experience.mask[rows].sum(1)
        order = torch.argsort(score, descending=True, stable=True)
        places = {"worst": rows.numel() - 1, "second": 1}
        place = places.get(self.rejected) or int(torch.randint(1, rows.numel(), (1,), generator=generator))
        best, other = order[0], order[place]
        return (int(rows[best]), int(rows[other])) if bool(score[best] > score[other]) else None


class RandomPair(Pairing, name="random-pair"):
    """Two responses at random, ordered by their scores.

    With labels `sampled` the order is drawn: the first one wins with probability ½ + half the difference of the scores. After the
    reward `win-rate` with two samples a prompt that is exactly the oracle's P, as the theory of INPO asks; it needs scores within
    [0, 1].

    Source: Zhang et al. 2024 (INPO, arXiv 2407.00617), eq. 8; Dong et al. 2024 (arXiv 2405.07863).
    """

    labels: Literal["hard", "sampled"] = Field("hard", description="the higher score wins, or wins by chance")
    ties: bool = Field(
        False, description="keep two of equal score, for losses that regress the difference; else they are no pair"
    )

    def pair(self, experience: Experience, rows: Tensor, generator: torch.Generator) -> tuple[int, int] | None:
        first, second = int(rows[0]), int(rows[1])
        difference = float(experience.score[first] - experience.score[second])
        if self.labels == "sampled":
            if abs(difference) > 1:
                raise ValueError(
                    f"labels: sampled takes scores as probabilities, and two differ by {abs(difference):g}: use the reward win-rate alone"
                )
            won = float(torch.rand(1, generator=generator)) < (1 + difference) / 2
            return (first, second) if won else (second, first)
        if difference == 0 and not self.ties:
            return None
        return (first, second) if difference >= 0 else (second, first)


def _response(experience: Experience, row: int) -> list[int]:
    return experience.tokens[row][experience.mask[row]].tolist()
