"""PPO, GRPO and REINFORCE++ beside the plain policy gradient, at equal samples.

Knows: the token world, the recipe of each method.
Does not know: how figures become a verdict.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from fairlead.evidence.base import Better, Experiment, Measurement, Rule
from fairlead.evidence.laboratory import Laboratory
from fairlead.worlds import TokenWorld

__all__ = ["BETA", "PLAIN", "OnlineExperiment", "laboratory"]

BETA = 0.3
_STEPS = 40
_SETTING = (
    "Token world of 85 responses to 3 prompts (4 symbols, 3 tokens; another world for every seed), a random transformer of "
    f"two layers as reference, β = {BETA} in the reward (k1). {_STEPS} rollouts of 24 prompts with 4 samples each, AdamW at 5e-3 "
    "falling linearly, one rate for both sides, chosen in a few trial runs. relative_gap is the exact regularised objective's distance from its optimum as a share of that of the "
    "reference policy, total_variation the distance to π*."
)
PLAIN: dict[str, Any] = {"credit": {"part": "reinforce", "baseline": "none"}, "objective": "reinforce"}
"""REINFORCE: reward-to-go, no baseline, no ratio, no clip."""


def laboratory(seed: int, folder: Path) -> Laboratory:
    """The world of one seed."""
    return Laboratory(TokenWorld(symbols=4, maximum_tokens=3, prompts=3, seed=seed), folder)


class OnlineExperiment(Experiment):
    """A method's recipe against REINFORCE with as many samples."""

    experiment: ClassVar[str] = _SETTING
    baseline: ClassVar[str] = "REINFORCE without baseline, ratio or clip, as many samples"
    rules: ClassVar[tuple[Rule, ...]] = (
        Better("relative_gap", 0.9, except_for=1),
        Better("total_variation", 0.9, except_for=1),
    )
    recipe: ClassVar[dict[str, Any]]
    """What the method changes in the online stage."""

    def measure(self, seed: int, folder: Path) -> Measurement:
        lab = laboratory(seed, folder)
        return Measurement(self.train(lab, seed, self.recipe), self.train(lab, seed, PLAIN))

    def train(self, lab: Laboratory, seed: int, recipe: dict[str, Any], steps: int = _STEPS) -> dict[str, float]:
        """Figures of the policy at the end."""
        stage = lab.online(steps, 24, 4, 5e-3, regulariser={"part": "kl", "coefficient": BETA}, **recipe)
        return lab.run(stage, seed).figures(BETA)


class PPO(OnlineExperiment, name="ppo"):
    """PPO with a critic against the plain policy gradient.

    Source: Schulman et al. 2017 (arXiv 1707.06347); Schulman et al. 2016 (arXiv 1506.02438).
    """

    claim: ClassVar[str] = (
        "A learned critic and several clipped updates of each rollout learn more from the same samples"
    )
    recipe: ClassVar[dict[str, Any]] = {"credit": {"part": "gae"}, "epochs": 2, "minibatches": 2}
    remarks: ClassVar[str] = (
        "PPO takes four optimiser steps a rollout, the baseline one: the reuse of samples is part of the claim."
    )


class GRPO(OnlineExperiment, name="grpo"):
    """GRPO's group-relative advantages against the plain policy gradient.

    Source: Shao et al. 2024 (arXiv 2402.03300), section 4.1.
    """

    claim: ClassVar[str] = "The mean of a prompt's own samples replaces the critic as a baseline"
    recipe: ClassVar[dict[str, Any]] = {"credit": {"part": "group-relative", "scale": "group"}}
    remarks: ClassVar[str] = (
        "The KL stands in the reward, not in the loss as in the paper: there the division by the group's standard deviation "
        "leaves π* a fixed point (all its advantages are zero), while with the KL in the loss it changes the optimum."
    )


class ReinforcePlusPlus(OnlineExperiment, name="reinforce++"):
    """REINFORCE++ against the plain policy gradient.

    Source: Hu et al. 2025 (arXiv 2501.03262).
    """

    claim: ClassVar[str] = "Advantages whitened over the whole batch and the clip stabilise REINFORCE without a critic"
    recipe: ClassVar[dict[str, Any]] = {"credit": {"part": "reinforce++"}}
