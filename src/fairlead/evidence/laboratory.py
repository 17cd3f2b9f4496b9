"""A token world on the disk, and one stage after another in it.

Knows: how a stage is run as any recipe is, and how far its policy then is from the exact optimum.
Does not know: what is compared with what.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairlead.models import ModelSpec
from fairlead.recipes.execute import execute, new_directory
from fairlead.recipes.schema import Recipe
from fairlead.runs import read_json, read_json_lines
from fairlead.runtime import GroupSpec, ModelGroup, RuntimeSpec, open_group
from fairlead.worlds import TokenWorld, TokenWorldReward, exact_figures

__all__ = ["Laboratory", "Outcome"]


class Outcome:
    """What a finished stage left behind."""

    def __init__(self, laboratory: Laboratory, directory: Path, stage: str) -> None:
        self._laboratory = laboratory
        self.directory = directory
        self.stage = stage

    @property
    def model(self) -> Path:
        """The model's directory."""
        return self.directory / "stages" / self.stage / "model"

    @property
    def result(self) -> dict[str, Any]:
        """What the stage found out."""
        return read_json(self.directory / "stages" / self.stage / "result.json")  # type: ignore[no-any-return]

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """What it logged, a row a step."""
        return [row for row in read_json_lines(self.directory / "metrics.jsonl") if row["stage"] == self.stage]

    @cached_property
    def log_policy(self) -> Tensor:
        """[X, Y]: the exact log-probabilities of the policy that was made."""
        return self._laboratory.world.log_distribution(self._laboratory.open(self.model))

    def figures(self, beta: float) -> dict[str, float]:
        """Distance from the exact optimum, as `exact_figures` measures it."""
        return exact_figures(self._laboratory.world, self.log_policy, self._laboratory.log_reference, beta)


class Laboratory:
    """A world with its reference policy and prompts in a folder, where stages can be run."""

    def __init__(self, world: TokenWorld, folder: Path, *, spread: float = 0.12) -> None:
        self.world = world
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.reference = world.save_model(folder / "reference", spread=spread)
        self.prompts = world.save_prompts(folder / "prompts.jsonl")

    @cached_property
    def log_reference(self) -> Tensor:
        """[X, Y]: log-probabilities of the reference policy."""
        return self.world.log_distribution(self.open(self.reference))

    def open(self, model: Path, kind: Any = "causal") -> ModelGroup:
        """A model to ask, not to train."""
        return open_group(GroupSpec(role="asked", model=ModelSpec(path=str(model)), kind=kind), RuntimeSpec(threads=1))

    def demonstrations(self, log_distribution: Tensor, count: int, seed: int) -> Path:
        """A file of `count` responses drawn from a distribution, [X, Y], whose prompts take turns; none is empty."""
        generator = torch.Generator().manual_seed(seed)
        distribution = self.world.without_empty(log_distribution).exp()
        prompts = [index % len(self.world.prompts) for index in range(count)]
        drawn = torch.multinomial(distribution[prompts], 1, generator=generator).squeeze(1).tolist()
        path = self.folder / f"demonstrations-{len(list(self.folder.glob('demonstrations-*')))}.jsonl"
        rows = [
            {"prompt": self.world.prompts[x], "response": self.world.texts[y]}
            for x, y in zip(prompts, drawn, strict=True)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    def pairs(self, count: int, seed: int) -> Path:
        """A file of preference pairs drawn from the reference policy."""
        path = self.folder / f"pairs-{count}-{seed}.jsonl"
        return path if path.exists() else self.world.save_pairs(path, self.log_reference, count, seed)

    def run(self, stage: Mapping[str, Any], seed: int = 0, name: str = "run") -> Outcome:
        """Run one stage, beginning from the reference policy, as a recipe of its own."""
        identifier = str(stage["part"])
        return self.run_all({identifier: {"model": str(self.reference), **stage}}, seed, name)[identifier]

    def run_all(self, stages: Mapping[str, Mapping[str, Any]], seed: int = 0, name: str = "run") -> dict[str, Outcome]:
        """Run several stages as one recipe, in which later ones may begin from `stage:ID`."""
        recipe = Recipe.model_validate(
            {
                "name": name,
                "seed": seed,
                "runtime": {"threads": 1},
                "stages": {identifier: {"save_every": 0, **stage} for identifier, stage in stages.items()},
            }
        )
        directory = new_directory(self.folder, name)
        execute(recipe, directory, quiet=True)
        return {identifier: Outcome(self, directory, identifier) for identifier in stages}

    def online(
        self, steps: int, batch_size: int = 48, n: int = 4, rate: float = 3e-3, **changes: Any
    ) -> dict[str, Any]:
        """An online stage in this world: `batch_size` prompts a rollout, `n` samples each."""
        return {
            "part": "online",
            "prompts": str(self.prompts),
            "rewards": {"true": TokenWorldReward.of(self.world).model_dump()},
            "rollout": {"part": "sample", "n": n, "sampling": {"maximum_tokens": self.world.maximum_tokens}},
            "steps": steps,
            "batch_size": batch_size,
            "optimiser": {"learning_rate": rate, "schedule": "linear", "floor": 0.05},
            **changes,
        }

    def from_pairs(
        self, part: str, pairs: Path, batch_size: int = 128, rate: float = 3e-3, **changes: Any
    ) -> dict[str, Any]:
        """A stage that learns from pairs, once through them; responses keep the length limit of the world."""
        return {
            "part": part,
            "data": str(pairs),
            "batch_size": batch_size,
            # The limit also cuts off the end token that a response at the limit never had.
            "maximum_response": self.world.maximum_tokens,
            "optimiser": {"learning_rate": rate, "schedule": "linear", "floor": 0.05},
            **changes,
        }

    def shortfall(self, log_policy: Tensor) -> float:
        """The largest true reward less the policy's, [X, Y], mean over prompts."""
        reward = (log_policy.exp() * self.world.rewards).sum(-1)
        return float((self.world.rewards.max(-1).values - reward).mean())

    @staticmethod
    def function_reward(function: str, weight: float) -> dict[str, Any]:
        """A reward by `module:function` of this package, whose first call imports all of it in a process of its own."""
        return {"part": "function", "function": function, "weight": weight, "workers": 1, "timeout": 300.0}
