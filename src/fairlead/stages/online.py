"""Online learning from reward: sample, judge, credit, update.

Knows: the order of an online step, and which groups it needs.
Does not know: where models run, or any method's mathematics.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from fairlead import functional
from fairlead.batch import Experience, Prompts, Samples
from fairlead.credit import GAE, Credit
from fairlead.data import SeededSampler, prompts_batch, to_prompts
from fairlead.diagnostics import Diagnostic
from fairlead.objectives import PolicyObjective, PPOClip, ValueClip, ValueObjective
from fairlead.regularisers import KL, Regulariser
from fairlead.rewards import Reward, combine
from fairlead.rollouts import Rollout, SampleRollout
from fairlead.runs import StageRun
from fairlead.runtime import ModelGroup, OptimiserSpec
from fairlead.selection import Selection
from fairlead.shaping import Shaping
from fairlead.stages.base import Model, Sources, Stage, open_reference, reference_logprobs

__all__ = ["Online"]

_HEADLINE = ("score", "kl/k1", "policy/entropy", "length", "policy/clip_fraction", "tokens_per_second")


class Online(Stage, name="online"):
    """Online reinforcement learning from any mix of rewards: PPO, GRPO, RLOO, REINFORCE++ by choice of parts.

    Source: Ouyang et al. 2022 (arXiv 2203.02155), section 3.5; the single-controller loop is HybridFlow's (Sheng et al. 2024,
    arXiv 2409.19256), algorithm of section 4.
    """

    model: Model = Field(description="the policy to begin with")
    prompts: Sources = Field(description="where prompts come from")
    rewards: dict[str, Reward] = Field(min_length=1, description="sources of reward by name, each with its weight")
    monitors: dict[str, Reward] = Field(
        default_factory=dict, description="judges that are recorded and never learned from"
    )
    diagnostics: dict[str, Diagnostic] = Field(default_factory=dict, description="what else is measured of the policy")
    monitor_every: int = Field(5, ge=1, description="steps between looks of the monitors and diagnostics")

    rollout: Rollout = Field(default_factory=SampleRollout, description="how responses are drawn")
    regulariser: Regulariser = Field(default_factory=KL, description="what keeps the policy near the reference")
    shaping: list[Shaping] = Field(default_factory=list, description="what becomes of the score, in order")
    selection: list[Selection] = Field(default_factory=list, description="which samples count, in order")
    credit: Credit = Field(default_factory=GAE, description="from rewards to advantages")
    objective: PolicyObjective = Field(default_factory=PPOClip, description="the policy's loss")
    value_objective: ValueObjective = Field(default_factory=ValueClip, description="the critic's loss")

    reference: Model | None = Field(None, description="the reference model; null: the policy as it begins")
    critic: Model | None = Field(
        None, description="where the critic begins; null: the policy's weights with a new head"
    )
    optimiser: OptimiserSpec = Field(default_factory=OptimiserSpec, description="how the policy is trained")
    critic_optimiser: OptimiserSpec | None = Field(None, description="how the critic is trained; null: as the policy")

    steps: int = Field(100, ge=1, description="rollouts")
    batch_size: int = Field(64, ge=1, description="prompts in each rollout")
    epochs: int = Field(1, ge=1, description="passes over each rollout")
    minibatches: int = Field(1, ge=1, description="optimiser steps in each pass")
    critic_warmup: int = Field(0, ge=0, description="rollouts in which only the critic learns")
    maximum_prompt: int | None = Field(
        None, ge=1, description="longest prompt, tokens; longer ones lose their beginning"
    )
    old_logprobs: Literal["auto", "sampler", "recompute"] = Field(
        "auto",
        description="the old policy of the ratio: as the sampler found it, or by another pass of the trainer, whose arithmetic "
        "differs in half precision and from vLLM's; auto: those of the own sampler in float32, else another pass",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Online:
        samples = getattr(self.rollout, "n", self.credit.minimum_samples)
        if samples < self.credit.minimum_samples:
            raise ValueError(
                f"credit {self.credit.part_name} compares at least {self.credit.minimum_samples} samples of a prompt: "
                f"set rollout.n to that or more (it is {samples})"
            )
        if not any(reward.weight for reward in self.rewards.values()):
            raise ValueError(
                "every reward has weight 0, so there is nothing to learn from; judges belong in `monitors`"
            )
        if self.critic_warmup and not self.credit.needs_values:
            raise ValueError(f"credit {self.credit.part_name} has no critic to warm up: leave critic_warmup at 0")
        if self.critic_warmup >= self.steps:
            raise ValueError(f"critic_warmup ({self.critic_warmup}) leaves no step of {self.steps} for the policy")
        return self

    def run(self, run: StageRun) -> dict[str, Any]:
        updates = self.epochs * self.minibatches
        policy = run.open(
            "policy", self.model, optimiser=self.optimiser, total_steps=(self.steps - self.critic_warmup) * updates
        )
        critic = self._open_critic(run, self.steps * updates)
        reference = open_reference(run, self.reference, self.model) if self.regulariser.needs_reference else None
        for name, source in (self.rewards | self.monitors | self.diagnostics).items():
            source.open(run, name)
        records, report = to_prompts([run.read(source) for source in self.prompts])
        if self.maximum_prompt is not None:
            cut = sum(len(policy.codec.encode_prompt(record.prompt)) > self.maximum_prompt for record in records)
            if cut:
                report.change(f"prompt cut to its last {self.maximum_prompt} tokens", count=cut)
        run.count(report)
        sampler = SeededSampler(report.sizes, self.batch_size, run.seed, weights=report.weights)
        run.keep("prompts", sampler)
        self.keep_parts(run)
        temperature = self.rollout.temperature
        objective = self.objective.at_temperature(temperature)

        for step in run.steps(self.steps, self.save_every, self.retain):
            looking = step % self.monitor_every == 0 or step in (1, self.steps)
            with run.phase("rollout"):
                prompts = self._draw(records, sampler, policy, run.seed + step)
                samples = self.rollout(policy, prompts)
            with run.phase("judge"):
                experience, metrics = self._judge(samples, policy, critic, reference, temperature)
                experience = self._weigh(experience)
                if looking:
                    metrics |= self._monitor(samples)
            metrics |= self.regulariser.observe(experience)
            experience = self.credit(experience)
            with run.phase("update"):
                loss = objective.with_kl(self.regulariser.loss_coefficient, self.regulariser.loss_estimator)
                if critic is not None:
                    learned = critic.update(
                        experience, self.value_objective, self.epochs, self.minibatches, run.seed + step
                    )
                    metrics |= {f"critic/{name}": value for name, value in learned.items()}
                if step > self.critic_warmup:
                    learned = policy.update(experience, loss, self.epochs, self.minibatches, run.seed + step)
                    metrics |= {f"policy/{name}": value for name, value in learned.items()}
            metrics |= _describe(experience)
            if looking:
                metrics |= self._diagnose(policy, experience)
            run.log(step, metrics, _HEADLINE)
            if looking:
                run.log_samples(step, _texts(experience))
        return run.finish({"steps": self.steps}, policy)

    # -- one paragraph of the step each ---------------------------------------------------------------------------------

    def _draw(self, records: list[Any], sampler: SeededSampler, policy: ModelGroup, seed: int) -> Prompts:
        chosen = [records[index] for index in sampler.next()]
        return prompts_batch(chosen, policy.codec, seed, maximum=self.maximum_prompt, overlong="truncate_left")

    def _judge(
        self,
        samples: Samples,
        policy: ModelGroup,
        critic: ModelGroup | None,
        reference: ModelGroup | None,
        temperature: float,
    ) -> tuple[Experience, dict[str, float]]:
        """Score the samples and fill in what the other models say about them."""
        experience = Experience.from_samples(samples)
        metrics: dict[str, float] = {}
        for name, source in self.rewards.items():
            experience.channels[name] = source(samples)
            metrics |= {f"reward/{name}/{key}": value for key, value in source.metrics().items()}
        experience = experience.replace(logprobs=self._old_logprobs(samples, experience, policy, temperature))
        if critic is not None:
            experience = experience.replace(values=critic.values(experience))
        if self.regulariser.needs_reference:
            logprobs = reference_logprobs(policy, reference, experience, temperature)
            experience = experience.replace(reference_logprobs=logprobs)
        return experience, metrics

    def _old_logprobs(self, samples: Samples, experience: Experience, policy: ModelGroup, temperature: float) -> Tensor:
        """[B, T]: recomputed by the trainer, the first ratio is exactly one; the sampler's cost nothing."""
        if self.old_logprobs == "sampler" or (self.old_logprobs == "auto" and policy.spec.exact_sampler):
            found = self.rollout.logprobs(samples)
            if found is not None and not bool(found.isnan().any()):
                return found
        return policy.token_logprobs(experience, temperature)

    def _weigh(self, experience: Experience) -> Experience:
        """Combine the channels, shape the score, select rows, lay the reward on tokens."""
        score = combine(dict(experience.channels.items()), self.rewards)
        failed = ~torch.isfinite(score) | ~experience.mask.any(1)
        experience = experience.replace(
            score=torch.where(failed, 0.0, score), weight=torch.where(failed, 0.0, experience.weight)
        )
        for shaping in self.shaping:
            experience = shaping(experience)
        for selection in self.selection:
            experience = selection(experience)
        rewards = functional.place_at_last_token(experience.score, experience.mask)
        return experience.replace(rewards=rewards - self.regulariser.penalty(experience))

    def _monitor(self, samples: Samples) -> dict[str, float]:
        return {f"monitor/{name}": float(source(samples).nanmean()) for name, source in self.monitors.items()}

    def _diagnose(self, policy: ModelGroup, experience: Experience) -> dict[str, float]:
        return {
            f"diagnostic/{name}/{key}": value
            for name, diagnostic in self.diagnostics.items()
            for key, value in diagnostic(policy, experience).items()
        }

    # -- what the step needs --------------------------------------------------------------------------------------------

    def _open_critic(self, run: StageRun, updates: int) -> ModelGroup | None:
        if not self.credit.needs_values:
            return None
        model = self.critic or self.model
        return run.open("critic", model, "scalar", self.critic_optimiser or self.optimiser, updates)


