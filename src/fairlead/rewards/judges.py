"""Several judges that must all be satisfied."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr
from torch import Tensor

from fairlead.batch import Samples
from fairlead.rewards.base import Reward
from fairlead.runtime import Opener

__all__ = ["Judge", "Judges"]


class Judge(BaseModel):
    """A source of reward that is satisfied or not."""

    model_config = ConfigDict(extra="forbid")

    reward: Reward = Field(description="who judges; the verdict is its weight times what it says")
    threshold: float = Field(1.0, description="satisfied where the verdict is at least this")


class Judges(Reward, name="judges"):
    """1 for a response that satisfies every judge, 0 for one that violates any: whether it is feasible.

    A judge that failed is not satisfied. With the weight 0 the verdict only stands in the channel, where shaping `constrained`,
    selection `best-feasible` and pairing `feasible` read it.

    Source: the mixture of judges of CGPO (Xu et al. 2024, arXiv 2409.20370).
    """

    judges: dict[str, Judge] = Field(min_length=1, description="name → judge with its threshold")
    whole: bool = Field(True, description="a response that the length limit cut is not feasible")

    _metrics: dict[str, float] = PrivateAttr(default_factory=dict)

    def open(self, run: Opener, name: str) -> None:
        for key, judge in self.judges.items():
            judge.reward.open(run, f"{name}-{key}")

    def begin(self, row: dict[str, Any]) -> None:
        for judge in self.judges.values():
            judge.reward.begin(row)

    def __call__(self, samples: Samples) -> Tensor:
        satisfied = ~samples.truncated if self.whole else torch.ones(len(samples), dtype=torch.bool)
        self._metrics = {"violation/truncated": float((~satisfied).float().mean())} if self.whole else {}
        for name, judge in self.judges.items():
            verdict = judge.reward.weight * judge.reward.ask(samples)
            kept = verdict >= judge.threshold  # false for NaN
            satisfied = satisfied & kept
            self._metrics |= {
                f"violation/{name}": float((~kept).float().mean()),
                f"failed/{name}": float(verdict.isnan().float().mean()),
                **{f"{name}/{key}": value for key, value in judge.reward.metrics().items()},
            }
        return satisfied.float()

    def metrics(self) -> dict[str, float]:
        return self._metrics
