"""MA-RLHF: macro actions of two tokens against single tokens, both with a critic.

Knows: the token world, the recipe of the method.
Does not know: how figures become a verdict.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from fairlead.evidence.base import Better, Measurement, Rule
from fairlead.evidence.experiments.online_baselines import OnlineExperiment, laboratory

__all__ = ["MacroActions"]


class MacroActions(OnlineExperiment, name="ma-rlhf"):
    """MA-RLHF against PPO on tokens.

    Source: Chai et al. 2024 (arXiv 2410.02743), section 4.
    """

    claim: ClassVar[str] = (
        "Values and advantages of runs of tokens give credit over fewer steps and learn more than PPO's"
    )
    experiment: ClassVar[str] = (
        OnlineExperiment.experiment + " Macro actions of 2 tokens, λ 0.95, one optimiser step a rollout on both sides; "
        "relative_gap_whole with one macro action for the whole response."
    )
    baseline: ClassVar[str] = "PPO with a critic on tokens, the same in all else"
    rules: ClassVar[tuple[Rule, ...]] = (Better("relative_gap", 0.9, except_for=1),)
    recipe: ClassVar[dict[str, Any]] = {"credit": {"part": "macro-gae", "length": 2}}
    remarks: ClassVar[str] = (
        "The paper's gain is credit over hundreds of tokens. Responses of this world have at most three, all of which matter, "
        "so there is little distance to shorten: a strong test of harm, a weak one of the benefit. The two come out alike within their spread."
    )

    def measure(self, seed: int, folder: Path) -> Measurement:
        lab = laboratory(seed, folder)
        ours = self.train(lab, seed, self.recipe)
        whole = self.train(lab, seed, {"credit": {"part": "macro-gae", "length": 3}})
        ours["relative_gap_whole"] = whole["relative_gap"]
        return Measurement(ours, self.train(lab, seed, {"credit": "gae"}))
