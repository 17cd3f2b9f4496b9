"""Mergers: averages of weights, and sums of what models learned."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Collection, Mapping
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from fairlead import functional
from fairlead.merging.base import Merger

__all__ = ["DARE", "TIES", "Linear", "Slerp", "TaskArithmetic"]


class Linear(Merger, name="linear"):
    """The weighted average of the weights: a model soup.

    Source: Wortsman et al. 2022 (arXiv 2203.05482), section 2; as PPO's reference SALSA (Chegini et al. 2024, arXiv 2411.01798); in two
    stages before RL Balanced Actor Initialization (arXiv 2509.00309).
    """

    def check(self, models: Collection[str]) -> None:
        super().check(models)
        total = sum(self.shares(models, 1.0))
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the weights of an average must sum to 1, these to {total:g}; sums are task-arithmetic")

    def __call__(self, models: Mapping[str, Tensor], base: Tensor | None, name: str) -> Tensor:
        return functional.weighted_sum(list(models.values()), self.shares(models, 1.0))


class Slerp(Merger, name="slerp"):
    """Spherical interpolation of two models, each weight tensor as one vector.

    Source: Shoemake 1985, "Animating rotation with quaternion curves"; on weight tensors as in mergekit (Goddard et al. 2024,
    arXiv 2403.13257).
    """

    fraction: float = Field(0.5, ge=0, le=1, description="how far from the first model to the second")

    def check(self, models: Collection[str]) -> None:
        if len(models) != 2:
            raise ValueError(f"slerp lies between two models, there are {len(models)}: {', '.join(models)}")
        if self.weights is not None:
            raise ValueError("slerp takes no weights: `fraction` is the share of the second model")

    def __call__(self, models: Mapping[str, Tensor], base: Tensor | None, name: str) -> Tensor:
        first, second = models.values()
        return functional.slerp(first, second, self.fraction)


class _OnTaskVectors(Merger):
    """base + scale · (what becomes of the task vectors, model − base)."""

    needs_base: ClassVar[bool] = True

    scale: float = Field(1.0, description="how much of the merged task vector is added to the base")

    def __call__(self, models: Mapping[str, Tensor], base: Tensor | None, name: str) -> Tensor:
        assert base is not None, f"{self.part_name} needs a base"
        changes = {model: functional.weighted_sum([tensor, base], [1.0, -1.0]) for model, tensor in models.items()}
        return functional.weighted_sum([base, self.change(changes, name)], [1.0, self.scale])

    @abstractmethod
    def change(self, changes: Mapping[str, Tensor], name: str) -> Tensor:
        """The merged task vector."""


class TaskArithmetic(_OnTaskVectors, name="task-arithmetic"):
    """The base plus the weighted sum of what each model learned; negative weights take something away.

    Source: Ilharco et al. 2023 (arXiv 2212.04089), section 2.
    """

    scale: float = Field(0.4, description="how much of the sum of task vectors is added to the base")

    def change(self, changes: Mapping[str, Tensor], name: str) -> Tensor:
        return functional.weighted_sum(list(changes.values()), self.shares(changes))


class TIES(_OnTaskVectors, name="ties"):
    """Keep the largest changes of each model, elect their signs, and average those that agree.

    Every weight tensor is trimmed by itself, as in mergekit; the paper ranks all weights of a model together.

    Source: Yadav et al. 2023 (arXiv 2306.01708), algorithm 1.
    """

    density: float = Field(0.2, gt=0, le=1, description="share of a task vector's entries that is kept")

    def check(self, models: Collection[str]) -> None:
        super().check(models)
        _require_votes(self.shares(models))

    def change(self, changes: Mapping[str, Tensor], name: str) -> Tensor:
        trimmed = [functional.keep_largest(change, self.density) for change in changes.values()]
        return functional.elect_and_average(trimmed, self.shares(changes))


class DARE(_OnTaskVectors, name="dare"):
    """Drop most of each task vector at random and rescale the rest, then sum them or elect signs as TIES does.

    Source: Yu et al. 2024 (arXiv 2311.03099), section 3.2.
    """

    drop: float = Field(0.9, ge=0, lt=1, description="probability that an entry of a task vector is set to 0")
    rescale: bool = Field(True, description="divide what is left by 1 − drop, which keeps the expectation")
    combine: Literal["sum", "ties"] = Field(
        "sum", description="weighted sum (without weights: the average), or the average of those of the elected sign"
    )
    seed: int = Field(
        0, ge=0, description="which entries are dropped; every tensor of every model has a draw of its own"
    )

    def check(self, models: Collection[str]) -> None:
        super().check(models)
        if self.combine == "ties":
            _require_votes(self.shares(models))

    def change(self, changes: Mapping[str, Tensor], name: str) -> Tensor:
        thinned = [
            functional.drop_and_rescale(change, self.drop, _seed(self.seed, model, name), self.rescale)
            for model, change in changes.items()
        ]
        if self.combine == "ties":
            return functional.elect_and_average(thinned, self.shares(changes))
        return functional.weighted_sum(thinned, self.shares(changes, 1.0))


def _require_votes(shares: list[float]) -> None:
    if min(shares) < 0 or max(shares) == 0:
        raise ValueError(
            f"weights are votes for a sign here: none may be negative and one must be positive, got {shares}"
        )


def _seed(seed: int, model: str, name: str) -> int:
    """A seed of its own for every tensor of every model, the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{model}/{name}".encode()).digest()[:4], "big")
