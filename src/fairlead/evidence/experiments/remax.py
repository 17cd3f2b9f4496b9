"""ReMax: how far it gets with as many rollouts, and the exact variance of its gradient.

Knows: the token world, gradients of single responses.
Does not know: how figures become a verdict.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from fairlead.evidence.base import Better, Measurement, Rule
from fairlead.evidence.experiments.online_baselines import BETA, PLAIN, OnlineExperiment, laboratory
from fairlead.evidence.experiments.rloo import response_gradients
from fairlead.evidence.laboratory import Laboratory
from fairlead.worlds import TokenWorld

__all__ = ["ReMaxExperiment", "greedy_responses", "noise_of_a_baseline"]

_LENGTH = 3


class ReMaxExperiment(OnlineExperiment, name="remax"):
    """ReMax against the policy gradient without baseline: distance to the optimum, and exact noise of the gradient.

    Source: Li et al. 2023 (arXiv 2310.10505), section 4.
    """

    claim: ClassVar[str] = (
        "The greedy response's reward is a baseline that lowers the variance of REINFORCE without bias"
    )
    experiment: ClassVar[str] = (
        OnlineExperiment.experiment
        + " ReMax draws 3 samples and the greedy response. gradient_noise is the exact total variance of one sample's gradient over "
        "the squared norm of its expectation, all 85 gradients enumerated, summed over prompts, at a policy trained for 20 rollouts; "
        "gradient_noise_best the same with the exact value as baseline. relative_gap_released is that of the released form (one-step "
        "KL, gamma 0.99)."
    )
    rules: ClassVar[tuple[Rule, ...]] = (Better("relative_gap", 0.9, except_for=1), Better("gradient_noise", 0.9))
    recipe: ClassVar[dict[str, Any]] = {
        "credit": "remax",
        "objective": "reinforce",
        "rollout": {"part": "greedy-baseline", "n": 3, "sampling": {"maximum_tokens": _LENGTH}},
    }
    remarks: ClassVar[str] = (
        "It learns better than no baseline, yet not because its gradient is quieter at the policy measured: the greedy response "
        "scores far above the average one in this world, so that its reward is too high a baseline by about as much as none is too "
        "low, and the KL of the return has no baseline at all. The exact value would cut the noise by more than ten. The released "
        "form stops further from the optimum: its tokens do not pay for the KL of later ones."
    )

    def measure(self, seed: int, folder: Path) -> Measurement:
        lab = laboratory(seed, folder)
        half = lab.run(
            lab.online(20, 24, 4, 5e-3, credit="rloo", regulariser={"part": "kl", "coefficient": BETA}), seed
        )
        released = self.recipe | {"credit": {"part": "remax", "kl": "one-step", "gamma": 0.99}}
        ours, theirs = self.train(lab, seed, self.recipe), self.train(lab, seed, PLAIN)
        ours["relative_gap_released"] = self.train(lab, seed, released)["relative_gap"]
        noise = _noises(lab, half.model)
        ours |= {"gradient_noise": noise["greedy"], "gradient_noise_best": noise["value"]}
        return Measurement(ours, theirs | {"gradient_noise": noise["none"]})


def _noises(lab: Laboratory, model: Path) -> dict[str, float]:
    """Noise of the gradient of the regularised return, by baseline; the KL counts as reward, and has no baseline of its own."""
    world = lab.world
    group = lab.open(model)
    log_policy = world.log_distribution(group)
    returns = world.rewards - BETA * (log_policy - lab.log_reference)
    greedy = greedy_responses(world, world.conditionals(group))
    gradients = response_gradients(world, model)
    baselines = {
        "none": torch.zeros(len(world.prompts), 1, dtype=torch.float64),
        "greedy": world.rewards.gather(1, greedy[:, None]),
        "value": (log_policy.exp() * returns).sum(-1, keepdim=True),
    }
    return {
        name: noise_of_a_baseline(log_policy.exp(), returns - baseline, gradients)
        for name, baseline in baselines.items()
    }


def noise_of_a_baseline(policy: Tensor, advantages: Tensor, gradients: Tensor) -> float:
    """Σ_x tr Cov[A(y) ∇ log π(y)] / Σ_x ‖E[A(y) ∇ log π(y)]‖².

    policy, advantages: [X, Y]; gradients: [X, Y, parameters].
    """
    squares = (policy * advantages.square() * gradients.square().sum(-1)).sum(-1)
    signal = torch.einsum("xy,xyp->xp", policy * advantages, gradients).square().sum(-1)
    return float((squares - signal).sum() / signal.sum())


def greedy_responses(world: TokenWorld, table: Tensor) -> Tensor:
    """[X]: number of the response that takes the likeliest token every time, from the table [X, N, V]."""
    per_token = world.token_logprobs(table)
    best = world.token_logprobs(table.max(-1, keepdim=True).values.expand_as(table))
    return (per_token == best).all(-1).int().argmax(-1)
