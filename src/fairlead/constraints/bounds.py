"""The bound slot: what a statistic of costs is at most, with probability 1 − δ.

Knows: independent costs of one policy.
Does not know: prompts, models, what becomes of a policy that fails.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from fairlead import functional
from fairlead.parts import Part

__all__ = ["Bound", "MeanBound", "ShareBound", "TailBound"]


class Bound(Part, slot="bound"):
    """A one-sided confidence bound of some statistic of the cost."""

    default_part: ClassVar[str] = "mean"

    @property
    @abstractmethod
    def missing(self) -> float | None:
        """What a cost that nobody could tell counts as, which is the worst; None where there is no worst cost."""

    @abstractmethod
    def __call__(self, costs: Tensor, delta: float) -> float:
        """U with Pr(statistic of the policy > U) ≤ δ, from independent costs [n ≥ 2].

        Raises: ValueError for costs outside the range that the bound was told.
        """


class MeanBound(Bound, name="mean"):
    """The mean cost: Student's t, or for costs of a known range a bound that assumes nothing else.

    Student's t is exact for normal means. For right-skewed costs it errs more often than δ; the certificate names the bound.

    Source: HC-RLHF 2025 (arXiv 2506.08266) for Student's t; `functional.mean_bound` names the others.
    """

    method: Literal["student", "hoeffding", "bernstein", "anderson", "bootstrap"] = Field(
        "student", description="student and bootstrap are approximate; the others need the range of the cost"
    )
    lowest: float | None = Field(None, description="smallest possible cost, for hoeffding and bernstein")
    highest: float | None = Field(
        None,
        description="largest possible cost; with it a cost that is missing counts as this, without it the test fails",
    )

    @model_validator(mode="after")
    def _range_given(self) -> Self:
        needed = {"hoeffding": ("lowest", "highest"), "bernstein": ("lowest", "highest"), "anderson": ("highest",)}
        if any(getattr(self, name) is None for name in needed.get(self.method, ())):
            raise ValueError(f"method {self.method} needs the range of the cost: set lowest and highest")
        if self.lowest is not None and self.highest is not None and self.lowest >= self.highest:
            raise ValueError(f"lowest ({self.lowest:g}) must be below highest ({self.highest:g})")
        return self

    @property
    def missing(self) -> float | None:
        return self.highest

    def __call__(self, costs: Tensor, delta: float) -> float:
        return functional.mean_bound(costs, delta, self.method, self.lowest, self.highest)


class ShareBound(Bound, name="share"):
    """The share of responses whose cost exceeds a threshold: exact whatever the costs are distributed like.

    Source: Clopper and Pearson 1934.
    """

    threshold: float = Field(0.0, description="a response whose cost is above this is a violation")

    @property
    def missing(self) -> float | None:
        return float("inf")

    def __call__(self, costs: Tensor, delta: float) -> float:
        return functional.share_bound(int((costs > self.threshold).sum()), len(costs), delta)


class TailBound(Bound, name="tail"):
    """The mean of the worst share of all costs: the conditional value at risk.

    Source: `functional.tail_bound` names it.
    """

    tail: float = Field(0.1, gt=0, le=1, description="share of the worst costs whose mean counts; 1 is the mean of all")
    highest: float = Field(description="largest possible cost")

    @property
    def missing(self) -> float | None:
        return self.highest

    def __call__(self, costs: Tensor, delta: float) -> float:
        return functional.tail_bound(costs, delta, self.highest, self.tail)
