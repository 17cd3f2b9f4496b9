"""Digit sums: questions that a small network cannot answer at once, and can answer when it writes down partial sums first.

Knows: a tiny Hugging Face model and tokenizer, questions with more or less right demonstrations, the reward of an answer.
Does not know: how policies are trained.
"""

from __future__ import annotations

import json
import random
from itertools import accumulate
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from fairlead.batch import Samples
from fairlead.checks.texts import NO_ANSWER
from fairlead.rewards import Reward
from fairlead.worlds.models import save_random_llama

__all__ = ["DigitSumReward", "DigitSums"]

_END, _THINK, _ANSWER = "<end>", "<think>", "</think>"


class DigitSums:
    """Sums of `digits` digits modulo `base`; a thought is the row of partial sums."""

    def __init__(self, digits: int = 5, base: int = 5, seed: int = 0) -> None:
        self.digits, self.base, self.seed = digits, base, seed
        self.longest = digits + 4
        """Tokens of a response with a thought, both markers, the answer and the end."""

    def save_model(self, directory: Path) -> Path:
        """Write a random model and its tokenizer."""
        words = (_END, _THINK, _ANSWER, *map(str, range(self.base)))
        return save_random_llama(directory, words, hidden=64, heads=4, context=64, seed=self.seed)

    def save_demonstrations(self, path: Path, count: int, thinks: bool, wrong: float) -> Path:
        """Write prompts with responses as JSONL; a share of thoughts, and one of answers, is random.

        The twins with and without thoughts have the same prompts and the same answers.
        """
        generator = random.Random(self.seed)
        rows = []
        for _ in range(count):
            prompt = [generator.randrange(self.base) for _ in range(self.digits)]
            noise = [generator.randrange(self.base) for _ in range(self.digits + 1)]
            sums = [total % self.base for total in accumulate(prompt)]
            answer = noise[-1] if generator.random() < wrong else sums[-1]
            thought = noise[:-1] if generator.random() < wrong else sums
            words = [_THINK, *thought, _ANSWER, answer] if thinks else [answer]
            rows.append({"prompt": " ".join(map(str, prompt)), "response": " ".join(map(str, words))})
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path


class DigitSumReward(Reward, name="digit-sum"):
    """1 less half the distance around the circle of digits between the answer and the sum of the prompt's digits.

    An answer that is not one digit has −0.5, and one that is not there −1. Random digits to base 5 have 0.4.

    Source: the project's own world of known truth.
    """

    base: int = Field(5, ge=2, le=10, description="sums are taken modulo this")

    def __call__(self, samples: Samples) -> Tensor:
        return torch.tensor([self._one(row["prompt"], row["response"]) for row in samples.rows])

    def _one(self, prompt: str, answer: str) -> float:
        if answer == NO_ANSWER:
            return -1.0
        if len(answer) != 1 or not answer.isdigit():
            return -0.5
        apart = (int(answer) - sum(map(int, prompt.split()))) % self.base
        return 1 - min(apart, self.base - apart) / 2
