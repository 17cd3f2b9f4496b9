"""Comparing policies on held-out prompts.

Knows: how texts of several models are drawn and judged side by side.
Does not know: how the models were made.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor

from fairlead import functional
from fairlead.batch import Experience, Samples
from fairlead.data import prompts_batch, to_prompts
from fairlead.evaluation import compare_policies
from fairlead.models import ModelSpec
from fairlead.rewards import Reward
from fairlead.rollouts import Rollout, SampleRollout
from fairlead.runs import StageRun
from fairlead.runtime import ModelGroup
from fairlead.stages.base import EvenSources, Stage, shown_response

__all__ = ["Evaluate"]


def _models(value: Any) -> Any:
    return {name: ModelSpec.coerce(model) for name, model in value.items()} if isinstance(value, dict) else value


class Evaluate(Stage, name="evaluate"):
    """Draw responses of several models to the same held-out prompts with the same seeds, and judge them side by side.

    Source: paired comparison as in Stiennon et al. 2020 (arXiv 2009.01325), section 4; the KL to the first model is the k1 and
    k3 estimates over its samples' tokens.
    """

    models: Annotated[dict[str, ModelSpec], BeforeValidator(_models)] = Field(
        min_length=1, description="name → model; the first is what the others are compared with"
    )
    prompts: EvenSources = Field(description="held-out prompts")
    judges: dict[str, Reward] = Field(min_length=1, description="name → judge")
    rollout: Rollout = Field(default_factory=SampleRollout, description="how responses are drawn")
    maximum_prompts: int | None = Field(None, ge=1, description="use only the first so many prompts")
    batch_size: int = Field(
        256, ge=1, description="prompts answered at a time; a run that is asked to stop stops between two batches"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Evaluate:
        if self.rollout.draws_anchor:
            raise ValueError(
                f"the models' answers are compared with each other, and rollout {self.rollout.part_name} draws others beside them: "
                "set rollout.part to sample"
            )
        return self

    def run(self, run: StageRun) -> dict[str, Any]:
        records, report = to_prompts([run.read(source) for source in self.prompts])
        run.count(report)
        records = records[: self.maximum_prompts]
        for name, judge in self.judges.items():
            judge.open(run, name)
        groups = {name: run.open(name, model) for name, model in self.models.items()}
        first = next(iter(groups.values()))
        self.rollout.open(run, next(iter(self.models.values())), None)
        answers = _Answers(list(groups), len(records))
        run.keep("answers", answers)
        self.keep_parts(run)
        # No record at all is one batch, which says that there is none.
        batches = [(name, start) for name in groups for start in range(0, len(records) or 1, self.batch_size)]

        for step in run.steps(len(batches), self.save_every, self.retain):
            name, start = batches[step - 1]
            prompts = prompts_batch(records[start : start + self.batch_size], groups[name].codec, run.seed, start)
            samples = self.rollout(groups[name], prompts)
            verdicts = {judge: source(samples) for judge, source in self.judges.items()}
            answers.add(name, samples, verdicts, _measure(samples, groups[name], first, self.rollout.temperature))
            if start == 0:
                shown = answers.rows[name][:8]
                run.log_samples(
                    0, [{"model": name, "prompt": row["prompt"], "response": shown_response(row)} for row in shown]
                )
            run.run.console.step(step, {})

        result = compare_policies(list(groups), answers.rows, answers.verdicts)
        return run.finish({"prompts": len(records), "models": list(groups), "distances": answers.means(), **result})


class _Answers:
    """What the models said, and what was found of it, a row a response: what an interrupted stage must not lose."""

    def __init__(self, models: list[str], prompts: int) -> None:
        self.prompts = prompts
        self.rows: dict[str, list[dict[str, Any]]] = {name: [] for name in models}
        self.verdicts: dict[str, dict[str, list[float]]] = {name: {} for name in models}
        self.measures: dict[str, dict[str, list[float]]] = {name: {} for name in models}

    def add(self, model: str, samples: Samples, verdicts: dict[str, Tensor], measures: dict[str, Tensor]) -> None:
        """Append a batch of a model."""
        self.rows[model] += list(samples.rows)
        for table, new in ((self.verdicts[model], verdicts), (self.measures[model], measures)):
            for name, values in new.items():
                table.setdefault(name, []).extend(values.tolist())

    def means(self) -> dict[str, dict[str, float]]:
        """Model → measure → mean over its responses."""
        return {
            model: {name: float(torch.tensor(values).mean()) for name, values in table.items()}
            for model, table in self.measures.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything so far."""
        return {
            "prompts": self.prompts,
            "rows": self.rows,
            "verdicts": self.verdicts,
            "measures": self.measures,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; ValueError when the prompts are no longer the same."""
        if state["prompts"] != self.prompts:
            raise ValueError(f"the data has changed: there were {state['prompts']} prompts and are {self.prompts} now")
        self.rows, self.verdicts, self.measures = state["rows"], state["verdicts"], state["measures"]


def _measure(samples: Samples, policy: ModelGroup, reference: ModelGroup, temperature: float) -> dict[str, Tensor]:
    """[B] each: the KL of a whole response from the first model (nats, both at the temperature of sampling), and its length."""
    experience = Experience.from_samples(samples)
    own = policy.token_logprobs(experience, temperature)
    other = own if policy is reference else reference.token_logprobs(experience, temperature)
    distances = {
        f"kl_{estimator}": functional.masked_sum(functional.kl_estimate(own, other, estimator), experience.mask, dim=1)
        for estimator in ("k1", "k3")
    }
    return distances | {"truncated": samples.truncated.float(), "tokens": samples.mask.sum(1).float()}
