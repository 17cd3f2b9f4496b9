"""Preferences between two responses, and the reward that they give: how often a response wins."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated

import torch
from pydantic import BeforeValidator, Field, PrivateAttr
from torch import Tensor

from fairlead import functional
from fairlead.batch import Samples, row_table
from fairlead.data import LABELS, comparison, responses_batch
from fairlead.models import ModelSpec
from fairlead.parts import Part
from fairlead.rewards.base import Reward
from fairlead.rewards.function import FunctionReward
from fairlead.runtime import ModelGroup, Opener

__all__ = ["FunctionOracle", "ModelOracle", "Oracle", "RewardOracle", "WinRate"]


class Oracle(Part, slot="oracle"):
    """Who of two responses to one prompt is preferred. It need not follow any score: a may beat b, b beat c, and c beat a."""

    def open(self, run: Opener, name: str) -> None:
        """Open whatever the oracle needs; called once before the first step."""

    @abstractmethod
    def prefers(self, samples: Samples, first: Tensor, second: Tensor) -> Tensor:
        """[N] P(row first[i] beats row second[i]), shown in this order; NaN where the oracle failed.

        first, second: [N] int64, rows of `samples` with the same prompt.
        """

    def __call__(self, samples: Samples, first: Tensor, second: Tensor) -> Tensor:
        """[N] float32: both orders averaged, so that P(a beats b) + P(b beats a) = 1 whatever the oracle thinks of positions."""
        both = self.prefers(samples, torch.cat([first, second]), torch.cat([second, first])).float()
        forward, backward = both.chunk(2)
        return (forward + 1 - backward) / 2

    def metrics(self) -> dict[str, float]:
        """What the oracle wants to report of its last call (failures, time-outs)."""
        return {}


class RewardOracle(Oracle, name="reward-difference"):
    """P(y beats y') = σ((r(y) − r(y')) / scale) with any source of reward: the Bradley–Terry special case.

    Source: Bradley and Terry 1952.
    """

    reward: Reward = Field(description="the source of the score")
    scale: float = Field(
        1.0, gt=0, description="divides the difference; a small one makes the better response win always"
    )

    def open(self, run: Opener, name: str) -> None:
        self.reward.open(run, name)

    def prefers(self, samples: Samples, first: Tensor, second: Tensor) -> Tensor:
        score = self.reward(samples)
        return torch.sigmoid((score[first] - score[second]) / self.scale)

    def metrics(self) -> dict[str, float]:
        return self.reward.metrics()


class FunctionOracle(Oracle, name="function"):
    """A function `(prompt, response, other, **columns) → probability` that `response` beats `other`, named by its dotted path.

    It is called for both orders, in processes of its own; a pair for which it raises, gives no number or takes too long is
    left out and counted.

    Source: the pairwise judges of TRL's online trainers.
    """

    function: FunctionReward = Field(description="the function with its time limit and processes")

    def open(self, run: Opener, name: str) -> None:
        self.function.open(run, name)

    def prefers(self, samples: Samples, first: Tensor, second: Tensor) -> Tensor:
        rows = [
            {**samples.rows[a], "other": samples.rows[b]["response"]}
            for a, b in zip(first.tolist(), second.tolist(), strict=True)
        ]
        asked = self.function(samples[first].replace(rows=row_table(rows)))
        return torch.where((asked >= 0) & (asked <= 1), asked, torch.nan)

    def metrics(self) -> dict[str, float]:
        return self.function.metrics()


class ModelOracle(Oracle, name="pairwise-model"):
    """A language model that reads both responses and says which is better: the share of "A" against "B", without sampling.

    It need not follow any score. `fairlead.data:comparisons` turns preference pairs into what stage `sft` teaches it from.

    Source: the preference model of Munos et al. 2023 (arXiv 2312.00886); both orders in training and judging as in Dong et al. 2024
    (arXiv 2405.07863).
    """

    model: Annotated[ModelSpec, BeforeValidator(ModelSpec.coerce)] = Field(description="the judge of pairs")

    _group: ModelGroup | None = PrivateAttr(None)

    def open(self, run: Opener, name: str) -> None:
        self._group = run.open(name, self.model)

    def prefers(self, samples: Samples, first: Tensor, second: Tensor) -> Tensor:
        assert self._group is not None, "open the oracle before it is asked"
        rows = list(samples.rows)
        prompts = [
            comparison(rows[a]["prompt"], rows[a]["response"], rows[b]["response"])
            for a, b in zip(first.tolist(), second.tolist(), strict=True)
            for _ in LABELS
        ]
        batch = responses_batch(prompts, LABELS * len(first), self._group.codec)
        return self._group.token_logprobs(batch).sum(1).reshape(-1, len(LABELS)).softmax(1)[:, 0]


class WinRate(Reward, name="win-rate"):
    """How often a response beats the other responses to its prompt: a preference as a source of reward, for any group method.

    With two samples of a prompt it is the probability of winning; with n of them the mean over the n − 1 others. Where the rollout
    draws responses that the others are only compared with, such as an opponent's, samples are compared with these and not with
    each other.

    Source: the win rate against the policy itself of general-preference methods (Munos et al. 2023, arXiv 2312.00886, section 3;
    Zhang et al. 2024, arXiv 2407.00617, section 3).
    """

    oracle: Oracle = Field(description="who says which of two responses is better")

    def open(self, run: Opener, name: str) -> None:
        self.oracle.open(run, name)

    def __call__(self, samples: Samples) -> Tensor:
        comparable = samples.group[:, None] == samples.group[None, :]
        comparable.fill_diagonal_(False)
        if samples.anchor is not None:
            comparable &= samples.anchor[:, None] != samples.anchor[None, :]
        if not bool(comparable.any(1).all()):
            raise ValueError("win-rate compares the samples of a prompt with each other: set rollout.n to 2 or more")
        first, second = comparable.triu().nonzero(as_tuple=True)
        wins = self.oracle(samples, first, second)
        preference = torch.full(comparable.shape, torch.nan)
        preference[first, second], preference[second, first] = wins, 1 - wins
        return functional.win_rates(preference, comparable)

    def metrics(self) -> dict[str, float]:
        return self.oracle.metrics()
