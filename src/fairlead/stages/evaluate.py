"""Comparing policies on held-out prompts.

Knows: how texts of several models are drawn and judged side by side.
Does not know: how the models were made.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from fairlead import functional
from fairlead.batch import Experience, Samples
from fairlead.data import prompts_batch, to_prompts
from fairlead.evaluation import compare_policies
from fairlead.models import ModelSpec
from fairlead.rewards import Reward
from fairlead.rollouts import Rollout, SampleRollout
from fairlead.runs import StageRun
from fairlead.runtime import ModelGroup
from fairlead.stages.base import EvenSources, Stage

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

    def run(self, run: StageRun) -> dict[str, Any]:
        records, report = to_prompts([run.read(source) for source in self.prompts])
        run.count(report)
        records = records[: self.maximum_prompts]
        for name, judge in self.judges.items():
            judge.open(run, name)
        groups = {name: run.open(name, model) for name, model in self.models.items()}
        first = next(iter(groups.values()))
        rows: dict[str, list[dict[str, Any]]] = {}
        channels: dict[str, dict[str, list[float]]] = {}
        distances: dict[str, dict[str, float]] = {}

        for name, group in groups.items():
            run.run.console.note(f"{run.id}: {len(records)} responses of {name}")
            samples = self.rollout(group, prompts_batch(records, group.codec, run.seed))
            rows[name] = list(samples.rows)
            channels[name] = {judge: source(samples).tolist() for judge, source in self.judges.items()}
            distances[name] = _distance(samples, group, first, self.rollout.temperature) | {
                "truncated": float(samples.truncated.float().mean()),
                "tokens": float(samples.mask.sum(1).float().mean()),
            }
            run.log_samples(
                0, [{"model": name, "prompt": r["prompt"], "response": r["response"]} for r in rows[name][:8]]
            )

        result = compare_policies(list(groups), rows, channels)
        return run.finish({"prompts": len(records), "models": list(groups), "distances": distances, **result})


def _distance(samples: Samples, policy: ModelGroup, reference: ModelGroup, temperature: float) -> dict[str, float]:
    """KL of a whole response from the first model, nats; both at the temperature of sampling."""
    experience = Experience.from_samples(samples)
    own = policy.token_logprobs(experience, temperature)
    other = own if policy is reference else reference.token_logprobs(experience, temperature)
    return {
        f"kl_{estimator}": float(
            functional.masked_sum(functional.kl_estimate(own, other, estimator), experience.mask, dim=1).mean()
        )
        for estimator in ("k1", "k3")
    }
