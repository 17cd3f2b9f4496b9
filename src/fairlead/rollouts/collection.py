"""The collection slot: `draws → experience`, how many rollouts make the batch of a step."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from pydantic import Field, PrivateAttr

from fairlead.batch import Experience, concatenate, take
from fairlead.parts import Part

__all__ = ["Collection", "Lagged", "Once", "Refill"]


class Collection(Part, slot="collection"):
    """How many rollouts make the batch of a step, and what is kept of them."""

    default_part: ClassVar[str] = "once"

    @property
    def stale(self) -> bool:
        """Whether the policy may have changed since the batch was drawn."""
        return False

    @abstractmethod
    def __call__(self, draws: Iterator[Experience]) -> tuple[Experience, dict[str, float]]:
        """The batch, and metrics. `draws` gives one rollout after another, of other prompts, judged and selected."""


class Once(Collection, name="once"):
    """One rollout is one batch.

    Source: the ordinary loop of RLHF (Ouyang et al. 2022, arXiv 2203.02155).
    """

    def __call__(self, draws: Iterator[Experience]) -> tuple[Experience, dict[str, float]]:
        return next(draws), {}


class Refill(Collection, name="refill"):
    """Draw on until as many prompts count as one rollout has; prompts that selection left out whole are replaced.

    Every batch then has as much to learn from, however many prompts are solved or hopeless. Surplus is thrown away.

    Source: dynamic sampling of DAPO (Yu et al. 2025, arXiv 2503.14476), section 3.2, with the selection `drop-flat-groups`.
    """

    most_draws: int = Field(10, ge=1, description="rollouts of a step at most; then it goes on with what there is")

    def __call__(self, draws: Iterator[Experience]) -> tuple[Experience, dict[str, float]]:
        kept: list[Experience] = []
        wanted, found, drawn = 1, 0, 0
        while found < wanted and drawn < self.most_draws:
            experience = next(draws)
            drawn += 1
            if drawn == 1:
                first, wanted = experience, int(torch.unique(experience.group).numel())
            useful = torch.unique(experience.group[experience.weight > 0])[: wanted - found]
            found += int(useful.numel())
            if useful.numel():
                kept.append(take(experience, torch.isin(experience.group, useful).nonzero().squeeze(1)))
        metrics = {"collection/draws": float(drawn), "collection/filled": found / wanted}
        return concatenate(kept) if kept else first, metrics


class Lagged(Collection, name="lagged"):
    """Learn from what the policy of `steps` steps ago sampled, as where sampling runs beside training and never waits.

    The first step draws `steps` rollouts more. The old policy of the ratio is the one that sampled, as the ordinary clip wants it;
    with `objective.mismatch`, or `old_logprobs: recompute`, it is the policy before the update, and the weights of `mismatch`
    correct for the steps in between. The penalty of the regulariser is that of the policy before the update either way. Here the two take turns, so a recipe shows what staleness costs and gains no time from it.

    Source: Noukhovitch et al. 2024 (arXiv 2410.18252), asynchronous RLHF; Hilton et al. 2022 (arXiv 2110.00641) for the
    separation of the two old policies.
    """

    steps: int = Field(1, ge=0, description="steps between a rollout and the update that learns from it; 0: none")

    _waiting: list[Experience] = PrivateAttr(default_factory=list)

    @property
    def stale(self) -> bool:
        return self.steps > 0

    def __call__(self, draws: Iterator[Experience]) -> tuple[Experience, dict[str, float]]:
        while len(self._waiting) <= self.steps:
            self._waiting.append(next(draws))
        return self._waiting.pop(0), {}

    def state_dict(self) -> dict[str, Any]:
        return {"waiting": self._waiting}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._waiting = state["waiting"]
