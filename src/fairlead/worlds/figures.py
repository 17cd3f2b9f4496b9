"""What a recipe may name of a token world: its reward, and the distance of a policy from the exact optimum.

Knows: the token world, the slots reward and diagnostic.
Does not know: how policies are trained.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated

import torch
from pydantic import BeforeValidator, Field, PrivateAttr
from torch import Tensor

from fairlead.batch import Experience, Samples
from fairlead.diagnostics import Diagnostic
from fairlead.models import ModelSpec
from fairlead.rewards import Reward
from fairlead.runtime import ModelGroup, Opener
from fairlead.worlds.token_world import TokenWorld

__all__ = ["ExactGap", "TokenWorldReward", "UnsureReward", "exact_figures"]


class TokenWorldReward(Reward, name="token-world"):
    """The exact reward of a token world.

    Source: the project's own world of known truth.
    """

    symbols: int = Field(4, ge=1, le=12, description="symbols of the world")
    maximum_tokens: int = Field(4, ge=1, le=6, description="longest response")
    prompts: int = Field(3, ge=1, description="prompts of the world")
    reward_scale: float = Field(1.0, gt=0, description="standard deviation of the rewards over all responses")
    seed: int = Field(0, ge=0, description="seed of the world")
    early: int | None = Field(
        None,
        ge=1,
        description="tokens of the beginning that bear on the reward; null: all, and where the response ends",
    )
    levels: float = Field(
        0.0,
        ge=0,
        description="standard deviation of a level that is added to all rewards of a prompt; it changes no optimum",
    )

    _world: TokenWorld | None = PrivateAttr(None)

    @classmethod
    def of(cls, world: TokenWorld, levels: float = 0.0) -> TokenWorldReward:
        """The reward of a given world."""
        return cls(
            symbols=len(world.symbols),
            maximum_tokens=world.maximum_tokens,
            prompts=len(world.prompts),
            reward_scale=world.reward_scale,
            seed=world.seed,
            early=world.early,
            levels=levels,
        )

    @property
    def world(self) -> TokenWorld:
        """The world that the fields describe."""
        if self._world is None:
            self._world = TokenWorld(
                self.symbols, self.maximum_tokens, self.prompts, self.reward_scale, self.seed, self.early
            )
        return self._world

    @cached_property
    def level(self) -> Tensor:
        """[X] float64: the level of each prompt."""
        generator = torch.Generator().manual_seed(self.seed)
        return self.levels * torch.randn(self.prompts, generator=generator, dtype=torch.float64)

    def __call__(self, samples: Samples) -> Tensor:
        rewards = [
            self.world.reward(row["prompt"], row["response"])
            + float(self.level[self.world.prompts.index(row["prompt"])])
            for row in samples.rows
        ]
        return torch.tensor(rewards, dtype=torch.float32)


class UnsureReward(TokenWorldReward, name="token-world-unsure"):
    """The reward of a token world as a reward model sees it: sure of what is clearly good or bad, noise in between.

    Source: the synthetic reward that stands for the finding of PF-PPO (arXiv 2409.06957, section 3).
    """

    clear: float = Field(
        1.0, gt=0, description="a true reward further from 0 than this is seen as ±2, with little noise"
    )
    noise: float = Field(1.2, gt=0, description="standard deviation of what is seen of all others")

    def __call__(self, samples: Samples) -> Tensor:
        truth = super().__call__(samples)
        drawn = torch.randn(truth.shape)
        return torch.where(truth.abs() > self.clear, 2 * truth.sign() + 0.3 * drawn, self.noise * drawn)


class ExactGap(Diagnostic, name="token-world"):
    """Distance of a policy from the exact regularised optimum of a token world.

    Source: the optimum is eq. 4 of Rafailov et al. 2023 (arXiv 2305.18290).
    """

    reference: Annotated[ModelSpec, BeforeValidator(ModelSpec.coerce)] = Field(description="the reference policy")
    world: TokenWorldReward = Field(default_factory=TokenWorldReward, description="the world")
    beta: float = Field(0.1, gt=0, description="weight of the KL in the exact objective")

    _log_reference: Tensor | None = PrivateAttr(None)

    def open(self, run: Opener, name: str) -> None:
        self._log_reference = self.world.world.log_distribution(run.open(name, self.reference))

    def __call__(self, policy: ModelGroup, experience: Experience) -> dict[str, float]:
        assert self._log_reference is not None, "open the diagnostic before it is asked"
        world = self.world.world
        return exact_figures(world, world.log_distribution(policy), self._log_reference, self.beta)


def exact_figures(world: TokenWorld, log_policy: Tensor, log_reference: Tensor, beta: float) -> dict[str, float]:
    """Total variation to π*, gap of the exact objective (absolute and as a share of the gap at the start), reward, KL, entropy.

    log_policy, log_reference: [X, Y].
    """
    optimum = world.optimum(log_reference, beta)
    best = world.objective(optimum, log_reference, beta)
    start = world.objective(log_reference, log_reference, beta)
    reached = world.objective(log_policy, log_reference, beta)
    return {
        "total_variation": world.total_variation(log_policy, optimum),
        "gap": best - reached,
        "relative_gap": (best - reached) / (best - start),
        "reward": float((log_policy.exp() * world.rewards).sum(-1).mean()),
        "kl": float(world.divergence(log_policy, log_reference).mean()),
        "entropy": world.entropy(log_policy),
    }