def _describe(experience: Experience) -> dict[str, float]:
    """What is always measured of a rollout."""
    lengths = experience.mask.sum(1).float()
    counted = experience.weight > 0
    metrics = {
        "score": float(experience.score[counted].mean()) if bool(counted.any()) else float("nan"),
        "score_spread": float(experience.score[counted].std()) if int(counted.sum()) > 1 else 0.0,
        "length": float(lengths.mean()),
        "truncated": float(experience.truncated.float().mean()),
        "counted_rows": float(counted.float().mean()),
        "mismatch": float(
            functional.masked_mean((experience.logprobs - experience.behaviour_logprobs).abs(), experience.mask)
        ),
        "tokens": float(lengths.sum()),
    }
    for name, channel in experience.channels.items():
        metrics[f"channel/{name}"] = float(channel.nanmean())
        metrics[f"failed/{name}"] = float(channel.isnan().float().mean())
    if experience.values is not None and experience.returns is not None:
        metrics["critic/explained_variance"] = functional.explained_variance(
            experience.values, experience.returns, experience.mask
        )
    return metrics


def _texts(experience: Experience, limit: int = 4) -> list[dict[str, Any]]:
    rows = list(experience.rows)[:limit]
    return [
        {"prompt": row["prompt"], "response": row["response"], "score": float(experience.score[index])}
        for index, row in enumerate(rows)
    ]
