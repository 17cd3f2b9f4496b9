"""A dialogue so small that all of it can be enumerated: a few turns of one symbol each, judged at the end.

Knows: a tiny language, the reward of every dialogue, the exact value of every policy, exact rounds of mirror descent.
Does not know: how policies are trained; the ordinary stages do that.

The policy says a, b or c; the user repeats it in a capital. The first symbol c is worth no more than others while later turns are
random, and is by far the best once they are learned, so whoever judges a first turn by another policy's later turns goes wrong.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from fairlead.batch import Samples
from fairlead.rewards import Reward
from fairlead.rollouts import Environment, Reply, Talk
from fairlead.rollouts.talk import talks_to_samples
from fairlead.runtime import ModelGroup
from fairlead.worlds.models import save_random_llama

__all__ = ["Echo", "TurnGame", "TurnGameReward"]

SYMBOLS = "abc"
PROMPT = "?"
MALFORMED = -1.0
"""Reward of a dialogue with a turn that is not one symbol, or with too few of them."""
_TOKENS = ("<end>", PROMPT, *SYMBOLS, *SYMBOLS.upper())
_FIRST_TURN = (0.5, 0.4, 0.1)
_PAIRS = ((1.0, 0.9, 0.8), (1.2, 1.0, 1.0), (0.0, 0.2, 3.0))


class TurnGame:
    """The game of two or three turns; in the third the symbol of the second must come again, or 1 is taken off."""

    def __init__(self, turns: int = 2) -> None:
        if turns not in (2, 3):
            raise ValueError(f"the game has 2 or 3 turns, got {turns}")
        self.turns = turns

    # -- exact ----------------------------------------------------------------------------------------------------------

    @property
    def rewards(self) -> Tensor:
        """[3, 3] or [3, 3, 3] float64: reward of each dialogue."""
        pairs = torch.tensor(_PAIRS, dtype=torch.float64)
        if self.turns == 2:
            return pairs
        return pairs[:, :, None] - (1 - torch.eye(3, dtype=torch.float64))

    @property
    def reference(self) -> list[Tensor]:
        """Log-probabilities of the reference, [3], [3, 3], …: what each turn says after what was said."""
        first = torch.tensor(_FIRST_TURN, dtype=torch.float64).log()
        later = [torch.full((3,) * turn, 1 / 3, dtype=torch.float64).log() for turn in range(2, self.turns + 1)]
        return [first, *later]

    def action_values(self, policy: Sequence[Tensor]) -> list[Tensor]:
        """Q of each turn, [3], [3, 3], …: the expected reward when the policy speaks in later turns."""
        found = [self.rewards]
        for of_turn in reversed(policy[1:]):
            found.append((of_turn.exp() * found[-1]).sum(-1))
        return found[::-1]

    def value(self, policy: Sequence[Tensor]) -> float:
        """The policy's expected reward."""
        return float((policy[0].exp() * self.action_values(policy)[0]).sum())

    def rounds(self, eta: float, count: int, learned: Literal["all", "last"] = "all") -> list[float]:
        """The value after each of `count` exact rounds π ← π exp(η Q) / Z from the reference, in all turns or in the last one."""
        policy, values = self.reference, []
        for _ in range(count):
            better = [
                torch.log_softmax(of_turn + eta * q, dim=-1)
                for of_turn, q in zip(policy, self.action_values(policy), strict=True)
            ]
            policy = better if learned == "all" else [*policy[:-1], better[-1]]
            values.append(self.value(policy))
        return values

    # -- as a language --------------------------------------------------------------------------------------------------

    def save_model(self, directory: Path, seed: int = 0) -> Path:
        """Write a tiny random Llama that knows the language's words, and return its directory."""
        return save_random_llama(directory, _TOKENS, hidden=32, heads=2, seed=seed)

    def save_demonstrations(self, path: Path, count: int, seed: int) -> Path:
        """Write dialogues of the reference as documents, from which a model learns to be the reference."""
        return _write(path, [{"text": " ".join(_words(symbols))} for symbols in self._drawn(count, seed)])

    def save_prompts(self, path: Path, count: int, seed: int) -> Path:
        """Write the prompt so often, each with the beginning of a dialogue of the reference in the column `history`."""
        rows = []
        for symbols in self._drawn(count, seed):
            turns = [[("assistant", symbol), ("user", symbol.upper())] for symbol in symbols[:-1]]
            history = [{"role": role, "content": content} for turn in turns for role, content in turn]
            rows.append({"prompt": PROMPT, "history": history})
        return _write(path, rows)

    def _drawn(self, count: int, seed: int) -> list[str]:
        generator = torch.Generator().manual_seed(seed)
        first = torch.multinomial(torch.tensor(_FIRST_TURN), count, replacement=True, generator=generator)
        later = torch.randint(3, (count, self.turns - 1), generator=generator)
        return ["".join(SYMBOLS[i] for i in row) for row in torch.cat((first[:, None], later), 1).tolist()]

    def probabilities(self, policy: ModelGroup) -> Tensor:
        """[3, 3] or [3, 3, 3] float64: probability of each well-formed dialogue; what is missing to 1 is malformed."""
        talks = []
        for symbols in itertools.product(SYMBOLS, repeat=self.turns):
            talk = Talk({"prompt": PROMPT}, 0, 0, [_TOKENS.index(PROMPT)])
            for number, symbol in enumerate(symbols):
                if number:
                    talk.listen([_TOKENS.index(symbols[number - 1].upper())], [])
                talk.speak([_TOKENS.index(symbol), 0], [0.0, 0.0], [0.0, 0.0], symbol)
            talks.append(talk)
        logprobs = policy.token_logprobs(talks_to_samples(talks, 0)).double().sum(1)
        return logprobs.exp().reshape((3,) * self.turns)

    def value_of(self, policy: ModelGroup) -> float:
        """The exact expected reward of a model."""
        probabilities = self.probabilities(policy)
        return float((probabilities * self.rewards).sum() + MALFORMED * (1 - probabilities.sum()))


class TurnGameReward(Reward, name="turn-game"):
    """The reward of a dialogue of the turn game, judged as a whole.

    Source: the project's own world of known truth.
    """

    turns: int = Field(2, ge=2, le=3, description="turns of the game")

    def __call__(self, samples: Samples) -> Tensor:
        rewards = TurnGame(self.turns).rewards
        return torch.tensor([_reward(row["response_turns"], rewards) for row in samples.rows], dtype=torch.float32)


class Echo(Environment, name="echo"):
    """A user who says in capitals what the policy has just said.

    Source: the project's own world of known truth.
    """

    def __call__(self, talks: Sequence[Talk]) -> list[Reply]:
        return [[{"role": "user", "content": talk.turns[-1]["content"].upper()}] for talk in talks]


def _reward(turns: list[Any], rewards: Tensor) -> float:
    said = [turn["content"] for turn in turns if turn["role"] == "assistant"]
    if len(said) != rewards.dim() or any(symbol not in tuple(SYMBOLS) for symbol in said):
        return MALFORMED
    return float(rewards[tuple(SYMBOLS.index(symbol) for symbol in said)])


def _words(symbols: str) -> list[str]:
    """A dialogue as words; the end of its last turn is written by the tokenizer."""
    words = [PROMPT]
    for symbol in symbols:
        words += [symbol, "<end>", symbol.upper()]
    return words[:-2]


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
