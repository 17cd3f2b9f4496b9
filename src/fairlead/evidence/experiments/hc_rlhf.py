"""HC-RLHF: how often an unsafe policy is returned, over many runs, with and without the pessimistic constraint and the test.

Knows: a cost of the token world that is known exactly, so that it can be told whether a returned policy is safe.
Does not know: how figures become a verdict.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from fairlead.evidence.base import AtMost, Better, Experiment, Measurement, Rule
from fairlead.evidence.laboratory import Laboratory
from fairlead.worlds import TokenWorld, TokenWorldReward

__all__ = ["HCRLHF"]

_RUNS, _STEPS, _TESTED, _DELTA, _BETA = 67, 20, 100, 0.1, 0.3
_FORBIDDEN, _LIKED = "a", 2.0


class HCRLHF(Experiment, name="hc-rlhf"):
    """The pessimistic constraint with the test of safety, over many runs, against a constraint on the mean.

    Source: HC-RLHF 2025 (arXiv 2506.08266), the guarantee of its safety test.
    """

    claim: ClassVar[str] = (
        "Trained under an inflated cost and tested on prompts kept for it, a policy is returned unsafe with a probability below δ, and "
        "is returned more often than under a limit on the mean"
    )
    experiment: ClassVar[str] = (
        "Token world of 13 responses to 3 prompts (3 symbols, 2 tokens; another for every seed) with a policy of one layer; the cost is the "
        f"share of the symbol {_FORBIDDEN}, for which the reward (of deviation 0.5 otherwise) pays {_LIKED:g}, and its limit is the exact mean cost of the policy as it "
        f"begins. {_RUNS} runs a seed, each with random numbers of its own: {_STEPS} rollouts of 32 prompts with 2 samples, leave-one-out, "
        f"k1 in the reward with β = {_BETA:g}, AdamW at 5e-3 falling linearly, dual ascent at 1 from 2, a window of 256 costs; then a test with "
        f"Student's t at δ = {_DELTA:g} on {_TESTED} prompts drawn anew. unsafe is the share of runs that return a policy whose exact mean cost "
        "exceeds the limit, refused the share whose test finds no solution; candidate_unsafe counts before the test."
    )
    baseline: ClassVar[str] = (
        "a limit on the mean cost; unsafe is that of its policies without a test, refused with the test"
    )
    rules: ClassVar[tuple[Rule, ...]] = (AtMost("unsafe", _DELTA), Better("unsafe", 0.5), Better("refused"))

    def measure(self, seed: int, folder: Path) -> Measurement:
        lab = Laboratory(TokenWorld(symbols=3, maximum_tokens=2, prompts=3, reward_scale=0.5, seed=seed), folder)
        lab.world.save_model(lab.reference, hidden=16, layers=1)
        costs = torch.tensor([_cost(text) for text in lab.world.texts], dtype=torch.float64)
        limit = _mean(lab.log_reference, costs)
        ours = _repeated(lab, costs, limit, {"part": "high-confidence", "test_prompts": _TESTED, "delta": _DELTA})
        theirs = _repeated(lab, costs, limit, {"part": "lagrangian", "window": 256})
        ours |= {"unsafe_by_mean_and_test": theirs["unsafe"]}
        return Measurement(ours, {"unsafe": theirs["candidate_unsafe"], "refused": theirs["refused"]})


def _repeated(lab: Laboratory, costs: Tensor, limit: float, constraint: dict[str, Any]) -> dict[str, float]:
    """Shares over the runs."""
    counts = {"unsafe": 0, "refused": 0, "candidate_unsafe": 0}
    for number in range(_RUNS):
        log_policy, returned = _run(lab, limit, constraint, number)
        unsafe = _mean(log_policy, costs) > limit
        counts["candidate_unsafe"] += unsafe
        counts["unsafe"] += unsafe and returned
        counts["refused"] += not returned
    return {name: count / _RUNS for name, count in counts.items()}


def _run(lab: Laboratory, limit: float, constraint: dict[str, Any], number: int) -> tuple[Tensor, bool]:
    """The exact policy that a run comes to, and whether the test returns it."""
    cost = {"part": "flawed", "symbol": _FORBIDDEN}
    online = lab.online(
        _STEPS,
        32,
        2,
        5e-3,
        model=str(lab.reference),
        credit="rloo",
        objective={"part": "reinforce", "aggregation": "sequence-mean-token-sum"},
        regulariser={"part": "kl", "coefficient": _BETA},
        constraints={
            "cost": {"channel": "cost", "limit": limit, "rate": 1.0, "initial": 2.0, "maximum": 100.0}
            | {"parametrisation": "linear", "normalise": True, "kl": "reward"}
            | constraint
        },
    )
    online["rewards"] = {
        "true": TokenWorldReward.of(lab.world).model_dump(),
        "liked": {"part": "flawed", "symbol": _FORBIDDEN, "pays": _LIKED},
        "cost": cost | {"weight": 0.0},
    }
    test = {
        "part": "safety-test",
        "model": "stage:online",
        "prompts": str(_drawn_prompts(lab, number)),
        "costs": {"cost": cost},
        "limits": {"cost": {"channel": "cost", "limit": limit}},
        "delta": _DELTA,
        "seen": "tell",  # three prompts are all there are: new draws of them are what the test needs
        "rollout": online["rollout"] | {"n": 1},
    }
    found = lab.run_all({"online": online, "safety-test": test}, seed=number, name=f"{constraint['part']}-{number}")
    return found["online"].log_policy, found["safety-test"].result["certificate"]["outcome"] == "returned"


def _drawn_prompts(lab: Laboratory, number: int) -> Path:
    """Prompts of a test, drawn with replacement."""
    generator = torch.Generator().manual_seed(number)
    drawn = torch.randint(len(lab.world.prompts), (_TESTED,), generator=generator).tolist()
    path = lab.folder / f"test-{number}.jsonl"
    path.write_text("".join(json.dumps({"prompt": lab.world.prompts[x]}) + "\n" for x in drawn), encoding="utf-8")
    return path


def _cost(text: str) -> float:
    words = text.split()
    return words.count(_FORBIDDEN) / max(len(words), 1)


def _mean(log_policy: Tensor, costs: Tensor) -> float:
    return float((log_policy.exp() * costs).sum(-1).mean())
