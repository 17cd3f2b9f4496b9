"""Judging the answer alone: any reward, judge or verifier behind a view that leaves the thought out."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field, PrivateAttr, field_validator
from torch import Tensor

from fairlead.batch import Samples, row_table, take
from fairlead.checks.texts import answer_within
from fairlead.rewards.base import Reward
from fairlead.runtime import Opener

__all__ = ["AnswerReward"]


class AnswerReward(Reward, name="answer"):
    """What another reward says of the answer alone: it does not see the thought before it.

    A response without the delimiter is malformed. What is judged is then all of it, thought included, or with `strict` the text
    `[NULL]`, which is judged like any answer; with `malformed` nothing is judged.

    Source: Bhaskar et al. 2025 (RLMT, arXiv 2509.20357), section 3, and the reward worker of its code.
    """

    reward: Reward = Field(description="who judges the answer")
    delimiter: str | None = Field(
        "</think>", description="the answer begins behind the first one; null: with the response"
    )
    end: str | None = Field(
        None, description="the answer ends before the first one behind that; null: with the response"
    )
    strict: bool = Field(False, description="a malformed response is judged as the text `[NULL]`")
    malformed: float | None = Field(
        None, description="the reward of a malformed response, in place of judging it; null: it is judged"
    )

    _share: float = PrivateAttr(0.0)

    @field_validator("reward")
    @classmethod
    def _one_weight(cls, reward: Reward) -> Reward:
        if reward.weight != 1.0:
            raise ValueError("the weight of a reward behind `answer` has no effect: set that of `answer`")
        return reward

    def open(self, run: Opener, name: str) -> None:
        self.reward.open(run, name)

    def begin(self, row: dict[str, Any]) -> None:
        seen, whole = self._view(row)
        if whole or self.malformed is None:
            self.reward.begin(seen)

    def __call__(self, samples: Samples) -> Tensor:
        views = [self._view(row) for row in samples.rows]
        whole = torch.tensor([found for _, found in views], dtype=torch.bool)
        self._share = float((~whole).float().mean()) if len(whole) else 0.0
        seen = samples.replace(rows=row_table([row for row, _ in views]))
        if self.malformed is None:
            return self.reward(seen)
        scores = torch.full((len(samples),), self.malformed)
        judged = whole.nonzero().squeeze(1)
        if judged.numel():
            scores[judged] = self.reward(take(seen, judged)).float()
        return scores

    def metrics(self) -> dict[str, float]:
        """What the judge reports, and the share of malformed responses."""
        return self.reward.metrics() | {"malformed": self._share}

    def _view(self, row: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        """The row with its answer as the response, and whether it is well-formed."""
        answer, whole = answer_within(row["response"], self.delimiter, self.end, self.strict)
        return {**row, "response": answer}, whole
