"""Samples that are some updates old, with and without importance weights.

Knows: the token world, the recipe of the method.
Does not know: how figures become a verdict.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from fairlead.evidence.base import Better, Measurement, Rule
from fairlead.evidence.experiments.online_baselines import OnlineExperiment, laboratory

__all__ = ["Asynchronous"]

_LAG = 4
_LAGGED: dict[str, Any] = {"credit": "rloo", "ahead": _LAG}


class Asynchronous(OnlineExperiment, name="asynchronous"):
    """Truncated importance weights against none, for rollouts that are four updates old.

    Source: Noukhovitch et al. 2024 (arXiv 2410.18252); Hilton et al. 2022 (arXiv 2110.00641).
    """

    claim: ClassVar[str] = (
        "Weights of the present policy over the one that sampled, cut at 2, make up for much of what staleness costs"
    )
    experiment: ClassVar[str] = (
        OnlineExperiment.experiment
        + f" RLOO's credit with the clipped loss; every batch was sampled {_LAG} steps before it is learned from. relative_gap_clip is "
        "that of the ordinary clip around the policy that sampled, relative_gap_fresh that of batches without lag."
    )
    baseline: ClassVar[str] = "the same batches taken to be the present policy's own"
    recipe: ClassVar[dict[str, Any]] = _LAGGED | {"objective": {"part": "ppo-clip", "mismatch": {"high": 2.0}}}
    rules: ClassVar[tuple[Rule, ...]] = (Better("relative_gap", 0.9, except_for=1),)
    remarks: ClassVar[str] = (
        "It did not: the weights learned less than none, and the ordinary clip around the policy that sampled (relative_gap_clip) did best of the "
        "three. With four steps of lag, five batches in a row come from nearly the same policy, and each pushes the same tokens. The "
        "ordinary clip stops pushing a token once its ratio has left the range; the other two forms begin each ratio at one and push "
        "on, and cut weights make tokens that the policy has left count less, those with negative advantages among them. So `ahead` "
        "compares with the policy that sampled unless it is told otherwise. These remarks were written after the figures."
    )

    def measure(self, seed: int, folder: Path) -> Measurement:
        lab = laboratory(seed, folder)
        ours = self.train(lab, seed, self.recipe)
        ours["relative_gap_clip"] = self.train(lab, seed, _LAGGED)["relative_gap"]
        ours["relative_gap_fresh"] = self.train(lab, seed, {"credit": "rloo"})["relative_gap"]
        return Measurement(ours, self.train(lab, seed, _LAGGED | {"old_logprobs": "recompute"}))
