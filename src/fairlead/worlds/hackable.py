"""A token world whose reward can be hacked: answers that break a rule score better than they are.

Knows: the token world, which of its responses are feasible, what a reward model sees and what is true.
Does not know: how policies are trained.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from fairlead.batch import Samples
from fairlead.worlds.figures import TokenWorldReward
from fairlead.worlds.token_world import TokenWorld

__all__ = ["HackableWorldReward", "hackable"]

_FEASIBLE, _VIOLATION = 0.6, -3.0


class HackableWorldReward(TokenWorldReward, name="token-world-hackable"):
    """What a reward model sees of a world with a rule, or whether the rule is kept.

    A share of 0.6 of the responses to each prompt is feasible. The reward model sees the quality, an offset that differs between prompts,
    and a bonus for every violation.

    Source: the project's own world of known truth, after reward hacking as CGPO describes it (arXiv 2409.20370).
    """

    tells: Literal["reward", "feasible"] = Field("reward", description="the flawed reward, or 1 where the rule is kept")
    bonus: float = Field(2.5, description="added to the reward of a violation")
    offset: float = Field(4.0, ge=0, description="standard deviation of the offset of a prompt")

    def __call__(self, samples: Samples) -> Tensor:
        reward, feasible, _ = hackable(self.world, self.bonus, self.offset)
        table = reward if self.tells == "reward" else feasible.double()
        places = [(self.world.prompts.index(row["prompt"]), self.world.place[row["response"]]) for row in samples.rows]
        return torch.stack([table[place] for place in places]).float()


def hackable(world: TokenWorld, bonus: float = 2.5, offset: float = 4.0) -> tuple[Tensor, Tensor, Tensor]:
    """[X, Y] each: the reward that a model sees, whether a response is feasible (bool), and what it is truly worth.

    The truth is the world's reward where the rule is kept and −3 where it is not.
    """
    generator = torch.Generator().manual_seed(world.seed)
    feasible = torch.rand(world.rewards.shape, generator=generator) < _FEASIBLE
    offsets = offset * torch.randn(len(world.prompts), 1, generator=generator, dtype=torch.float64)
    seen = world.rewards + offsets + bonus * (~feasible)
    return seen, feasible, torch.where(feasible, world.rewards, _VIOLATION)
