"""BAI: reinforcement learning from a balanced start, against that from an imitation of long answers.

Knows: the token world, the recipe of the method.
Does not know: how figures become a verdict.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch

from fairlead import functional
from fairlead.evidence.base import AtMost, Better, Experiment, Measurement, Rule
from fairlead.evidence.laboratory import Laboratory, Outcome
from fairlead.worlds import TokenWorld

__all__ = ["BalancedStart", "middle_length"]

_SHARES = (0.1, 0.5)
_STEPS = 80
_MIDDLE = 4
_TRUE = 0.25


class BalancedStart(Experiment, name="bai"):
    """Starts merged from two imitations and their base, against the imitation of long answers alone.

    Source: Balanced Actor Initialization (arXiv 2509.00309).
    """

    claim: ClassVar[str] = (
        "Merging a model that imitates long answers with one that imitates short ones, and with their base, keeps lengths from "
        "collapsing at the start of reinforcement learning, at no cost in reward"
    )
    experiment: ClassVar[str] = (
        "Token world of 1,093 responses to 3 prompts (3 symbols, 6 tokens; another world for every seed). Two imitations of 200 responses "
        "each, drawn from π ∝ exp(r) among those of 1 or 2 and of 5 symbols (AdamW at 2e-3, batch 8, 10 epochs). "
        f"The reward is {_TRUE:g} "
        f"of the true one and 2 · max(0, 1 − |symbols − {_MIDDLE}| / {_MIDDLE}), whose optimum has {_MIDDLE + 1} tokens with the end in every world, so it is the "
        "reward that shortens what imitates long answers. "
        f"Group-relative advantages, {_STEPS} rollouts of 12 prompts with 8 samples, KL to the start at 0.02, AdamW at 2e-3. lost_length is "
        "1 less the smallest share of the first length that the running mean over 5 rollouts falls to, for the method the worst of "
        f"merges with {' and '.join(map(str, _SHARES))} of the base; lost_length_sft of the average of the imitations alone. deficit is the "
        "baseline's reward less the method's, mean over the last 5 rollouts. dip is the depth of the fall of the reward."
    )
    baseline: ClassVar[str] = "the same from the imitation of long answers"
    rules: ClassVar[tuple[Rule, ...]] = (
        Better("lost_length", 0.5),
        AtMost("lost_length", 0.1),
        AtMost("deficit", 0.05),
    )
    remarks: ClassVar[str] = (
        "A first run, on the whole true reward and a middle of 3 symbols for 40 rollouts, did not hold (revision 30a5c4d): lost_length was 0.0562 ± "
        "0.097 against 0.138 ± 0.06, deficit 0.0133 ± 0.23. Nothing shortened answers there in two of three worlds: the best response under that "
        "reward has 6.0, 4.0 and 5.8 tokens by seed, since the true reward is a sum over tokens, and 6 is the most there is. In this run "
        "the length outweighs it; the optimum lies between the lengths of the imitations, and the rules are those of the first run. Merges begin "
        "at or below the optimum's 5 tokens, so that they have none to lose, and the long imitation loses a fifth: no collapse as deep as the paper's."
    )

    def measure(self, seed: int, folder: Path) -> Measurement:
        lab = Laboratory(TokenWorld(symbols=3, maximum_tokens=6, prompts=3, seed=seed), folder)
        merge: dict[str, Any] = {"part": "merge"}
        starts = {
            f"start_{round(100 * share)}": merge
            | {
                "models": {"sft": "stage:sft", "base": str(lab.reference)},
                "merger": {"weights": {"sft": 1 - share, "base": share}},
            }
            for share in _SHARES
        }
        made = lab.run_all(
            {
                "short": self._imitate(lab, seed, 1, 2),
                "long": self._imitate(lab, seed, 5, 5),
                "sft": merge | {"models": {"short": "stage:short", "long": "stage:long"}},
                **starts,
            },
            seed,
            "imitations",
        )
        found = {name: self._train(lab, seed, made[name]) for name in ("long", "sft", *starts)}
        ours = {key: max(found[name][key] for name in starts) for key in ("lost_length", "dip")}
        ours["deficit"] = found["long"]["reward"] - min(found[name]["reward"] for name in starts)
        ours |= {f"{key}_{name}": value for name in ("sft", *starts) for key, value in found[name].items()}
        return Measurement(ours, found["long"])

    def _imitate(self, lab: Laboratory, seed: int, shortest: int, longest: int) -> dict[str, Any]:
        symbols = torch.tensor([len(text.split()) for text in lab.world.texts])
        fitting = (symbols >= shortest) & (symbols <= longest)
        path = lab.demonstrations(torch.log_softmax(lab.world.rewards.masked_fill(~fitting, -torch.inf), -1), 200, seed)
        return {
            "part": "sft",
            "model": str(lab.reference),
            "data": str(path),
            "packed": False,
            "batch_size": 8,
            "epochs": 10,
            "optimiser": {"learning_rate": 2e-3},
        }

    def _train(self, lab: Laboratory, seed: int, start: Outcome) -> dict[str, float]:
        changes = {
            "model": str(start.model),
            "regulariser": {"part": "kl", "coefficient": 0.02},
            "credit": "group-relative",
        }
        stage = lab.online(_STEPS, 12, 8, 2e-3, **changes)
        stage["rewards"]["true"]["weight"] = _TRUE
        stage["rewards"]["length"] = lab.function_reward("fairlead.evidence.experiments.bai:middle_length", 2.0)
        rows = lab.run(stage, seed).metrics
        lengths, rewards = ([float(row[key]) for row in rows] for key in ("length", "score"))
        return {
            "lost_length": 1 - functional.length_retention(lengths),
            "first_length": lengths[0],
            "dip": functional.dip_depth(rewards),
            "reward": functional.running_mean(rewards, 5)[-1],
        }


def middle_length(prompt: str, response: str) -> float:
    """1 for a response of the middle length, falling to 0 for an empty one and one twice as long."""
    return max(0.0, 1 - abs(len(response.split()) - _MIDDLE) / _MIDDLE)
