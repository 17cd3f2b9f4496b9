"""The rows of the speed table: what one step of each has to do.

Knows: sizes of the work, and the stage of a recipe that does it.
Does not know: clocks, the machine, other frameworks.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fairlead.models import ModelSpec, load_tokenizer

__all__ = ["ROWS", "Row", "Work", "write_prompts"]

Kind = Literal["grpo", "ppo", "dpo", "reward", "sft"]
_LEARNING_RATE = 1e-6  # so small that the models, and with them the lengths, stay what they are over the steps


@dataclass(frozen=True)
class Row:
    """One row. The first three numbers are rows of a step: prompts and samples of each, or examples."""

    name: str
    kind: Kind
    about: str
    prompts: int
    samples: int = 1
    prompt_tokens: int = 0
    maximum_tokens: int = 0
    mean_length: float | None = None
    """Mean of the geometric distribution of lengths before it is cut at `maximum_tokens`; None: all of full length."""
    epochs: int = 1
    kl: float = 0.0
    maximum_length: int = 512
    """Longest example of real data, tokens."""

    @property
    def online(self) -> bool:
        """Whether the row samples."""
        return self.kind in ("grpo", "ppo")

    @property
    def sequences(self) -> int:
        """Sequences that a step trains on."""
        return self.prompts * (self.samples if self.online else 1 if self.kind == "sft" else 2)

    @property
    def scoring_passes(self) -> int:
        """Forward passes over every sequence before the update: old policy, reference, critic and reward model."""
        return {"grpo": 1 + (self.kl > 0), "ppo": 4, "dpo": 1}.get(self.kind, 0)

    @property
    def training_passes(self) -> int:
        """Forward and backward passes over every sequence, of any model."""
        return self.epochs * (2 if self.kind == "ppo" else 1)


ROWS = {
    row.name: row
    for row in (
        Row(
            name="grpo-full",
            kind="grpo",
            about="GRPO step, 8 prompts × 8 samples, 32 + 64 tokens, all of full length",
            prompts=8,
            samples=8,
            prompt_tokens=32,
            maximum_tokens=64,
            kl=0.04,
        ),
        Row(
            name="grpo-natural",
            kind="grpo",
            about="GRPO step, 16 prompts × 8 samples, 128 + lengths around 64, at most 256",
            prompts=16,
            samples=8,
            prompt_tokens=128,
            maximum_tokens=256,
            mean_length=64,
            kl=0.04,
        ),
        Row(
            name="ppo-natural",
            kind="ppo",
            about="PPO step with critic, reference and reward model, 64 prompts, 128 + lengths around 64, at most 256",
            prompts=64,
            prompt_tokens=128,
            maximum_tokens=256,
            mean_length=64,
            kl=0.05,
        ),
        Row(name="dpo", kind="dpo", about="DPO step, 32 ragged pairs", prompts=32),
        Row(name="reward", kind="reward", about="reward-model step, 32 ragged pairs", prompts=32),
        Row(name="sft", kind="sft", about="supervised step, 32 ragged conversations", prompts=32),
    )
}
"""Name → row. Every sequence is learned from once; the online rows have a KL term, so that a reference is needed."""


@dataclass(frozen=True)
class Work:
    """What a row works on."""

    model: str
    """Path of the model."""
    data: str
    """Prompts for the online rows, pairs or conversations for the others; a path as recipes take it."""
    scalar_model: str | None = None
    """Reward model and critic; None: the model with a new head."""
    packed_rows: int | None = None
    """Supervised rows: so many packed rows of `maximum_length` in a step; None: one conversation a row."""
    chosen: bool = False
    """Supervised rows: the data are pairs, whose chosen response is learned."""

    @property
    def conversations(self) -> dict[str, Any]:
        """The data of a supervised row."""
        return {"path": self.data} | ({"rename": {"chosen": "response"}} if self.chosen else {})

    def stage(self, row: Row, steps: int) -> dict[str, Any]:
        """The stage of a recipe that takes `steps` steps of `row`."""
        optimiser = {"learning_rate": _LEARNING_RATE}
        shared = {"model": self.model, "optimiser": optimiser, "steps": steps, "save_every": 0}
        if not row.online:
            return shared | self._offline(row, steps)
        # The end token of the models made for a row decides alone; any other model is kept from ending early here.
        minimum = 0 if row.mean_length is not None else row.maximum_tokens
        sampling = {"maximum_tokens": row.maximum_tokens, "minimum_tokens": minimum}
        online = {
            "part": "online",
            "prompts": self.data,
            "batch_size": row.prompts,
            "maximum_prompt": row.prompt_tokens,
            "epochs": row.epochs,
            # One pass over each rollout: the policy that sampled is the one that learns.
            "old_logprobs": "sampler",
            "rollout": {"part": "sample", "n": row.samples, "sampling": sampling},
        }
        if row.kind == "grpo":
            method: dict[str, Any] = {
                "rewards": {"repetition": {"part": "repetition", "n": 1}},
                "regulariser": {"part": "kl", "coefficient": row.kl, "place": "loss"},
                "credit": {"part": "group-relative", "epsilon": 1e-4},
            }
        else:
            scalar = self.scalar_model or self.model
            method = {
                "rewards": {"reward": {"part": "model", "model": scalar}},
                "critic": scalar,
                "regulariser": {"part": "kl", "coefficient": row.kl},
                "credit": {"part": "gae", "lam": 0.95},
            }
        return shared | online | method

    def _offline(self, row: Row, steps: int) -> dict[str, Any]:
        if row.kind == "sft":
            return {
                "part": "sft",
                "data": self.conversations,
                "learn": "last",
                "packed": self.packed_rows is not None,
                "maximum_length": row.maximum_length,
                "batch_size": self.packed_rows or row.prompts,
                "validate_every": steps + 1,
            }
        part = {"dpo": "preference", "reward": "reward"}[row.kind]
        return {"part": part, "data": self.data, "batch_size": row.prompts, "validate_every": steps + 1}


def write_prompts(path: Path, model: str, tokens: int, count: int, seed: int = 0) -> str:
    """Write `count` prompts of `tokens` tokens (or a few more, for tokenizers that join words) made of random tokens."""
    tokenizer = load_tokenizer(ModelSpec(path=model))
    special = set(tokenizer.all_special_ids)
    ordinary = sorted(index for index in tokenizer.get_vocab().values() if index not in special)
    choice = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            ids = choice.choices(ordinary, k=tokens)
            while len(tokenizer.encode(text := tokenizer.decode(ids), add_special_tokens=False)) < tokens:
                ids += choice.choices(ordinary, k=tokens)
            file.write(json.dumps({"prompt": text}, ensure_ascii=False) + "\n")
    return str(path)
