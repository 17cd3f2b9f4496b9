"""Detectors: each on a run made to fail, and all of them on runs that go well.

Knows: recipes that fail in a known way, and recipes that do not.
Does not know: how a detector decides.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from fairlead.evidence.base import AtMost, Experiment, Measurement, Rule
from fairlead.evidence.experiments.online_baselines import laboratory
from fairlead.evidence.laboratory import Laboratory, Outcome
from fairlead.runs import read_json_lines

__all__ = ["FAILURES", "HEALTHY", "DetectorsExperiment", "alarms", "run"]

_STEPS, _PROMPTS, _LONGEST = 30, 8, 24
_BREAK = 15
_NO_KL: dict[str, Any] = {"part": "kl", "coefficient": 1e-6}  # measured, and too weak to hold anything
_GROUP: dict[str, Any] = {"credit": "group-relative", "regulariser": _NO_KL}
_LARGE: dict[str, Any] = {"optimiser": {"learning_rate": 2e-2}}


def _reward(**fields: Any) -> dict[str, Any]:
    return {"rewards": {"flawed": {"part": "flawed", **fields}}}


FAILURES: dict[str, dict[str, Any]] = {
    "entropy-collapse": _GROUP | _LARGE | _reward(),
    "kl-blow-up": _GROUP | _LARGE | _reward(symbol="d", per_word=0.2),
    "length-hacking": _GROUP | _reward(pays=0, per_word=0.1),
    "repetition": _GROUP | _LARGE | _reward(per_word=0.1),
    "reward-spike": _GROUP | _reward(breaks_after=_BREAK),
    "dead-gradients": _GROUP | _reward(pays=0),
    "value-drift": {"credit": "gae", "regulariser": _NO_KL, "critic_optimiser": {"learning_rate": 0.3}} | _reward(),
    "missing-verdicts": _GROUP | _reward(breaks_after=_BREAK, fault="raise"),
}
"""What is changed in an online stage so that it fails in the way that the detector of that name looks for."""


HEALTHY: dict[str, dict[str, Any]] = {
    "ppo": {"credit": "gae", "regulariser": {"part": "kl", "coefficient": 0.3}, "epochs": 2} | _reward(),
    "grpo": {"credit": "group-relative", "regulariser": {"part": "kl", "coefficient": 0.3}} | _reward(),
}
"""The same stage with an ordinary step, and a KL that holds the policy: π* tilts the reference by exp(3.3 · share of one symbol)."""


class DetectorsExperiment(Experiment, name="detectors"):
    """Detectors with their default settings on failures of eight kinds, and on healthy runs.

    Source: none; the failures are those that Zheng et al. 2023 (arXiv 2307.04964), section 5, and Yu et al. 2025
    (arXiv 2503.14476), section 3, describe.
    """

    claim: ClassVar[str] = "Each detector fires on the failure that it is for, and none on runs that go well"
    experiment: ClassVar[str] = (
        f"A random transformer over 4 symbols (another for every seed), {_STEPS} rollouts of {_PROMPTS} prompts with 4 samples of at most "
        f"{_LONGEST} tokens, the default settings of all detectors. Eight runs are made to fail: a learning rate of 0.02 with next to no KL on "
        "a reward for one symbol (entropy), for another and for length (KL), and for the first and for length (repetition); a reward for "
        f"length alone; one that grows by 10 after rollout {_BREAK}; equal rewards; a critic with a learning rate of 0.3; a judge that is "
        f"down after rollout {_BREAK}. Two runs are healthy: PPO and GRPO on the reward for one symbol with β = 0.3 and a rate of 0.003. missed "
        "counts the failures whose own detector was silent, false_alarms all alarms of the healthy runs; step_NAME is the step at which "
        "the detector fired (0: never)."
    )
    baseline: ClassVar[str] = "none: both figures ought to be 0"
    rules: ClassVar[tuple[Rule, ...]] = (AtMost("missed", 0), AtMost("false_alarms", 0))
    remarks: ClassVar[str] = (
        "Limits and recipes were chosen on seeds 100 and 101, which are not among those of the figures. There the first healthy recipes, the "
        "ledger's own in the exact world with its short responses, gave false alarms of truncation and of entropy, and were exchanged for these "
        "gentler ones: where the optimum itself has little entropy, `entropy-collapse` says so. Failures are crude and responses "
        "short: how early a slow failure of a large model is seen is not shown."
    )

    def measure(self, seed: int, folder: Path) -> Measurement:
        lab = laboratory(seed, folder)
        steps = {name: alarms(run(lab, seed, changes)).get(name, 0) for name, changes in FAILURES.items()}
        figures = {
            "missed": float(sum(step == 0 for step in steps.values())),
            "false_alarms": float(sum(len(alarms(run(lab, seed, changes))) for changes in HEALTHY.values())),
        }
        return Measurement(figures | {f"step_{name}": float(step) for name, step in steps.items()})


def run(lab: Laboratory, seed: int, changes: dict[str, Any]) -> Outcome:
    """The stage with `changes`."""
    stage = lab.online(_STEPS, _PROMPTS, 4, 3e-3)
    stage["rollout"]["sampling"]["maximum_tokens"] = _LONGEST
    return lab.run(stage | changes, seed)


def alarms(outcome: Outcome) -> dict[str, int]:
    """The step of each detector's first alarm."""
    found: dict[str, int] = {}
    for row in read_json_lines(outcome.directory / "warnings.jsonl"):
        found.setdefault(row["detector"], row["step"])
    return found
