"""Learning a policy straight from preference pairs.

Knows: the loop over pairs, and where the reference comes from.
Does not know: the loss, where models run.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field, model_validator

from fairlead.batch import Pairs
from fairlead.data import FilterReport, PairRecord, SeededSampler, pairs_batch, to_pair_groups, to_pairs
from fairlead.objectives import DPO, PreferenceObjective
from fairlead.runs import StageRun
from fairlead.runtime import ModelGroup, OptimiserSpec
from fairlead.stages.base import EvenSources, Model, Sources, Stage, open_reference, reference_logprobs

__all__ = ["Preference"]


class Preference(Stage, name="preference"):
    """Preference optimisation on pairs: DPO and its family by choice of the objective.

    Source: Rafailov et al. 2023 (arXiv 2305.18290), section 4.
    """

    model: Model = Field(description="the policy to begin with")
    reference: Model | None = Field(None, description="the reference model; null: the policy as it begins")
    data: Sources = Field(description="preference pairs, or ranked responses")
    validation: EvenSources = Field(default_factory=list, description="held-out pairs")
    objective: PreferenceObjective = Field(default_factory=DPO, description="the loss")
    optimiser: OptimiserSpec = Field(
        default_factory=lambda: OptimiserSpec(learning_rate=1e-5), description="how the policy is trained"
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
    validate_every: int = Field(50, ge=1, description="steps between looks at the held-out pairs")

    @model_validator(mode="after")
    def _pairs_need_no_sampler(self) -> Preference:
        if self.objective.needs_previous:
            raise ValueError(
                f"objective {self.objective.part_name} learns from pairs that the policy itself has just sampled: use the stage "
                "preference-rounds, or another objective"
            )
        return self

    def run(self, run: StageRun) -> dict[str, Any]:
        groups, report = to_pair_groups([run.read(source) for source in self.data])
        run.count(report)
        steps = self.steps or max(1, round(self.epochs * len(groups) / self.batch_size))
        policy = run.open("policy", self.model, optimiser=self.optimiser, total_steps=steps)
        reference = open_reference(run, self.reference, self.model) if self.objective.needs_reference else None
        sampler = SeededSampler(report.sizes, self.batch_size, run.seed, weights=report.weights)
        run.keep("pairs", sampler)
        self.keep_parts(run)
        held_out = self._held_out(run, policy, reference)
        fitted = FilterReport()

        for step in run.steps(steps, self.save_every, self.retain):
            with run.phase("reference"):
                batch = self._batch(
                    [pair for index in sampler.next() for pair in groups[index]], policy, reference, fitted
                )
            with run.phase("update"):
                learned = policy.update(batch, self.objective)
            metrics = {f"policy/{name}": value for name, value in learned.items()} | {"tokens": float(batch.mask.sum())}
            if held_out is not None and (step % self.validate_every == 0 or step == steps):
                with run.phase("validate"):
                    metrics |= {f"validation/{k}": v for k, v in self._validate(held_out, policy).items()}
            run.log(step, metrics, ("policy/loss", "policy/accuracy", "policy/margin", "validation/accuracy"))

        run.count(fitted)
        result: dict[str, Any] = {"steps": steps, "pairs": report.kept}
        if held_out is not None:
            result["validation"] = self._validate(held_out, policy)
        return run.finish(result, policy)

    def _held_out(self, run: StageRun, policy: ModelGroup, reference: ModelGroup | None) -> Pairs | None:
        if not self.validation:
            return None
        held_out, report = to_pairs([run.read(source) for source in self.validation])
        run.count(report)
        fitted = FilterReport()
        batch = self._batch(held_out, policy, reference, fitted)
        run.count(fitted)
        return self.objective.prepare(batch)

    def _batch(
        self, pairs: list[PairRecord], policy: ModelGroup, reference: ModelGroup | None, report: FilterReport
    ) -> Pairs:
        batch = pairs_batch(pairs, policy.codec, self.maximum_prompt, self.maximum_response, report=report)
        if not self.objective.needs_reference:
            return batch
        return batch.replace(reference_logprobs=reference_logprobs(policy, reference, batch))

    def _validate(self, batch: Pairs, policy: ModelGroup) -> dict[str, float]:
        """Loss and metrics of the objective on held-out pairs, without a step."""
        with torch.no_grad():
            loss, metrics = self.objective(policy.outputs(batch, self.objective.needs), batch)
        return {"loss": float(loss), **{name: float(value) for name, value in metrics.items()}}
