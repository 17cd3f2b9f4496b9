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
        f"PPO without KL, {_STEPS} rollouts of 48 prompts with 4 samples, 8 epochs of 2 minibatches, AdamW at 3e-3 falling to a "
        f"twentieth. entropy_off is the distance of the entropy from {_TARGET:g} nats a token, mean of the last {_LAST} rollouts, with "
        "entropy_coefficient 1 and that target; mean_update the KL of a rollout's update from the policy before it, nats a token, mean over "
        f"its minibatches and over rollouts, with target_kl {_LIMIT:g}, and largest_update the largest of a rollout; shortfall_NAME the "
        "largest reward of a prompt less the policy's expected one."
    )
    baseline: ClassVar[str] = "the same PPO with neither"
    rules: ClassVar[tuple[Rule, ...]] = (
        Better("entropy_off", 0.5),
        AtMost("entropy_off", 0.2),
        Better("mean_update", 0.7),
        AtMost("mean_update", 1.5 * _LIMIT),
    )
    remarks: ClassVar[str] = (
        "A first run, at 1e-2 with 4 epochs, an entropy coefficient of 0.3 and a rule on the largest update, did not hold (revision 9ff16fd"
        "): entropy_off was 0.354, 0.478 and 0.541 against 0.8, since a weight of 0.3 is what the best policy at a temperature of "
        "0.3 would pay, whose entropy lies below the target; and the largest update had 0.2 to 0.4 nats, since one optimiser step is always "
        "taken and at that rate went as far by itself. The weight must be large enough for the target, and a limit on the KL bounds how many steps "
        "are taken, not how long one is."
    )

    def measure(self, seed: int, folder: Path) -> Measurement:
        lab = Laboratory(TokenWorld(symbols=4, maximum_tokens=3, prompts=3, reward_scale=2.0, seed=seed), folder)
        plain = _train(lab, seed)
        entropy = _train(lab, seed, entropy_target=_TARGET, entropy_coefficient=1.0)
        limited = _train(lab, seed, target_kl=_LIMIT)
        theirs = _figures(plain, lab, "entropy") | _figures(plain, lab, "limit")
        return Measurement(_figures(entropy, lab, "entropy") | _figures(limited, lab, "limit"), theirs)


def _train(lab: Laboratory, seed: int, **objective: Any) -> Outcome:
    stage = lab.online(_STEPS, credit="rloo", epochs=8, minibatches=2, objective={"part": "ppo-clip", **objective})
    return lab.run(stage, seed)


def _figures(outcome: Outcome, lab: Laboratory, switch: str) -> dict[str, float]:
    """What the switch is about, and what it costs."""
    shortfall = {f"shortfall_{switch}": lab.shortfall(outcome.log_policy)}
    if switch == "entropy":
        return shortfall | {
            "entropy_off": fmean(abs(row["policy/entropy"] - _TARGET) for row in outcome.metrics[-_LAST:])
        }
    updates = [row["policy/old_kl"] for row in outcome.metrics]
    return shortfall | {"mean_update": fmean(updates), "largest_update": max(updates)}
