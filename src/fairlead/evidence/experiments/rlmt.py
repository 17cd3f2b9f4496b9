"""RLMT: a policy that thinks against its twin that does not, under a judge that sees answers only.

Knows: digit sums, the recipe of the method.
Does not know: how figures become a verdict.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from fairlead.evidence.base import AtMost, Better, Experiment, Measurement, Rule
from fairlead.recipes.execute import execute
from fairlead.recipes.schema import Recipe
from fairlead.runs import read_json_lines
from fairlead.worlds import DigitSums

__all__ = ["ModelRewardedThinking"]

_DEMONSTRATIONS, _WRONG = 6400, 0.4
_STEPS, _LAST = 100, 10


class ModelRewardedThinking(Experiment, name="rlmt"):
    """Thinking and then answering against answering at once, both learned from a reward of the answer.

    Source: Bhaskar et al. 2025 (RLMT, arXiv 2509.20357), section 4.
    """

    claim: ClassVar[str] = (
        "A policy that thinks before it answers gains more from a reward of its answers than its twin that answers at once, and "
        "it gains through what it thinks"
    )
    experiment: ClassVar[str] = (
        "Sums of 5 digits modulo 5; a thought is the row of partial sums. A random network of 2 layers and width 64 imitates "
        f"{_DEMONSTRATIONS:,} demonstrations (AdamW at 1e-3, batch 32, 8 passes), of which {_WRONG:.0%} have a random thought and {_WRONG:.0%} "
        "a random answer; the twin imitates the same answers without thoughts. The reward of an answer is 1 less half its distance on the "
        f"circle of digits (chance 0.40), −0.5 for another form, −1 for none. GRPO, 8 samples of 24 prompts, {_STEPS} rollouts, AdamW at 5e-4, "
        f"k3 in the loss at 0.001. shortfall: 1 less the reward, mean of the last {_LAST} rollouts; malformed: share of responses without an "
        "answer in them; answer_only_share: the gain of the policy that learns from the tokens of its answers (and of malformed responses) alone, as a share of that "
        "of the policy that learns from all; the gain is the mean of the last rollouts less the reward of the first."
    )
    baseline: ClassVar[str] = "the twin that answers at once, the same in all else"
    rules: ClassVar[tuple[Rule, ...]] = (
        Better("shortfall", 0.5),
        AtMost("malformed", 0.02),
        AtMost("answer_only_share", 0.8),
    )

    def measure(self, seed: int, folder: Path) -> Measurement:
        world = DigitSums(seed=seed)
        model = world.save_model(folder / "model")
        thinking = _run(world, model, folder / "thinking", seed, thinks=True)
        plain = _run(world, model, folder / "plain", seed, thinks=False)
        ours = thinking["all"] | {f"{name}_answer_only": value for name, value in thinking["answer"].items()}
        ours["answer_only_share"] = thinking["answer"]["gain"] / thinking["all"]["gain"]
        return Measurement(ours, plain["all"])


def _run(world: DigitSums, model: Path, folder: Path, seed: int, thinks: bool) -> dict[str, dict[str, float]]:
    """Imitate, then learn from all tokens, and where there are thoughts also from those of the answers alone."""
    folder.mkdir()
    data = world.save_demonstrations(folder / "demonstrations.jsonl", _DEMONSTRATIONS, thinks, _WRONG)
    sft = {
        "model": str(model),
        "data": str(data),
        "packed": False,
        "learn": "last",
        "batch_size": 32,
        "epochs": 8,
        "save_every": 0,
        "optimiser": {"learning_rate": 1e-3, "schedule": "cosine", "warmup": 0.05},
    }
    learned = ("all", "answer") if thinks else ("all",)
    recipe = Recipe.model_validate(
        {
            "seed": seed,
            "runtime": {"threads": 1},
            "stages": {"sft": sft, **{name: _online(world, data, name, thinks) for name in learned}},
        }
    )
    execute(recipe, folder / "run", quiet=True)
    rows = read_json_lines(folder / "run" / "metrics.jsonl")
    return {name: _figures([row for row in rows if row["stage"] == name]) for name in learned}


def _online(world: DigitSums, data: Path, learn: str, thinks: bool) -> dict[str, Any]:
    judge = {"part": "answer", "strict": True, "delimiter": "</think>" if thinks else None, "reward": "digit-sum"}
    return {
        "part": "online",
        "model": "stage:sft",
        "prompts": str(data),
        "rewards": {"answer": judge},
        "rollout": {"part": "think", "n": 8, "learn": learn, "sampling": {"maximum_tokens": world.longest}},
        "credit": "group-relative",
        "regulariser": {"part": "kl", "coefficient": 0.001, "place": "loss", "estimator": "k3"},
        "steps": _STEPS,
        "batch_size": 24,
        "save_every": 0,
        "optimiser": {"learning_rate": 5e-4},
    }


def _figures(rows: list[dict[str, Any]]) -> dict[str, float]:
    first, last = rows[0]["channel/answer"], fmean(row["channel/answer"] for row in rows[-_LAST:])
    return {
        "shortfall": 1 - last,
        "first": first,
        "gain": last - first,
        "malformed": fmean(row["reward/answer/malformed"] for row in rows[-_LAST:]),
        "thought_length": rows[-1]["rollout/thought_length"],
    }
