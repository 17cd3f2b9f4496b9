"""A preference without a score in a token world: rock, paper, scissors on every symbol of the response.

Knows: the table of wins, every response of the world, and the scores that come closest to the preference.
Does not know: how policies are trained.
"""

from __future__ import annotations

from itertools import zip_longest

import torch
from pydantic import Field, PrivateAttr
from torch import Tensor

from fairlead import functional
from fairlead.batch import Samples
from fairlead.rewards import Oracle, Reward
from fairlead.worlds.token_world import TokenWorld

__all__ = ["CYCLE", "CyclicOracle", "CyclicScore", "cyclic_preferences"]

CYCLE = ((0.5, 0.9, 0.2), (0.1, 0.5, 0.8), (0.8, 0.2, 0.5))
"""P(row's symbol beats column's): a beats b, b beats c, c beats a. Without regularisation the Nash policy is (0.3, 0.3, 0.4)."""
_MISSING = 0.1  # with which a missing symbol beats any other
_SYMBOLS = "abc"


class CyclicOracle(Oracle, name="cyclic"):
    """The mean over places of a table in which each of three symbols beats another; a missing symbol loses.

    Source: the project's own world of known truth; the table is that of a cyclic game as in Munos et al. 2023 (arXiv 2312.00886).
    """

    def prefers(self, samples: Samples, first: Tensor, second: Tensor) -> Tensor:
        texts = [str(row["response"]) for row in samples.rows]
        pairs = zip(first.tolist(), second.tolist(), strict=True)
        return torch.tensor([_preference(texts[a], texts[b]) for a, b in pairs], dtype=torch.float64)


class CyclicScore(Reward, name="cyclic-score"):
    """What a reward model would make of the cyclic preference: the Bradley–Terry scores of all pairs, each as often.

    Source: the project's own world of known truth; Bradley and Terry 1952.
    """

    maximum_tokens: int = Field(2, ge=1, le=4, description="longest response of the world")

    _scores: dict[str, float] = PrivateAttr(default_factory=dict)

    def __call__(self, samples: Samples) -> Tensor:
        if not self._scores:
            world = TokenWorld(len(_SYMBOLS), self.maximum_tokens)
            scores = functional.bradley_terry_scores(cyclic_preferences(world))
            self._scores = dict(zip(world.texts, scores.tolist(), strict=True))
        return torch.tensor([self._scores[row["response"]] for row in samples.rows])


def cyclic_preferences(world: TokenWorld) -> Tensor:
    """[Y, Y] float64: P(row's response beats column's) for all responses of a world of three symbols."""
    return torch.tensor([[_preference(a, b) for b in world.texts] for a in world.texts], dtype=torch.float64)


def _preference(first: str, second: str) -> float:
    places = [_symbol(a, b) for a, b in zip_longest(first.split(), second.split())]
    return sum(places) / len(places) if places else 0.5


def _symbol(first: str | None, second: str | None) -> float:
    if first is None or second is None:
        return _MISSING if first is None else 1 - _MISSING
    return CYCLE[_SYMBOLS.index(first)][_SYMBOLS.index(second)]
