"""Two switches that hold an update back: a target for the entropy, and a limit on the KL of an update.

Knows: PPO in the token world, what its objective logs.
Does not know: how figures become a verdict.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from fairlead.evidence.base import AtMost, Better, Experiment, Measurement, Rule
from fairlead.evidence.laboratory import Laboratory, Outcome
from fairlead.worlds import TokenWorld

__all__ = ["HoldingBack"]

_TARGET, _LIMIT, _STEPS, _LAST = 0.8, 0.02, 60, 10


class HoldingBack(Experiment, name="holding-back"):
    """PPO with large steps and no KL to the reference, with and without `entropy_target` and `target_kl`.

    Source: Zheng et al. 2023 (arXiv 2307.04964), section 5, for the entropy; the KL limit is that of OpenAI's Spinning Up.
    """

    claim: ClassVar[str] = (
        "A target keeps the entropy near it where it would collapse, and a limit ends updates that would go further"
    )
    experiment: ClassVar[str] = (
        "Token world of 85 responses to 3 prompts (4 symbols, 3 tokens; another world for every seed), rewards of standard deviation 2. "
        f"PPO without KL, {_STEPS} rollouts of 48 prompts with 4 samples, 4 epochs of 2 minibatches, AdamW at 1e-2 falling to a "
        f"twentieth. entropy_off is the distance of the entropy from {_TARGET:g} nats a token, mean of the last {_LAST} rollouts, with "
        f"entropy_coefficient 0.3 and that target; largest_update the largest KL of a rollout's update from the policy before it, "
        f"nats a token, mean over its minibatches, with target_kl {_LIMIT:g}; shortfall_NAME the largest reward of a prompt less the policy's expected one."
    )
    baseline: ClassVar[str] = "the same PPO with neither"
    rules: ClassVar[tuple[Rule, ...]] = (
        Better("entropy_off", 0.5),
        AtMost("entropy_off", 0.2),
        Better("largest_update", 0.5),
        AtMost("largest_update", 1.5 * _LIMIT),
    )

    def measure(self, seed: int, folder: Path) -> Measurement:
        lab = Laboratory(TokenWorld(symbols=4, maximum_tokens=3, prompts=3, reward_scale=2.0, seed=seed), folder)
        plain = _train(lab, seed)
        entropy = _train(lab, seed, entropy_target=_TARGET, entropy_coefficient=0.3)
        limited = _train(lab, seed, target_kl=_LIMIT)
        return Measurement(
            {
                "entropy_off": _entropy_off(entropy),
                "largest_update": _largest_update(limited),
                "shortfall_entropy": lab.shortfall(entropy.log_policy),
                "shortfall_limit": lab.shortfall(limited.log_policy),
            },
            {
                "entropy_off": _entropy_off(plain),
                "largest_update": _largest_update(plain),
                "shortfall_entropy": lab.shortfall(plain.log_policy),
                "shortfall_limit": lab.shortfall(plain.log_policy),
            },
        )


def _train(lab: Laboratory, seed: int, **objective: Any) -> Outcome:
    stage = lab.online(
        _STEPS, n=4, rate=1e-2, credit="rloo", epochs=4, minibatches=2, objective={"part": "ppo-clip", **objective}
    )
    return lab.run(stage, seed)


def _entropy_off(outcome: Outcome) -> float:
    return fmean(abs(row["policy/entropy"] - _TARGET) for row in outcome.metrics[-_LAST:])


def _largest_update(outcome: Outcome) -> float:
    return max(row["policy/old_kl"] for row in outcome.metrics)
