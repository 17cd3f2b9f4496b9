"""SALSA: the average of two imitations as PPO's reference, against one of them.

Knows: the token world, the recipe of the method.
Does not know: how figures become a verdict.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from fairlead.evidence.base import AtMost, Better, Experiment, Measurement, Rule
from fairlead.evidence.experiments.online_baselines import laboratory
from fairlead.evidence.laboratory import Laboratory

__all__ = ["Salsa"]

_BETAS = (0.3, 1.0)
_STEPS = 40
_DEMONSTRATIONS = 80
_EPOCHS = 25


class Salsa(Experiment, name="salsa"):
    """PPO held to a soup of two imitations against PPO held to the one it begins from.

    Source: Chegini et al. 2024 (arXiv 2411.01798), abstract.
    """

    claim: ClassVar[str] = (
        "Held to the average of two imitations, PPO moves further from its start and to a higher reward"
    )
    experiment: ClassVar[str] = (
        "Token world of 85 responses to 3 prompts (4 symbols, 3 tokens; another world for every seed). Two imitations (AdamW at 5e-3, "
        f"batch 8, {_EPOCHS} epochs, which over-fits) of the same {_DEMONSTRATIONS} responses drawn from the optimum at β 1, in two orders. "
        f"PPO from the first one, {_STEPS} rollouts of 24 prompts with 4 samples, k1 in the reward with β {' and '.join(map(str, _BETAS))}, AdamW at 5e-3. "
        "shortfall is the largest true reward less the policy's, exact, mean over prompts and over both β, each of them also by itself; "
        "kl_lost how much nearer to the start the policy is than the baseline's (below 0: further); barrier how much larger the soup's "
        "own shortfall is than the mean of its parents'."
    )
    baseline: ClassVar[str] = "the same with the first imitation as reference, which is PPO"
    rules: ClassVar[tuple[Rule, ...]] = (
        Better("shortfall", 0.98, except_for=1),
        AtMost("kl_lost", 0.0),
        AtMost("barrier", 0.0),
    )
    remarks: ClassVar[str] = (
        "Further from the start for every seed, as claimed, but to a higher reward for one seed, an equal one for another, a lower one for "
        "the third. PPO arrives where the exact optimum of each reference lies, so it is the soups that differ: two imitations that "
        "over-fit a tiny random model do not always lie in one basin (seed 0, whose soup is worse than its parents), and a soup that is "
        "better than its parents by itself can still give the best responses less probability, on which the optimum at a small β depends "
        "(seed 2)."
    )

    def measure(self, seed: int, folder: Path) -> Measurement:
        lab = laboratory(seed, folder)
        path = lab.demonstrations(lab.world.optimum(lab.log_reference, 1.0), _DEMONSTRATIONS, seed)
        imitate: dict[str, Any] = {
            "part": "sft",
            "model": str(lab.reference),
            "data": str(path),
            "packed": False,
            "batch_size": 8,
            "epochs": _EPOCHS,
            "optimiser": {"learning_rate": 5e-3},
        }
        soup = {"part": "merge", "models": {"a": "stage:a", "b": "stage:b"}}
        made = lab.run_all({"a": imitate, "b": imitate, "soup": soup}, seed, "imitations")
        found: dict[str, dict[str, float]] = {}
        for reference in ("soup", "a"):
            policies = {beta: self._train(lab, seed, made["a"].model, made[reference].model, beta) for beta in _BETAS}
            figures = {f"shortfall_{beta}": lab.shortfall(policy) for beta, policy in policies.items()}
            figures["shortfall"] = sum(figures[f"shortfall_{beta}"] for beta in _BETAS) / len(_BETAS)
            moved = [float(lab.world.divergence(policy, made["a"].log_policy).mean()) for policy in policies.values()]
            found[reference] = figures | {"kl": sum(moved) / len(moved)}
        own = {name: lab.shortfall(outcome.log_policy) for name, outcome in made.items()}
        extra = {
            "kl_lost": found["a"]["kl"] - found["soup"]["kl"],
            "barrier": own["soup"] - (own["a"] + own["b"]) / 2,
        }
        return Measurement(found["soup"] | extra, found["a"])

    def _train(self, lab: Laboratory, seed: int, start: Path, reference: Path, beta: float) -> Tensor:
        changes = {
            "model": str(start),
            "reference": str(reference),
            "regulariser": {"part": "kl", "coefficient": beta},
            "credit": "gae",
        }
        return lab.run(lab.online(_STEPS, 24, 4, 5e-3, **changes), seed).log_policy
