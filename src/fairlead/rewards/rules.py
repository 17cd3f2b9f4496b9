"""Rewards that a rule can check."""

from __future__ import annotations

import unicodedata
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from fairlead.batch import Samples
from fairlead.checks.texts import passes_check
from fairlead.rewards.base import Reward

__all__ = ["CheckReward", "LengthReward", "MixedScripts", "MustInclude", "RepetitionPenalty"]


class MustInclude(Reward, name="must-include"):
    """Share of the required strings that stand in the response, less a price for every word beyond a length.

    Source: programmatic rewards as in Lambert et al. 2024 (Tülu 3, arXiv 2411.15124), section 6.
    """

    field: str = Field("must_include", description="column of the data set that lists the required strings")
    ignore_case: bool = Field(True, description="compare without regard to case")
    free_words: int = Field(40, ge=0, description="words that cost nothing")
    price: float = Field(0.02, ge=0, description="taken for each further word")

    def __call__(self, samples: Samples) -> Tensor:
        return torch.tensor([self._one(row) for row in samples.rows], dtype=torch.float32)

    def _one(self, row: dict[str, Any]) -> float:
        required, text = row[self.field], row["response"]
        if self.ignore_case:
            required, text = [item.lower() for item in required], text.lower()
        present = sum(item in text for item in required) / max(len(required), 1)
        return present - self.price * max(len(text.split()) - self.free_words, 0)


class LengthReward(Reward, name="length"):
    """One minus the distance of the response's length from a band of words, per ten words.

    Source: the length control of Singhal et al. 2023 (arXiv 2310.03716), in its simplest form.
    """

    shortest: int = Field(1, ge=0, description="words below which the reward falls")
    longest: int = Field(40, ge=1, description="words above which the reward falls")

    def __call__(self, samples: Samples) -> Tensor:
        lengths = torch.tensor([len(row["response"].split()) for row in samples.rows], dtype=torch.float32)
        return 1 - ((self.shortest - lengths).clamp(min=0) + (lengths - self.longest).clamp(min=0)) / 10


class RepetitionPenalty(Reward, name="repetition"):
    """Minus the share of n-grams of words that the response has already used.

    Source: the repetition penalty of Yeo et al. 2025 (arXiv 2502.03373), appendix, without its position weights.
    """

    n: int = Field(3, ge=1, description="words in an n-gram")

    def __call__(self, samples: Samples) -> Tensor:
        return torch.tensor([-self._one(row["response"]) for row in samples.rows], dtype=torch.float32)

    def _one(self, text: str) -> float:
        words = text.lower().split()
        grams = [tuple(words[i : i + self.n]) for i in range(len(words) - self.n + 1)]
        return 1 - len(set(grams)) / len(grams) if grams else 0.0


class CheckReward(Reward, name="check"):
    """1 when the response passes the record's check (`all`, `any`, `max_words`), 0 when it does not.

    Source: verifiable instructions in the manner of Zhou et al. 2023 (IFEval, arXiv 2311.07911).
    """

    field: str = Field("check", description="column that holds the check")
    without: float | None = Field(
        0.0,
        description="reward of a response whose record has no check; null leaves the row out, as if the source had failed",
    )

    def __call__(self, samples: Samples) -> Tensor:
        without = float("nan") if self.without is None else self.without
        return torch.tensor(
            [
                float(passes_check(row[self.field], row["response"])) if row.get(self.field) else without
                for row in samples.rows
            ],
            dtype=torch.float32,
        )


class MixedScripts(Reward, name="mixed-scripts"):
    """1 for a response with letters of another script than its own, 0 for any other: language mixing, seen without a dictionary.

    With the weight −1 it is a price (mathematics: 1, 0 or −1); as one of `judges` it takes the whole reward (code); with the weight 0
    and the shaping `below-worst` it puts a response below all others of the batch (chat). Two languages of one script are not told apart.

    Source: the code-switching rules of Nemotron-Cascade (arXiv 2512.13607).
    """

    script: str = Field(
        "LATIN", description="the script that belongs there, as Unicode names it: LATIN, CYRILLIC, CJK …"
    )
    tolerated: int = Field(0, ge=0, description="letters of other scripts that may stand there (a name, a symbol)")

    def __call__(self, samples: Samples) -> Tensor:
        return torch.tensor([self._foreign(row["response"]) > self.tolerated for row in samples.rows]).float()

    def _foreign(self, text: str) -> int:
        letters = (unicodedata.name(letter, "") for letter in text if letter.isalpha() and not letter.isascii())
        foreign = sum(not name.startswith(self.script) for name in letters)
        own_ascii = self.script == "LATIN"
        return foreign + (0 if own_ascii else sum(letter.isascii() and letter.isalpha() for letter in text))
