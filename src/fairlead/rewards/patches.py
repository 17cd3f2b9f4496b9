"""Patches judged without running them: by their changed lines, and by a judge where these do not decide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import Field
from torch import Tensor

from fairlead.batch import Samples
from fairlead.checks import patches
from fairlead.rewards.base import Reward
from fairlead.rewards.pooled import PooledReward, column
from fairlead.runtime import Opener

__all__ = ["PatchReward"]


class PatchReward(PooledReward, name="patch"):
    """1 for the changes of the reference patch, 0 for a patch that changes nothing, −1 for what is no patch; any other is judged.

    The judge is `semantic`, such as `question`: whether both patches mend the same; without one the reward is how alike
    the changed lines are.

    Source: Nemotron-Cascade (arXiv 2512.13607), its stage for software engineering.
    """

    field: str = Field("patch", description="column that holds the reference, a unified diff")
    semantic: Reward | None = Field(None, description="judge of patches that are neither; null: how alike they look")

    def open(self, run: Opener, name: str) -> None:
        super().open(run, name)
        if self.semantic is not None:
            self.semantic.open(run, f"{name}-semantic")

    def task(self, row: dict[str, Any]) -> tuple[Callable[..., float], tuple[Any, ...]]:
        return patches.patch, (row["response"], column(row, self.field, self.part_name))

    def __call__(self, samples: Samples) -> Tensor:
        found = super().__call__(samples)
        undecided = (found > 0) & (found < 1)
        if self.semantic is not None and bool(undecided.any()):
            rows = undecided.nonzero().squeeze(1)
            found[rows] = self.semantic.weight * self.semantic.ask(samples[rows])
        return found

    def metrics(self) -> dict[str, float]:
        judge = {} if self.semantic is None else self.semantic.metrics()
        return super().metrics() | {f"semantic/{key}": value for key, value in judge.items()}
