"""Samples that begin as the branches of a tree, so that those of a prompt differ."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator
from tensordict import TensorDict

from fairlead.batch import Prompts, Samples, concatenate, take
from fairlead.generation import Tree, TreeSampling
from fairlead.rollouts.sample import SampleRollout
from fairlead.runtime import ModelGroup

__all__ = ["LookaheadTree"]

_Share = Annotated[float, Field(ge=0, le=1)]


class Adaptive(BaseModel):
    """Thresholds that follow the trees: tighter where branches find no place, looser where places stay free."""

    model_config = ConfigDict(extra="forbid")

    crowded: float = Field(0.1, ge=0, description="tighter above so many branches without a place to a token of length")
    empty: float = Field(0.05, ge=0, le=1, description="looser above this share of places that stayed free")
    change: float = Field(0.01, gt=0, description="what both thresholds move by after a step")
    most: int = Field(10, ge=1, description="moves away from where they began, at most")


class LookaheadTree(SampleRollout, name="lookahead-tree"):
    """Grow the n responses to a prompt as a tree that branches where the policy is undecided; then sample them to their ends.

    A branch that soon writes what its parent writes is cut off again, so what is left are responses that really differ. A share of
    the n, which falls with the steps, begins like this; the others are independent samples. Training treats all as drawn from the
    policy. Judge a policy by plain samples: the stage `evaluate` draws them.

    The model must be sampled by the own engine. Until training has a step, as in `evaluate`, the schedule stands at its beginning.

    Source: LATR (arXiv 2510.24302), its method and released code; the relative threshold is that of the code since January 2026.
    """

    tree: Tree = Field(default_factory=Tree, description="where it branches, what is cut off, when it ends")
    schedule: dict[int, _Share] = Field(
        {0: 1.0, 10: 0.75, 20: 0.5, 80: 0.25, 200: 0.0},
        description="step of the stage → share of the n responses that begin as a tree from there on",
    )

    adaptive: Adaptive | None = Field(
        None, description="thresholds of the tree that move with what it grew; null: they stay"
    )

    _moves: int = PrivateAttr(0)  # how often the thresholds were tightened, less how often they were loosened
    _step: int = PrivateAttr(0)
    _grown: TensorDict | None = PrivateAttr(None)

    @field_validator("schedule")
    @classmethod
    def _from_the_beginning(cls, value: dict[int, float]) -> dict[int, float]:
        if 0 not in value or min(value) < 0:
            raise ValueError(
                "a schedule says what holds from step 0 on, and nothing of steps before: {0: 1.0, 100: 0.5}"
            )
        return value

    def at_step(self, step: int) -> None:
        self._step = step

    @property
    def width(self) -> int:
        """How many of the n responses begin as a tree at the present step."""
        return round(self.n * self.schedule[max(step for step in self.schedule if step <= self._step)])

    def __call__(self, policy: ModelGroup, prompts: Prompts) -> Samples:
        requests = self.requests(prompts)
        branches = torch.arange(len(requests)) % self.n < self.width
        parts = []
        self._grown = None
        if self.width > 0:
            sampling = TreeSampling(tree=self._adapted(), **self.sampling.model_dump())
            grown = policy.generate(requests[branches], sampling)
            assert grown.extras is not None, "the engine counts what it grows"
            self._grown = grown.extras[:: self.width]  # one row a tree
            parts.append(grown.exclude("extras"))
        if self.width < self.n:
            parts.append(policy.generate(requests[~branches], self.sampling))
        whole = concatenate(parts)
        return take(whole, torch.argsort(whole.group, stable=True))

    def _adapted(self) -> Tree:
        """The tree with its thresholds of now."""
        if self.adaptive is None:
            return self.tree
        moved = self._moves * self.adaptive.change
        thresholds = {
            "least_probability": self.tree.least_probability + moved,
            "largest_gap": self.tree.largest_gap - moved,
        }
        return self.tree.model_copy(update={name: min(max(value, 0.0), 1.0) for name, value in thresholds.items()})

    def learned(self, policy: ModelGroup) -> None:
        if self.adaptive is None or self._grown is None:
            return
        suppressed, steps, empty = (float(self._grown[name].sum()) for name in ("suppressed", "steps", "empty"))
        tighter = suppressed > self.adaptive.crowded * steps
        looser = empty > self.adaptive.empty * len(self._grown) * self.width
        moves = self._moves + int(tighter) - int(looser)
        self._moves = min(max(moves, -self.adaptive.most), self.adaptive.most)

    def state_dict(self) -> dict[str, Any]:
        return {"moves": self._moves}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._moves = int(state["moves"])

    def metrics(self) -> dict[str, float]:
        """Of the trees alone: extra branches a token, share of comparisons that cut one off, tokens until a tree was grown, tokens
        that found no free place for their branch, share of places that stayed free."""
        if self._grown is None:
            return {"tree_share": 0.0}
        sums = {name: float(values.sum()) for name, values in self._grown.items()}
        trees = len(self._grown)
        adapted = {} if self.adaptive is None else {"least_probability": self._adapted().least_probability}
        return adapted | {
            "tree_share": self.width / self.n,
            "branching_ratio": sums["branched"] / sums["tokens"],
            "pruning_ratio": sums["removed"] / max(sums["compared"], 1.0),
            "saturation_length": sums["steps"] / trees,
            "suppressed_ratio": sums["suppressed"] / sums["tokens"],
            "empty_ratio": sums["empty"] / (trees * self.width),
        }
