"""Rollouts that are drawn ahead of the steps that learn from them, in turn with training or beside it.

Knows: how many wait, with whose weights each was drawn.
Does not know: how a rollout is drawn, or what becomes of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from torch import Tensor

from fairlead.batch import Prompts, Samples
from fairlead.runtime import ModelGroup

__all__ = ["Ahead", "Draw"]


class Draw(NamedTuple):
    """What the policy answered."""

    samples: Samples
    logprobs: Tensor | None
    """[B, T] by the policy that sampled; None where the policy is still the same, so that it can be asked later."""
    metrics: dict[str, float]
    """Of the rollout."""


Drawing = Callable[[ModelGroup, Prompts], Draw]


class Ahead:
    """A queue of rollouts, each drawn with the weights that the policy had when it was begun.

    Without a `sampler` the policy draws at once. With one, a group in processes of its own, a thread takes it the weights and
    waits for its samples while the caller goes on; the samples are the same, since every row has its seed.
    """

    def __init__(self, steps: int, policy: ModelGroup, sampler: ModelGroup | None = None) -> None:
        self.steps, self._policy, self._sampler = steps, policy, sampler
        self._waiting: deque[Draw | Future[Draw]] = deque()
        self._thread = ThreadPoolExecutor(1, "sampler")

    def __call__(self, batches: Iterator[Prompts], draw: Drawing, left: int) -> Draw:
        """The next rollout, after as many are begun as may wait; no more wait than the `left` steps behind this one need."""
        while len(self._waiting) <= min(self.steps, left):
            self._waiting.append(self._begin(next(batches), draw))
        return _finished(self._waiting.popleft())

    def _begin(self, prompts: Prompts, draw: Drawing) -> Draw | Future[Draw]:
        if self._sampler is None:
            return draw(self._policy, prompts)
        return self._thread.submit(_beside, self._sampler, self._policy.weights(), prompts, draw)

    def state_dict(self) -> dict[str, Any]:
        """The rollouts that wait; those that are still drawn are waited for."""
        return {"waiting": [_finished(draw) for draw in self._waiting]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the rollouts that waited then."""
        self._waiting = deque(state["waiting"])


def _beside(sampler: ModelGroup, weights: dict[str, Tensor], prompts: Prompts, draw: Drawing) -> Draw:
    sampler.load_weights(weights)
    return draw(sampler, prompts)


def _finished(draw: Draw | Future[Draw]) -> Draw:
    return draw.result() if isinstance(draw, Future) else draw
