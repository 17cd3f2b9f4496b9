"""The pairwise preference model: whether it learns P(y ≻ y′), circles included, from pairs alone.

Knows: the cyclic preference of the token world, pairs drawn from it.
Does not know: how figures become a verdict.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from fairlead import functional
from fairlead.data import LABELS, comparison
from fairlead.evidence.base import AtMost, Better, Experiment, Measurement, Rule
from fairlead.evidence.laboratory import Laboratory
from fairlead.models import ModelKind, ModelSpec
from fairlead.rewards import ModelOracle
from fairlead.runtime import ModelGroup
from fairlead.worlds import TokenWorld, cyclic_preferences
from fairlead.worlds.models import save_random_llama

__all__ = ["PairwiseModel", "by_scores", "circles"]

_PAIRS, _PASSES, _CLEAR = 12_000, 3, 0.6


class PairwiseModel(Experiment, name="pairwise-model"):
    """A language model that reads both responses against a reward model, on the same pairs of a preference that goes in circles.

    Source: Munos et al. 2023 (arXiv 2312.00886), section 3; Dong et al. 2024 (RLHF Workflow, arXiv 2405.07863), section 2.
    """

    claim: ClassVar[str] = (
        "A model that reads both responses recovers P(y ≻ y′) from pairs also where preferences go in a circle, which no "
        "Bradley–Terry score can express"
    )
    experiment: ClassVar[str] = (
        "Token world of 13 responses to 3 prompts (3 symbols, 2 tokens; another reference policy for every seed). a beats b with "
        "probability 0.9, b beats c with 0.8, c beats a with 0.8, a missing symbol loses with 0.9; a response beats another with the mean "
        f"over places. {_PAIRS:,} pairs of the reference's responses with drawn labels. The judge is a random transformer of two layers, trained by "
        f"the stage sft on both orders of every pair ({_PASSES} passes, batches of 128, AdamW at 3e-3 falling linearly) and asked as the oracle "
        "pairwise-model. error is the mean of |P̂ − P| over pairs as often as they occur, exact; missed_circles the share, weighted in the same "
        f"way, of the triples in which each beats the next with more than {_CLEAR:g}, and that the judge does not see as a circle; error_one_order that of "
        "the answers in one order; error_of_scores that of the best Bradley–Terry scores there are; error_of_counts what frequencies in as many "
        "pairs are expected to be off by, every prompt counted for itself, error_of_pooled_counts with all prompts counted together."
    )
    baseline: ClassVar[str] = (
        f"a Bradley–Terry reward model on the same pairs, {_PASSES} passes in batches of 128, AdamW at 5e-3"
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        Better("error", 0.5),
        AtMost("error", 0.05),
        Better("missed_circles", 0.2),
        AtMost("missed_circles", 0.1),
    )
    remarks: ClassVar[str] = (
        "It has nearly all circles, where scores have none and the reward model ends near the best of them. What did not hold is the limit of 0.05 "
        "on the error, which was chosen without a look at what the labels can say: the judge is as near as frequencies counted for every prompt are "
        "(error_of_counts), and nothing tells it that the prompts may be counted together. Asking both orders takes a fifth of the error away."
    )

    def measure(self, seed: int, folder: Path) -> Measurement:
        lab = Laboratory(TokenWorld(symbols=3, maximum_tokens=2, prompts=3, seed=seed), folder)
        world, truth = lab.world, cyclic_preferences(lab.world)
        pairs = world.save_pairs(folder / "circles.jsonl", lab.log_reference, _PAIRS, seed, truth)
        oracle = ModelOracle(model=ModelSpec(path=str(_trained_judge(lab, pairs, seed))))
        oracle.open(_Opening(lab), "judge")
        found = _figures(lab, _asked(lab, oracle), truth)
        found["error_one_order"] = _figures(lab, _asked(lab, oracle, both=False), truth)["error"]
        often = world.pair_probabilities(lab.log_reference)[0]
        found["error_of_counts"] = _counting_error(often, truth)
        found["error_of_pooled_counts"] = _counting_error(often.sum(0, keepdim=True), truth)
        stage = lab.from_pairs("reward", pairs, rate=5e-3, epochs=_PASSES)
        scores = (
            lab.open(lab.run(stage, seed).model, "scalar").scores(world.batch).double().reshape(world.rewards.shape)
        )
        best = torch.stack([functional.bradley_terry_scores(truth, row) for row in often])
        baseline = _figures(lab, by_scores(scores), truth)
        baseline["error_of_scores"] = _figures(lab, by_scores(best), truth)["error"]
        return Measurement(found, baseline)


class _Opening:
    """Opens models for a part as the run of a stage would."""

    def __init__(self, lab: Laboratory) -> None:
        self._lab = lab

    def open(self, role: str, model: ModelSpec, kind: ModelKind = "causal") -> ModelGroup:
        return self._lab.open(Path(model.path), kind)


def _trained_judge(lab: Laboratory, pairs: Path, seed: int) -> Path:
    """The directory of a model that has learned the comparisons of a file of pairs; it speaks the words of the question."""
    question = comparison("", "", "")[0]["content"].split()  # type: ignore[index]
    words = ["<end>", "User:", "Assistant:", *dict.fromkeys([*question, *lab.world.symbols, *LABELS])]
    blank = save_random_llama(lab.folder / "judge", words, hidden=48, heads=4, context=64, seed=seed, spread=0.08)
    stage: dict[str, Any] = {
        "part": "sft",
        "model": str(blank),
        "data": {"path": str(pairs), "transform": "fairlead.data:comparisons"},
        "learn": "last",
        "packed": False,
        "maximum_length": 48,
        "epochs": _PASSES,
        "batch_size": 128,
        "optimiser": {"learning_rate": 3e-3, "schedule": "linear", "floor": 0.05},
    }
    return lab.run(stage, seed).model


def _asked(lab: Laboratory, oracle: ModelOracle, both: bool = True) -> Tensor:
    """[X, Y, Y]: P(y ≻ y′) as the oracle says; from both orders, or from one alone."""
    prompts, responses = lab.world.rewards.shape
    x, y, z = torch.meshgrid(*(torch.arange(n) for n in (prompts, responses, responses)), indexing="ij")
    first, second = (x * responses + y).flatten(), (x * responses + z).flatten()
    ask = oracle if both else oracle.prefers
    return ask(lab.world.batch, first, second).double().reshape(x.shape)


def _counting_error(often: Tensor, truth: Tensor) -> float:
    """Mean of |frequency − P| where each pair comes up as often, [X, Y, Y], as it is expected to (normal approximation)."""
    counts = (_PAIRS * (often + often.transpose(1, 2))).clamp(min=1)
    return float((often * (2 / math.pi * truth * (1 - truth) / counts).sqrt()).sum())


def by_scores(scores: Tensor) -> Tensor:
    """[X, Y, Y] of scores [X, Y]."""
    return torch.sigmoid(scores[:, :, None] - scores[:, None, :])


def _figures(lab: Laboratory, found: Tensor, truth: Tensor) -> dict[str, float]:
    """How far what was found, [X, Y, Y], is from the preference, and which of its circles it has not."""
    often = lab.world.pair_probabilities(lab.log_reference)[0]
    occurs = lab.world.without_empty(lab.log_reference).exp()
    weight = occurs[:, :, None, None] * occurs[:, None, :, None] * occurs[:, None, None, :]
    weight = weight * circles(truth[None], _CLEAR)
    return {
        "error": float((often * (found - truth).abs()).sum()),
        "missed_circles": 1 - float((weight * circles(found, 0.5)).sum() / weight.sum()),
    }


def circles(preference: Tensor, above: float) -> Tensor:
    """[X, Y, Y, Y] bool: y beats y′, y′ beats y″ and y″ beats y, each with more than `above`."""
    wins = preference > above
    return wins[:, :, :, None] & wins[:, None, :, :] & wins.transpose(1, 2)[:, :, None, :]
