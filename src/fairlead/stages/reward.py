"""Learning a reward model from preference pairs.

Knows: the loop over pairs, and what is said about the finished model.
Does not know: the loss, where the model runs.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field

from fairlead.batch import Pairs
from fairlead.data import FilterReport, PairRecord, SeededSampler, TextCodec, pairs_batch, to_pair_groups, to_pairs
from fairlead.evaluation import bag_of_words_accuracy, judge_pairs
from fairlead.objectives import BradleyTerry, RewardObjective
from fairlead.runs import StageRun
from fairlead.runtime import OptimiserSpec
from fairlead.stages.base import EvenSources, Model, Sources, Stage

__all__ = ["RewardModel"]


class RewardModel(Stage, name="reward"):
    """Train a reward model on pairs and compare it with trivial rules on held-out pairs.

    Source: Ouyang et al. 2022 (arXiv 2203.02155), section 3.5.
    """

    model: Model = Field(description="the model whose backbone is used")
    data: Sources = Field(description="preference pairs, or ranked responses")
    validation: EvenSources = Field(default_factory=list, description="held-out pairs")
    objective: RewardObjective = Field(default_factory=BradleyTerry, description="the loss")
    optimiser: OptimiserSpec = Field(
        default_factory=lambda: OptimiserSpec(learning_rate=5e-5), description="how the model is trained"
    )
    batch_size: int = Field(
        32,
        ge=1,
        description="records of the data in one optimiser step, each with all its pairs (Ouyang et al. 2022, section 3.5)",
    )
    epochs: float = Field(1.0, gt=0, description="passes over the data; used when `steps` is null")
    steps: int | None = Field(None, ge=1, description="optimiser steps")
    maximum_prompt: int | None = Field(
        None, ge=1, description="longest prompt in tokens; longer ones lose their beginning"
    )
    maximum_response: int | None = Field(
        None, ge=1, description="longest response in tokens; longer ones lose their end"
    )
    validate_every: int = Field(50, ge=1, description="steps between looks at the validation accuracy")

    def run(self, run: StageRun) -> dict[str, Any]:
        groups, report = to_pair_groups([run.read(source) for source in self.data])
        run.count(report)
        steps = self.steps or max(1, round(self.epochs * len(groups) / self.batch_size))
        model = run.open("reward", self.model, "scalar", self.optimiser, steps)
        sampler = SeededSampler(report.sizes, self.batch_size, run.seed, weights=report.weights)
        run.keep("pairs", sampler)
        self.keep_parts(run)
        held_out = self._held_out(run, model.codec)
        fitted = FilterReport()

        for step in run.steps(steps, self.save_every, self.retain):
            batch = self._batch([pair for index in sampler.next() for pair in groups[index]], model.codec, fitted)
            with run.phase("update"):
                learned = model.update(batch, self.objective)
            metrics = {f"policy/{name}": value for name, value in learned.items()} | {"tokens": float(batch.mask.sum())}
            if held_out is not None and (step % self.validate_every == 0 or step == steps):
                with run.phase("validate"):
                    scores = self.objective.direction * model.scores(held_out)
                difference = scores[:, 0] - scores[:, 1]
                metrics["validation/accuracy"] = float((difference > 0).float().mean())
                metrics["validation/loss"] = float(torch.nn.functional.softplus(-difference).mean())
            run.log(step, metrics, ("policy/loss", "policy/accuracy", "validation/accuracy"))

        run.count(fitted)
        result: dict[str, Any] = {"steps": steps, "pairs": report.kept}
        if held_out is not None:
            scores, rows = self.objective.direction * model.scores(held_out), list(held_out.rows)
            result["validation"] = judge_pairs(scores[:, 0], scores[:, 1], rows)
            result["validation"]["baselines"]["bag_of_words"] = bag_of_words_accuracy(
                [_row(pair) for group in groups for pair in group], rows
            )
        return run.finish(result, model)

    def _held_out(self, run: StageRun, codec: TextCodec) -> Pairs | None:
        if not self.validation:
            return None
        held_out, report = to_pairs([run.read(source) for source in self.validation])
        run.count(report)
        fitted = FilterReport()
        batch = self._batch(held_out, codec, fitted)
        run.count(fitted)
        return batch

    def _batch(self, pairs: list[PairRecord], codec: TextCodec, report: FilterReport) -> Pairs:
        return pairs_batch(pairs, codec, self.maximum_prompt, self.maximum_response, report=report)


def _row(pair: PairRecord) -> dict[str, Any]:
    return {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
