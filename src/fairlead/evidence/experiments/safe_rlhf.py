"""The Lagrangian of Safe-RLHF: whether dual ascent finds the optimum under a limit.

Knows: a reward and a cost of two token worlds, and the exact optimum of the one within a limit on the other.
Does not know: how figures become a verdict.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from fairlead.evidence.base import AtMost, Better, Experiment, Measurement, Rule
from fairlead.evidence.experiments.online_baselines import laboratory
from fairlead.evidence.laboratory import Laboratory
from fairlead.worlds import TokenWorldReward

__all__ = ["SafeRLHF", "constrained_optimum"]

_BETA, _LIMIT, _STEPS = 0.3, -0.5, 60
_ANOTHER_WORLD = 1000
_LARGEST = 100.0


class SafeRLHF(Experiment, name="safe-rlhf"):
    """PPO with a multiplier that is learned against PPO with a fixed penalty of weight 1.

    Source: Dai et al. 2023 (Safe RLHF, arXiv 2310.12773), section 3.3.
    """

    claim: ClassVar[str] = (
        "A multiplier found by dual ascent keeps the mean cost at its limit and ends near the optimum under it"
    )
    experiment: ClassVar[str] = (
        "Token world of 85 responses to 3 prompts (4 symbols, 3 tokens; another for every seed); the cost is the reward of a second "
        f"world, and its mean must not exceed {_LIMIT:g} (its deviation over responses is 1). {_STEPS} rollouts of 24 prompts with 4 samples, "
        f"k1 in the reward with β = {_BETA:g}, AdamW at 5e-3 falling linearly, dual ascent on the logarithm at 0.2 from 1, a critic for reward "
        "and one for cost. total_variation is the distance to the exact optimum under the limit, π_ref · exp((r − λc) / β) with λ found by "
        "bisection; violation by how much the exact mean cost exceeds the limit; the figures ending in free are those of PPO "
        "without any constraint."
    )
    baseline: ClassVar[str] = "the same with the multiplier fixed at 1"
    rules: ClassVar[tuple[Rule, ...]] = (
        Better("total_variation", 0.9, except_for=1),
        AtMost("violation", 0.15),
    )

    def measure(self, seed: int, folder: Path) -> Measurement:
        lab = laboratory(seed, folder)
        cost = TokenWorldReward.of(lab.world).model_copy(update={"seed": seed + _ANOTHER_WORLD, "weight": 0.0})
        optimum, multiplier = constrained_optimum(lab.log_reference, lab.world.rewards, cost.world.rewards)
        found = {}
        for name, changes in {"learned": {"rate": 0.2}, "fixed": {"rate": 0.0}, "free": None}.items():
            policy = self._train(lab, seed, cost, changes)
            mean_cost = float((policy.exp() * cost.world.rewards).sum(-1).mean())
            found[name] = {
                "total_variation": lab.world.total_variation(policy, optimum),
                "violation": max(0.0, mean_cost - _LIMIT),
                "reward": float((policy.exp() * lab.world.rewards).sum(-1).mean()),
            }
        free = {f"{key}_free": value for key, value in found["free"].items()}
        return Measurement(found["learned"] | free | {"exact_multiplier": multiplier}, found["fixed"])

    def _train(self, lab: Laboratory, seed: int, cost: TokenWorldReward, changes: dict[str, Any] | None) -> Tensor:
        constraint = {"channel": "cost", "limit": _LIMIT, "kl": "reward"}
        stage = lab.online(
            _STEPS,
            24,
            4,
            5e-3,
            regulariser={"part": "kl", "coefficient": _BETA},
            credit="gae",
            constraints={} if changes is None else {"cost": constraint | changes},
        )
        stage["rewards"]["cost"] = cost.model_dump()
        return lab.run(stage, seed).log_policy


def constrained_optimum(log_reference: Tensor, rewards: Tensor, costs: Tensor) -> tuple[Tensor, float]:
    """[X, Y] log π of the largest E[r] − β KL whose mean cost is at most the limit, and its multiplier.

    The mean cost falls as λ rises, so the smallest λ that keeps the limit is found by bisection.
    """

    def policy(multiplier: float) -> Tensor:
        return torch.log_softmax(log_reference + (rewards - multiplier * costs) / _BETA, dim=-1)

    low, high = 0.0, _LARGEST
    if float((policy(low).exp() * costs).sum(-1).mean()) <= _LIMIT:
        return policy(low), low
    for _ in range(60):
        middle = (low + high) / 2
        kept = float((policy(middle).exp() * costs).sum(-1).mean()) <= _LIMIT
        low, high = (low, middle) if kept else (middle, high)
    return policy(high), high
