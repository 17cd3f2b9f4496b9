"""PF-PPO: filters of ranks under a reward that can be trusted at its ends only.

Knows: the token world with an unsure reward, the recipe of the method.
Does not know: how figures become a verdict.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from fairlead.evidence.base import Better, Experiment, Measurement, Rule
from fairlead.evidence.experiments.online_baselines import laboratory
from fairlead.evidence.laboratory import Laboratory
from fairlead.worlds import TokenWorldReward, UnsureReward

__all__ = ["PolicyFiltrationExperiment"]

_STEPS = 20


class PolicyFiltrationExperiment(Experiment, name="pf-ppo"):
    """Best-and-worst filtration against PPO on all samples, with a reward that is noise in the middle.

    Source: Shen and Zhang 2024 (arXiv 2409.06957), section 5.
    """

    claim: ClassVar[str] = (
        "Learning from the ranks where R² is largest leads to a higher true score than learning from all"
    )
    experiment: ClassVar[str] = (
        "Token world of 85 responses to 3 prompts (4 symbols, 3 tokens; another world for every seed). The reward learned from is ±2 "
        "(noise 0.3) where the true one lies more than 1 from 0, and noise (1.2) elsewhere. PPO with a critic, no KL, 5 samples of 12 "
        f"prompts, {_STEPS} rollouts, AdamW at 3e-3. shortfall is the largest true reward less the policy's, exact, mean over prompts; "
        "disagreement 1 − R² of the filter at the first rollout; the figures ending in best are those of the filter best."
    )
    baseline: ClassVar[str] = "PPO on all 5 samples, the same in all else"
    rules: ClassVar[tuple[Rule, ...]] = (Better("disagreement", 1.0), Better("shortfall", 0.95, except_for=1))
    remarks: ClassVar[str] = (
        "R² is larger for the filter in 7 of 10 worlds, as the paper finds, but the policy is no better for it: the noise is drawn anew every "
        "time and each of the 85 responses is judged many times, so that learning from all averages it out, while the filter leaves out three "
        "of five samples, and among unclear ones keeps those with the luckiest noise. A reward model errs the same way on every look, over "
        "responses that never come twice; this world has neither."
    )

    def measure(self, seed: int, folder: Path) -> Measurement:
        lab = laboratory(seed, folder)
        found = {name: self._train(lab, seed, name) for name in ("none", "best", "best-worst")}
        ours = found["best-worst"] | {f"{key}_best": value for key, value in found["best"].items()}
        return Measurement(ours, found["none"])

    def _train(self, lab: Laboratory, seed: int, name: str) -> dict[str, float]:
        world = TokenWorldReward.of(lab.world).model_dump()
        unsure = UnsureReward(**{key: value for key, value in world.items() if key != "part"}).model_dump()
        changes: dict[str, Any] = {
            "rewards": {"unsure": unsure, "true": world | {"weight": 0}},
            "regulariser": {"part": "kl", "coefficient": 0},
            "credit": "gae",
            "selection": [{"part": "policy-filtration", "filter": name}],
            "diagnostics": {"filters": {"part": "filter-agreement", "truth": "true"}},
        }
        outcome = lab.run(lab.online(_STEPS, 12, 5, 3e-3, **changes), seed)
        return {
            "shortfall": lab.shortfall(outcome.log_policy),
            "disagreement": 1 - float(outcome.metrics[0][f"diagnostic/filters/{name}"]),
        }
