"""PPO-max: its stabilisers together against PPO, with as many policy updates.

Knows: the token world, the recipe of the method.
Does not know: how figures become a verdict.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from fairlead.evidence.base import Better, Experiment, Measurement, Rule
from fairlead.evidence.experiments.online_baselines import laboratory
from fairlead.evidence.laboratory import Laboratory

__all__ = ["PPOMax"]

_STEPS = 60
_PLAIN: dict[str, Any] = {
    "regulariser": {"part": "kl", "coefficient": 0.0},
    "credit": {"part": "gae", "whiten": False},
    "value_objective": {"part": "value-clip", "clip": None},
}
_MAX: dict[str, Any] = {
    "shaping": ["normalise", {"part": "clip", "limit": 0.8}],
    "regulariser": {"part": "kl", "coefficient": 0.1},
    "credit": {"part": "gae", "whiten": False},
    "critic_warmup": 10,
}


class PPOMax(Experiment, name="ppo-max"):
    """PPO-max against PPO on a reward that pays for a habit which the true reward does not want.

    Source: Zheng et al. 2023 (arXiv 2307.04964), section 5.
    """

    claim: ClassVar[str] = (
        "Normalised and cut scores, clipped values, critic warm-up and a KL penalty keep PPO from over-optimising"
    )
    experiment: ClassVar[str] = (
        "Token world of 85 responses to 3 prompts (4 symbols, 3 tokens; another world for every seed). The reward learned from is the "
        "true one and 4 times the share of the symbol a among the response's symbols. "
        f"{_STEPS} rollouts of 24 prompts with one sample that train the policy, 2 epochs, AdamW at 5e-3; PPO-max with η 0.1, δ 0.8, "
        "ε_v 0.2 and 10 further rollouts for the critic alone. loss_of_truth is the largest true reward less the policy's, kl the "
        "divergence from the reference, both exact."
    )
    baseline: ClassVar[str] = "PPO without KL, normalisation, cut, value clip and warm-up"
    rules: ClassVar[tuple[Rule, ...]] = (Better("loss_of_truth", 0.9, except_for=1), Better("kl", 0.9))
    remarks: ClassVar[str] = (
        "It stays nearer to the reference in the mean, not in every world, and loses more of the true reward, not less. Both sides find "
        "the optimum of the reward they are given within 60 rollouts. The cut at 0.8 deviations makes the best responses equal to good ones, which costs "
        "true reward, and 0.1 nats' worth of penalty is little beside a normalised score. The collapse of language that the paper's "
        "stabilisers prevent in long training has no counterpart in 85 responses."
    )

    def measure(self, seed: int, folder: Path) -> Measurement:
        lab = laboratory(seed, folder)
        return Measurement(self._train(lab, seed, _MAX, _STEPS + 10), self._train(lab, seed, _PLAIN, _STEPS))

    def _train(self, lab: Laboratory, seed: int, changes: dict[str, Any], steps: int) -> dict[str, float]:
        stage = lab.online(steps, 24, 1, 5e-3, epochs=2, **changes)
        stage["rewards"]["habit"] = lab.function_reward("fairlead.evidence.experiments.ppo_max:share_of_a", 4.0)
        policy = lab.run(stage, seed).log_policy
        return {
            "loss_of_truth": lab.shortfall(policy),
            "kl": float(lab.world.divergence(policy, lab.log_reference).mean()),
        }


def share_of_a(prompt: str, response: str) -> float:
    """Share of the symbol a among the symbols of a response."""
    symbols = response.split()
    return symbols.count("a") / max(len(symbols), 1)
