"""SAFE: a controlled KL against the same without a gradient of it, on a reward that can be hacked.

Knows: the token world, the recipe of the method.
Does not know: how figures become a verdict.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from fairlead.evidence.base import AtMost, Better, Experiment, Measurement, Rule
from fairlead.evidence.experiments.online_baselines import laboratory
from fairlead.evidence.laboratory import Laboratory

__all__ = ["Safe"]

_STEPS = 60


class Safe(Experiment, name="safe"):
    """SAFE with a penalty that has a gradient, against the penalty as released, which has none.

    Source: SAFE (arXiv 2602.04651).
    """

    claim: ClassVar[str] = (
        "A KL penalty above a threshold, stronger at low entropy, holds the KL of a token at the threshold and keeps the policy from "
        "hacking its reward"
    )
    experiment: ClassVar[str] = (
        "Token world of 85 responses to 3 prompts (4 symbols, 3 tokens; another world for every seed). The reward learned from is the "
        "true one and 4 times the share of the symbol a. Normalised reward, two heads with soft minimum (α 0.3) read at the end of the "
        f"prompt, Huber value loss, entropy bonus 0.01; {_STEPS} rollouts of 48 prompts with one sample, 2 epochs, AdamW at 5e-3 for "
        "both. c is 1, H₀ 1. above is how far the smoothed KL of a token is above the threshold at the end, below how far under it; "
        "loss_of_truth the largest true reward less the policy's and kl the divergence from the reference, both exact; loss_of_truth_c3 "
        "with c 3."
    )
    baseline: ClassVar[str] = "the penalty as released, a plain number in the loss; the same in all else"
    rules: ClassVar[tuple[Rule, ...]] = (
        AtMost("above", 0.2),
        AtMost("below", 0.1),
        Better("loss_of_truth", 0.9, except_for=1),
        Better("kl", 0.7),
    )
    remarks: ClassVar[str] = (
        "The penalty pulls, and as released it does not: the KL is less than half of the baseline's for every seed. But it comes to rest 0.3 "
        "to 0.5 nats above the threshold, because a pull that grows in proportion to the excess balances a steady push at some excess, "
        "and advantages are whitened, so that the push does not shrink. Whether less KL means less hacking depends on the world: the habit "
        "costs the truth in seed 1, hardly matters in seed 2, and in seed 0 the policy without a pull also finds what is truly good."
    )

    def measure(self, seed: int, folder: Path) -> Measurement:
        lab = laboratory(seed, folder)
        ours = self._train(lab, seed, 1.0, "loss")
        ours["loss_of_truth_c3"] = self._train(lab, seed, 3.0, "loss")["loss_of_truth"]
        return Measurement(ours, self._train(lab, seed, 1.0, "none"))

    def _train(self, lab: Laboratory, seed: int, coefficient: float, place: str) -> dict[str, float]:
        changes: dict[str, Any] = {
            "critic": {"path": str(lab.reference), "head": {}},
            "epochs": 2,
            "shaping": ["normalise"],
            "regulariser": {
                "part": "threshold-kl",
                "coefficient": coefficient,
                "place": place,
                "channel": "true",
                "gate": {"target": 1.0},  # five tokens have at most 1.6 nats of entropy
            },
            "credit": "response-value",
            "objective": {"part": "ppo-clip", "entropy_coefficient": 0.01},
            "value_objective": {"part": "value-huber", "position": "prompt"},
        }
        stage = lab.online(_STEPS, 48, 1, 5e-3, **changes)
        stage["rewards"]["habit"] = lab.function_reward("fairlead.evidence.experiments.ppo_max:share_of_a", 4.0)
        outcome = lab.run(stage, seed)
        policy, last = outcome.log_policy, outcome.metrics[-1]
        distance = float(last["kl/smoothed"]) - float(last["kl/threshold"])
        return {
            "above": max(distance, 0.0),
            "below": max(-distance, 0.0),
            "loss_of_truth": lab.shortfall(policy),
            "kl": float(lab.world.divergence(policy, lab.log_reference).mean()),
        }
