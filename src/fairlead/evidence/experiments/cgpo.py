"""CGPO: whether judges as constraints and a calibrated reward keep a policy from hacking its reward.

Knows: the hackable world, where violations score better than they are and every policy's true worth is exact.
Does not know: how figures become a verdict.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from fairlead.evidence.base import AtMost, Better, Experiment, Measurement, Rule
from fairlead.evidence.laboratory import Laboratory
from fairlead.worlds import HackableWorldReward, TokenWorld, hackable

__all__ = ["CGPO"]

_STEPS, _PROMPTS, _SAMPLES, _RATE, _KL_MAX, _KL = 100, 24, 4, 5e-3, 4.0, 0.05
_GRADIENT = {"part": "reinforce", "aggregation": "sequence-mean-token-sum"}


class CGPO(Experiment, name="cgpo"):
    """The three optimisers of CGPO against REINFORCE on the same reward, without and with a linear penalty for violations.

    Source: Xu et al. 2024 (CGPO, arXiv 2409.20370), sections on the optimisers and on reward hacking.
    """

    claim: ClassVar[str] = (
        "With judges as constraints and rewards calibrated by a baseline answer, CRPG, CODPO and CRRAFT raise the true worth where "
        "REINFORCE on the reward hacks it; without calibration more violations stay"
    )
    experiment: ClassVar[str] = (
        "Token world of 21 responses to 4 prompts (4 symbols, 2 tokens; another for every seed), 60 % of them feasible; the reward model sees "
        "the quality (deviation 1), an offset of each prompt (deviation 4) and 2.5 more for a violation; the truth is the quality, or −3 for "
        f"a violation. {_STEPS} rollouts of {_PROMPTS} prompts with {_SAMPLES} samples, AdamW at 5e-3 falling linearly, KL limit {_KL_MAX:g}, CODPO "
        "with β = 0.3 and λ = 0.05. violations and lost (largest true worth less that of the policy, mean over prompts) are exact and "
        "those of the worst of the three; uncalibrated is CRPG's violations less those of CRPG on the raw reward."
    )
    baseline: ClassVar[str] = (
        f"the better of REINFORCE with a group mean and a KL of {_KL:g} on the reward, and the same less 1 for a violation"
    )
    remarks: ClassVar[str] = (
        "The limit of 10 % is missed by CRPG alone, in one world and there by a single prompt; it is the slowest of the three, and looked at "
        "after the fact with 250 rollouts in place of 100 its violations in that world had fallen below the limit. CODPO and CRRAFT keep "
        "it everywhere."
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        AtMost("violations", 0.1),
        Better("violations", 0.2),
        Better("lost", 0.5),
        AtMost("uncalibrated", 0.0),
    )

    def measure(self, seed: int, folder: Path) -> Measurement:
        lab = Laboratory(TokenWorld(symbols=4, maximum_tokens=2, prompts=4, seed=seed), folder)
        methods = {name: _figures(lab, _train(lab, seed, changes)) for name, changes in _methods().items()}
        ours = {name: methods[name] for name in ("crpg", "codpo", "crraft")}
        found = {name: max(figures[name] for figures in ours.values()) for name in ("violations", "lost")}
        found["uncalibrated"] = methods["crpg"]["violations"] - methods["crpg_raw"]["violations"]
        start = _figures(lab, lab.log_reference)
        for method, figures in (methods | {"start": start}).items():
            found |= {f"{name}_{method}": value for name, value in figures.items()}
        theirs = [methods["reinforce"], methods["penalty"]]
        return Measurement(found, {name: min(figures[name] for figures in theirs) for name in ("violations", "lost")})


def _methods() -> dict[str, dict[str, Any]]:
    """What of the online stage each method changes."""
    constrained, factor = {"part": "constrained", "channel": "feasible"}, {"part": "kl-factor", "maximum": _KL_MAX}
    batch_mean = {"part": "reinforce", "baseline": "responses"}
    free = {"part": "kl", "coefficient": 0.0}
    pairs = {"part": "pairs", "pairing": {"part": "feasible", "channel": "feasible"}}
    best = {"part": "best-feasible", "channel": "feasible", "maximum": _KL_MAX}
    plain = {
        "credit": {"part": "group-relative", "scale": "none"},
        "regulariser": {"part": "kl", "coefficient": _KL},
    }
    return {
        "crpg": {"shaping": ["calibrated", constrained, factor], "credit": batch_mean, "regulariser": free},
        "codpo": {
            "shaping": ["calibrated"],
            "selection": [pairs],
            "credit": {"part": "dpo", "beta": 0.3, "likelihood": 0.05},
            "regulariser": free,
        },
        "crraft": {
            "shaping": ["calibrated"],
            "selection": [best],
            "credit": {"part": "reinforce", "baseline": "none"},
            "regulariser": free,
        },
        "crpg_raw": {"shaping": [constrained, factor], "credit": batch_mean, "regulariser": free},
        "reinforce": plain,
        "penalty": plain | {"shaping": [constrained | {"penalty": 1.0}]},
    }


def _train(lab: Laboratory, seed: int, changes: dict[str, Any]) -> Tensor:
    world = HackableWorldReward.of(lab.world)
    stage = lab.online(_STEPS, _PROMPTS, _SAMPLES, _RATE, objective=_GRADIENT, **changes)
    stage["rewards"] = {
        "seen": world.model_dump(),
        "feasible": world.model_copy(update={"tells": "feasible", "weight": 0.0}).model_dump(),
    }
    if "calibrated" in changes.get("shaping", []):
        stage["rollout"] |= {"part": "with-baseline"}
    return lab.run(stage, seed).log_policy


def _figures(lab: Laboratory, log_policy: Tensor) -> dict[str, float]:
    """Share of violations, and what is lost of the largest true worth."""
    _, feasible, truth = hackable(lab.world)
    policy = log_policy.exp()
    reached = (policy * truth).sum(-1)
    return {
        "violations": float((policy * ~feasible).sum(-1).mean()),
        "lost": float((truth.max(-1).values - reached).mean()),
    }
