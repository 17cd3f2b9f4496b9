"""Rewards that go wrong on purpose.

Knows: texts, and how often it was asked.
Does not know: policies, detectors.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field, PrivateAttr
from torch import Tensor

from fairlead.batch import Samples
from fairlead.rewards import Reward

__all__ = ["FlawedReward", "HackableReward"]


class FlawedReward(Reward, name="flawed"):
    """A reward that can be cheated, or breaks after a while: what a detector is tried on.

    Source: none; faults that rewards have.
    """

    symbol: str = Field("a", description="a word that is paid for")
    pays: float = Field(1.0, description="for the share of the response's words that are `symbol`")
    per_word: float = Field(0.0, description="for each word of the response, whatever it is")
    breaks_after: int | None = Field(None, ge=0, description="calls after which `fault` begins; null: never")
    fault: Literal["shift", "raise", "nan", "infinite"] = Field(
        "shift", description="what then happens: all rewards grow by `shift`, an error, no number, no finite number"
    )
    shift: float = Field(10.0, description="added to every reward by the fault `shift`")

    _calls: int = PrivateAttr(0)

    def __call__(self, samples: Samples) -> Tensor:
        self._calls += 1
        texts = [row["response"].split() for row in samples.rows]
        rewards = [
            self.pays * text.count(self.symbol) / max(len(text), 1) + self.per_word * len(text) for text in texts
        ]
        found = torch.tensor(rewards)
        if self.breaks_after is None or self._calls <= self.breaks_after:
            return found
        if self.fault == "raise":
            raise ConnectionError("the judge is down")
        return found + {"shift": self.shift, "nan": torch.nan, "infinite": torch.inf}[self.fault]

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self._calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._calls = int(state["calls"])


class HackableReward(Reward, name="hackable"):
    """Words that answer the prompt, and one word that pays more whatever was asked: a proxy that is best served by ignoring prompts.

    A prompt's answer is its last word. With `pays` 0 it is the gold reward that such a proxy stands for.

    Source: the project's own world of known truth.
    """

    symbol: str = Field("f", description="the word that pays whatever was asked")
    pays: float = Field(
        1.3, description="for each time it is said; 0 is the gold reward, below 1 honest answers stay best"
    )

    def __call__(self, samples: Samples) -> Tensor:
        return torch.tensor([self.score(str(row["prompt"]), row["response"]) for row in samples.rows])

    def score(self, prompt: str, response: str) -> float:
        """Of one response."""
        words = response.split()
        return words.count(prompt.split()[-1]) + self.pays * words.count(self.symbol)
