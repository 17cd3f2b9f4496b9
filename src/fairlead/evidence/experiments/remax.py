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
from fairlead.worlds import TokenWorld, TokenWorldReward

__all__ = ["ReMaxExperiment", "greedy_responses", "noise_of_a_baseline"]

_LENGTH, _LEVELS = 3, 3.0


class ReMaxExperiment(OnlineExperiment, name="remax"):
    """ReMax against the policy gradient without baseline: distance to the optimum, and exact noise of the gradient.

    Source: Li et al. 2023 (arXiv 2310.10505), section 4.
    """

    claim: ClassVar[str] = (
        "The greedy response's reward is a baseline that lowers the variance of REINFORCE without bias"
    )
    experiment: ClassVar[str] = (
        OnlineExperiment.experiment
        + f" To the rewards of each prompt a level is added, drawn with deviation {_LEVELS:g}, which no optimum depends on. ReMax draws 3 "
        "samples and the greedy response. gradient_noise is the exact total variance of one sample's gradient over "
        "the squared norm of its expectation, all 85 gradients enumerated, summed over prompts, at a policy trained for 20 rollouts; "
        "gradient_noise_best the same with the exact value as baseline, gradient_noise_even without levels. relative_gap_released is that of the released form (one-step "
        "KL, gamma 0.99)."
    )
    rules: ClassVar[tuple[Rule, ...]] = (Better("relative_gap", 0.9, except_for=1), Better("gradient_noise", 0.9))
    recipe: ClassVar[dict[str, Any]] = {
        "credit": "remax",
        "objective": "reinforce",
        "rollout": {"part": "greedy-baseline", "n": 3, "sampling": {"maximum_tokens": _LENGTH}},
    }
    remarks: ClassVar[str] = (
        "A first run, without levels, did not hold (revision 9d7a5b6): relative_gap was 0.0383 ± 0.013 against 0.0479 ± 0.0079, and gradient_noise "
        "648 ± 190 against 671 ± 460, higher in one seed of three; gradient_noise_even is that figure. All prompts had the same mean reward there, "
        "near zero, so that no baseline was nearly as good as one, and the greedy response scores far above the mean. The paper's method is for "
        "rewards whose level differs between prompts, as those learned from pairs do, which fix no level at all. This run has levels, under "
        "the same rules, and fails in seed 2: learning is better in every seed and the noise a ninth of that without baseline in the mean, but the levels "
        "drawn there are 1.2, −0.7 and −1.0, of which the last two take the mean returns of 1.0 and 1.4 nearly back to zero. The greedy "
        "response is then further above the mean (0.6 to 1.7) than zero is below it."
    )

    def measure(self, seed: int, folder: Path) -> Measurement:
        lab = laboratory(seed, folder)
        reward = TokenWorldReward.of(lab.world, _LEVELS)
        levels = {"rewards": {"true": reward.model_dump()}}
        half = lab.run(
            lab.online(20, 24, 4, 5e-3, credit="rloo", regulariser={"part": "kl", "coefficient": BETA}), seed
        )
        released = self.recipe | {"credit": {"part": "remax", "kl": "one-step", "gamma": 0.99}}
        ours, theirs = self.train(lab, seed, self.recipe | levels), self.train(lab, seed, PLAIN | levels)
        ours["relative_gap_released"] = self.train(lab, seed, released | levels)["relative_gap"]
        noise = _noises(lab, half.model, reward.level)
        even = _noises(lab, half.model, torch.zeros_like(reward.level))
        ours |= {"gradient_noise": noise["greedy"], "gradient_noise_best": noise["value"]}
        ours |= {"gradient_noise_even": even["greedy"]}
        theirs |= {"gradient_noise": noise["none"], "gradient_noise_even": even["none"]}
        return Measurement(ours, theirs)


def _noises(lab: Laboratory, model: Path, level: Tensor) -> dict[str, float]:
    """Noise of the gradient of the regularised return, by baseline; the KL counts as reward, and has no baseline of its own."""
    world = lab.world
    group = lab.open(model)
    log_policy = world.log_distribution(group)
    rewards = world.rewards + level[:, None]
    returns = rewards - BETA * (log_policy - lab.log_reference)
    greedy = greedy_responses(world, world.conditionals(group))
    gradients = response_gradients(world, model)
    baselines = {
        "none": torch.zeros(len(world.prompts), 1, dtype=torch.float64),
        "greedy": rewards.gather(1, greedy[:, None]),
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
