"""Online iterative DPO: whether sampling again after every round is worth it.

Knows: the token world and its exact reward.
Does not know: how figures become a verdict.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from fairlead.evidence.base import Better, Experiment, Measurement, Rule
from fairlead.evidence.laboratory import Laboratory, Outcome
from fairlead.worlds import TokenWorld, TokenWorldReward

__all__ = ["RLHFWorkflow"]

_ROUNDS, _PROMPTS, _LENGTH = 3, 256, 3
_SEVERAL = {
    "part": "several-samplers",
    "samplers": [
        {"n": 4, "sampling": {"maximum_tokens": _LENGTH}},
        {"n": 2, "sampling": {"maximum_tokens": _LENGTH, "temperature": 1.5}},
        {"n": 2, "sampling": {"maximum_tokens": _LENGTH}, "who": {"part": "past", "every": 1, "most": 1}},
    ],
}


class RLHFWorkflow(Experiment, name="rlhf-workflow"):
    """Three rounds of DPO, each on pairs of the present policy, against one round on as many pairs of the first policy.

    Source: Dong et al. 2024 (RLHF Workflow, arXiv 2405.07863), section 3.
    """

    claim: ClassVar[str] = (
        "DPO on pairs that the present policy samples goes further than DPO on as many pairs of the first policy"
    )
    experiment: ClassVar[str] = (
        "Token world of 85 responses to 3 prompts (4 symbols, 3 tokens; another for every seed), rewards of standard deviation 2. "
        f"{_ROUNDS} rounds of {_PROMPTS} prompts with 8 samples, the best against the worst by the exact reward, 2 passes in batches of 32, "
        "β = 0.1, AdamW at 2e-3. shortfall is the largest reward of a prompt less the policy's expected one, exact, mean over prompts; "
        "the figures ending in previous are with the reference moved along in every round (the released scripts), those ending in "
        "random of one round on random pairs of the first policy, those ending in several of rounds in which of the 8 samples two are drawn "
        "at a temperature of 1.5 and two by the policy of the round before."
    )
    baseline: ClassVar[str] = (
        "one round of as many prompts and steps, best against worst of the first policy; for several the same rounds with eight samples "
        "of the present policy"
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        Better("shortfall", 0.9, except_for=1),
        Better("shortfall_several", 1.0, except_for=1),
    )
    remarks: ClassVar[str] = (
        "The first page (revision c99cdd1) had no figures ending in several, nor their rule, which was written before they were seen."
    )

    def measure(self, seed: int, folder: Path) -> Measurement:
        world = TokenWorld(symbols=4, maximum_tokens=_LENGTH, prompts=3, reward_scale=2.0, seed=seed)
        lab = Laboratory(world, folder)
        offline = {"rounds": 1, "prompts_per_round": _ROUNDS * _PROMPTS}
        ours = _figures(lab, _train(lab, seed))
        moved = _figures(lab, _train(lab, seed, anchor="previous"))
        chance = _figures(lab, _train(lab, seed, pairing="random-pair", **offline))
        several = _figures(lab, _train(lab, seed, rollout=_SEVERAL))
        for name, found in (("previous", moved), ("random", chance), ("several", several)):
            ours |= {f"{figure}_{name}": value for figure, value in found.items()}
        return Measurement(ours, _figures(lab, _train(lab, seed, **offline)) | {"shortfall_several": ours["shortfall"]})


def _train(lab: Laboratory, seed: int, **changes: Any) -> Outcome:
    stage = {
        "part": "preference-rounds",
        "prompts": str(lab.prompts),
        "rewards": {"true": TokenWorldReward.of(lab.world).model_dump()},
        "rollout": {"part": "sample", "n": 8, "sampling": {"maximum_tokens": _LENGTH}},
        "objective": {"part": "dpo", "beta": 0.1},
        "rounds": _ROUNDS,
        "prompts_per_round": _PROMPTS,
        "epochs": 2,
        "batch_size": 32,
        "optimiser": {"learning_rate": 2e-3},
    }
    return lab.run(stage | changes, seed)


def _figures(lab: Laboratory, outcome: Outcome) -> dict[str, float]:
    return {
        "shortfall": lab.shortfall(outcome.log_policy),
        "kl": float(lab.world.divergence(outcome.log_policy, lab.log_reference).mean()),
    }
