"""Drills: three domains of short tasks, named by the first word of the prompt, that one small network learns one after the other.

Knows: a tiny Hugging Face model and tokenizer, tasks with more or less right demonstrations, the reward of a response.
Does not know: how policies are trained, in which order.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from fairlead.batch import Samples
from fairlead.rewards import Reward
from fairlead.worlds.models import save_random_llama

__all__ = ["DrillReward", "Drills"]

_END, _LENGTH = "<end>", 6


class Drills:
    """Tasks with two digits a and b: `repeat` a, `add` repeats their sum, `count` counts up from b; all modulo `base`."""

    domains = ("repeat", "add", "count")
    longest = _LENGTH + 1
    """Tokens of a response with its end."""

    def __init__(self, base: int = 5, seed: int = 0) -> None:
        self.base, self.seed = base, seed

    def save_model(self, directory: Path) -> Path:
        """Write a random model and its tokenizer."""
        words = (_END, *self.domains, *map(str, range(self.base)))
        return save_random_llama(directory, words, hidden=64, heads=4, seed=self.seed)

    def save_tasks(self, path: Path, copies: int = 1, right: float = 1.0) -> Path:
        """Write every task `copies` times as JSONL, with its domain as `kind` and a response.

        A token of a response is right with probability `right`, and else any digit.
        """
        generator = random.Random(self.seed)
        rows = []
        for _ in range(copies):
            for domain in self.domains:
                for a in range(self.base):
                    for b in range(self.base):
                        prompt = f"{domain} {a} {b}"
                        words = [
                            word if generator.random() < right else str(generator.randrange(self.base))
                            for word in _answer(prompt, self.base)
                        ]
                        rows.append({"kind": domain, "prompt": prompt, "response": " ".join(words)})
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path


def _answer(prompt: str, base: int) -> list[str]:
    domain, a, b = prompt.split()
    first, step = {"repeat": (int(a), 0), "add": (int(a) + int(b), 0), "count": (int(b), 1)}[domain]
    return [str((first + step * place) % base) for place in range(_LENGTH)]


class DrillReward(Reward, name="drill"):
    """Share of the tokens of the right answer that stand in their places; tokens behind its length count as wrong ones.

    Source: the project's own world of known truth.
    """

    base: int = Field(5, ge=2, le=10, description="digits of the world")

    def __call__(self, samples: Samples) -> Tensor:
        return torch.tensor([self._one(row["prompt"], row["response"].split()) for row in samples.rows])

    def _one(self, prompt: str, words: list[str]) -> float:
        right = sum(a == b for a, b in zip(words, _answer(prompt, self.base), strict=False))
        return right / max(len(words), _LENGTH)
