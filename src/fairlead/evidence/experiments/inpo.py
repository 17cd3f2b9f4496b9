"""INPO: whether it comes to rest near the Nash policy of a game without any score.

Knows: the cyclic preference of the token world and its exact Nash policy.
Does not know: how figures become a verdict.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from fairlead import functional
from fairlead.evidence.base import Better, Experiment, Measurement, Rule
from fairlead.evidence.laboratory import Laboratory
from fairlead.worlds import TokenWorld, cyclic_preferences

__all__ = ["INPO", "game_figures"]

_TAU, _ETA = 0.1, 0.5
_ROUNDS, _PROMPTS, _BATCH, _EPOCHS = 10, 512, 128, 3


class INPO(Experiment, name="inpo"):
    """INPO against iterative DPO on the same rounds of pairs, in a game in which every symbol is beaten by another.

    Source: Zhang et al. 2024 (INPO, arXiv 2407.00617), theorem 3 and section 3.
    """

    claim: ClassVar[str] = (
        "Where preferences go round in a circle, INPO ends near the Nash policy and iterative DPO does not"
    )
    experiment: ClassVar[str] = (
        "Token world of 13 responses to 3 prompts (3 symbols, 2 tokens; another reference policy for every seed). a beats b with "
        "probability 0.9, b beats c with 0.8, c beats a with 0.8, a missing symbol loses with 0.9; a response beats another with the mean "
        f"over places. {_ROUNDS} rounds of {_PROMPTS:,} random pairs of the present policy with drawn labels, {_EPOCHS} passes in batches of "
        f"{_BATCH}, AdamW at 5e-3, τ = {_TAU:g}, η = {_ETA:g}. exploitability is max_y P(y beats π) − ½, total_variation the distance to the "
        "regularised Nash policy, both exact, mean over prompts; the figures of τ 0 are of INPO without reference."
    )
    baseline: ClassVar[str] = f"iterative DPO with β = {_TAU:g} and a fixed reference, the same rounds and steps"
    rules: ClassVar[tuple[Rule, ...]] = (Better("total_variation", 0.5), Better("exploitability", 0.7))

    def measure(self, seed: int, folder: Path) -> Measurement:
        lab = Laboratory(TokenWorld(symbols=3, maximum_tokens=2, prompts=3, seed=seed), folder)
        ours = game_figures(lab, _train(lab, seed, {"part": "inpo", "eta": _ETA, "tau": _TAU}))
        without = game_figures(lab, _train(lab, seed, {"part": "inpo", "eta": _ETA, "tau": 0.0}))
        start = game_figures(lab, lab.log_reference)
        ours |= {f"{name}_tau_0": value for name, value in without.items()}
        ours |= {f"{name}_at_start": value for name, value in start.items()}
        return Measurement(ours, game_figures(lab, _train(lab, seed, {"part": "dpo", "beta": _TAU})))


def _train(lab: Laboratory, seed: int, objective: dict[str, Any]) -> Tensor:
    stage = {
        "part": "preference-rounds",
        "prompts": str(lab.prompts),
        "rewards": {"wins": {"part": "win-rate", "oracle": "cyclic"}},
        "rollout": {"part": "sample", "n": 2, "sampling": {"maximum_tokens": lab.world.maximum_tokens}},
        "pairing": {"part": "random-pair", "labels": "sampled"},
        "objective": objective,
        "rounds": _ROUNDS,
        "prompts_per_round": _PROMPTS,
        "epochs": _EPOCHS,
        "batch_size": _BATCH,
        "optimiser": {"learning_rate": 5e-3},
    }
    return lab.run(stage, seed).log_policy


def game_figures(lab: Laboratory, log_policy: Tensor, tau: float = _TAU) -> dict[str, float]:
    """Distance to the regularised Nash policy of the cyclic preference, and exploitability, mean over prompts."""
    preference = cyclic_preferences(lab.world)
    nash = torch.stack([functional.nash_policy(row, preference, tau) for row in lab.log_reference.exp()])
    return {
        "total_variation": lab.world.total_variation(log_policy, nash.log()),
        "exploitability": sum(float(functional.exploitability(row, preference)) for row in log_policy.exp())
        / len(nash),
    }
