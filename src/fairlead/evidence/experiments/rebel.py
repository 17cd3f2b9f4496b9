"""REBEL: whether rounds of least squares end at the exact optimum under a KL.

Knows: the token world and its exact optimum.
Does not know: how figures become a verdict.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from fairlead.evidence.base import AtMost, Better, Experiment, Measurement, Rule
from fairlead.evidence.laboratory import Laboratory
from fairlead.worlds import TokenWorld, TokenWorldReward

__all__ = ["REBEL"]

_BETA, _ROUNDS, _PROMPTS, _EPOCHS, _BATCH, _LENGTH = 0.3, 16, 256, 2, 64, 3


class REBEL(Experiment, name="rebel"):
    """REBEL with the KL in the reward against iterative DPO on the same number of pairs of the present policy.

    Source: Gao et al. 2024 (REBEL, arXiv 2404.16767), theorem 1 and section 5.
    """

    claim: ClassVar[str] = (
        "Regressing differences of log-ratios on differences of regularised rewards, round after round, ends near the optimum of the "
        "KL-regularised problem, nearer than iterative DPO, which sees only which response is better"
    )
    experiment: ClassVar[str] = (
        "Token world of 85 responses to 3 prompts (4 symbols, 3 tokens; another for every seed), exact rewards of standard deviation 1, "
        f"β = {_BETA:g}. {_ROUNDS} rounds of {_PROMPTS} prompts with 2 samples, one random pair each, η = 1, {_EPOCHS} passes in batches of "
        f"{_BATCH}, AdamW at 2e-3 falling linearly. total_variation is the distance to π_ref · exp(r / β), relative_gap the share of the "
        "largest objective that is missing, both exact, mean over prompts."
    )
    baseline: ClassVar[str] = (
        f"DPO with β = {_BETA:g} and a fixed reference, the same rounds and steps, pairs ordered by the exact reward"
    )
    rules: ClassVar[tuple[Rule, ...]] = (Better("total_variation", 0.7), AtMost("relative_gap", 0.1))

    def measure(self, seed: int, folder: Path) -> Measurement:
        lab = Laboratory(TokenWorld(symbols=4, maximum_tokens=_LENGTH, prompts=3, seed=seed), folder)
        ours = _figures(
            lab,
            seed,
            objective={"part": "rebel", "eta": 1.0},
            regulariser={"part": "kl", "coefficient": _BETA},
            pairing={"part": "random-pair", "ties": True},
        )
        theirs = _figures(lab, seed, objective={"part": "dpo", "beta": _BETA}, pairing="random-pair")
        return Measurement(ours, theirs)


def _figures(lab: Laboratory, seed: int, **changes: Any) -> dict[str, float]:
    stage = {
        "part": "preference-rounds",
        "prompts": str(lab.prompts),
        "rewards": {"true": TokenWorldReward.of(lab.world).model_dump()},
        "rollout": {"part": "sample", "n": 2, "sampling": {"maximum_tokens": _LENGTH}},
        "rounds": _ROUNDS,
        "prompts_per_round": _PROMPTS,
        "epochs": _EPOCHS,
        "batch_size": _BATCH,
        "optimiser": {"learning_rate": 2e-3, "schedule": "linear", "floor": 0.05},
    }
    return lab.run(stage | changes, seed).figures(_BETA)
