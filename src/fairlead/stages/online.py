"""Online learning from reward: sample, judge, credit, update.

Knows: the order of an online step, and which groups it needs.
Does not know: where models run, or any method's mathematics.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from fairlead import functional
from fairlead.batch import Experience, Prompts, Samples, in_turn, take
from fairlead.constraints import Constraint, cost_lesson, with_lagrangian, with_lessons
from fairlead.credit import GAE, Credit
from fairlead.data import SeededSampler, prompts_batch, to_prompts
from fairlead.detectors import Detectors, Rollback, default_detectors, raised
from fairlead.diagnostics import Diagnostic
from fairlead.models import ModelSpec
from fairlead.objectives import OneTrunk, PolicyObjective, PPOClip, ValueClip, ValueObjective
from fairlead.parts import nearest
from fairlead.regularisers import KL, Regulariser
from fairlead.rewards import Reward, combine
from fairlead.rollouts import Collection, Once, Rollout, SampleRollout
from fairlead.runs import RunError, StageRun
from fairlead.runtime import ModelGroup, OptimiserSpec, Trainable
from fairlead.selection import Selection
from fairlead.shaping import Shaping
from fairlead.stages.ahead import Ahead, Draw
from fairlead.stages.base import (
    Model,
    Sources,
    Stage,
    fitting_prompts,
    open_reference,
    reference_logprobs,
)
from fairlead.stages.critics import Critic, Trunk
from fairlead.stages.described import describe, texts
from fairlead.stages.rehearsal import Rehearsal
from fairlead.stages.revisiting import Revisit

__all__ = ["Online"]

_HEADLINE = ("score", "kl/k1", "policy/entropy", "length", "policy/clip_fraction", "tokens_per_second")


@dataclass(frozen=True)
class _Models:
    """The groups of a run; those that it does not need are None."""

    policy: ModelGroup
    values: ModelGroup | None
    """Whom values are asked of: the critic, or the policy where it has a head for them."""
    critic: ModelGroup | None
    """A critic with an optimiser of its own."""
    reference: ModelGroup | None
    costs: dict[str, ModelGroup | None]
    """The critic of each constraint's cost."""
    rollouts: Ahead
    """What the policy draws, or the group that draws for it."""


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

    detectors: Detectors = Field(
        default_factory=default_detectors,
        description="what watches the run and warns, by name; those named by default stay unless they are set to null",
    )
    rollback: Rollback | None = Field(
        None, description="go back to a good checkpoint when a detector asks; null: never"
    )

    rollout: Rollout = Field(default_factory=SampleRollout, description="how responses are drawn")
    collection: Collection = Field(default_factory=Once, description="how many rollouts make the batch of a step")
    ahead: int = Field(
        0,
        ge=0,
        description="rollouts that are drawn before they are needed, so that each was sampled by the policy of so many steps ago, which "
        "is the old policy of the ratio; with `runtime.samplers` they are sampled while training goes on",
    )
    regulariser: Regulariser = Field(default_factory=KL, description="what keeps the policy near the reference")
    shaping: list[Shaping] = Field(default_factory=list, description="what becomes of the score, in order")
    selection: list[Selection] = Field(default_factory=list, description="which samples count, in order")
    credit: Credit = Field(default_factory=GAE, description="from rewards to advantages")
    constraints: dict[str, Constraint] = Field(
        default_factory=dict, description="limits on the mean of a judge, by name, each kept by a multiplier"
    )
    objective: PolicyObjective = Field(default_factory=PPOClip, description="the policy's loss")
    value_objective: ValueObjective = Field(default_factory=ValueClip, description="the critic's loss")

    reference: Model | None = Field(None, description="the reference model; null: the policy as it begins")
    critic: Critic | None = Field(
        None,
        description="where the critic begins; null: the policy's weights with a new head. `{trunk: policy, coefficient: 0.1}`: no "
        "model of its own but a new head on the policy, trained with it",
    )
    rehearsal: Rehearsal | None = Field(
        None, description="text whose loss is added to the policy's (PPO-ptx); null: none"
    )
    optimiser: OptimiserSpec = Field(default_factory=OptimiserSpec, description="how the policy is trained")
    critic_optimiser: OptimiserSpec | None = Field(None, description="how the critic is trained; null: as the policy")

    overlap: bool = Field(
        True, description="judge responses that are finished while others are still sampled; changes speed only"
    )
    steps: int = Field(100, ge=1, description="rollouts")
    batch_size: int = Field(64, ge=1, description="prompts in each rollout")
    stratified: bool = Field(
        False,
        description="every rollout holds the sources of prompts in their proportions, rather than the run as a whole",
    )
    revisit: Revisit | None = Field(
        None,
        description="prompts that all samples solved, or none did, come again only now and then; null: all come again",
    )
    epochs: int = Field(1, ge=1, description="passes over each rollout")
    minibatches: int = Field(1, ge=1, description="optimiser steps in each pass")
    critic_warmup: int = Field(0, ge=0, description="rollouts in which only the critic learns")
    maximum_prompt: int | None = Field(
        None,
        ge=1,
        description="longest prompt, tokens; longer ones lose their beginning. null: prompts that leave the context no room for a "
        "response are left out",
    )
    old_logprobs: Literal["auto", "sampler", "recompute"] = Field(
        "auto",
        description="the old policy of the ratio: as the sampler found it, or by another pass of the trainer, whose arithmetic "
        "differs in half precision and from vLLM's; auto: those of the own sampler in float32, else another pass. Where a sampler cannot say (a filter at another temperature), another pass in any case",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Online:
        samples = getattr(self.rollout, "n", self.credit.minimum_samples)
        if samples < self.credit.minimum_samples:
            raise ValueError(
                f"credit {self.credit.part_name} compares at least {self.credit.minimum_samples} samples of a prompt: "
                f"set rollout.n to that or more (it is {samples})"
            )
        comparing: list[Credit | Shaping] = [self.credit, *self.shaping]
        for part in comparing:
            if part.anchor_rollout and not self.rollout.draws_anchor:
                raise ValueError(
                    f"{part.slot} {part.part_name} compares with another response, which rollout {self.rollout.part_name} "
                    f"does not draw: set rollout.part to {part.anchor_rollout}"
                )
        if self.objective.mismatch is not None and self.old_logprobs == "sampler":
            raise ValueError(
                "objective.mismatch weighs the trainer's log-probabilities against the sampler's, and old_logprobs: sampler makes "
                "them the same: set old_logprobs to recompute, or leave mismatch out"
            )
        for name, constraint in self.constraints.items():
            if constraint.channel not in self.rewards:
                raise ValueError(
                    f"constraint {name} is on the judge {constraint.channel!r}, which is not among the rewards (weight 0 only "
                    f"records it); {nearest(constraint.channel, self.rewards)}"
                )
        if not any(reward.weight for reward in self.rewards.values()):
            raise ValueError(
                "every reward has weight 0, so there is nothing to learn from; judges belong in `monitors`"
            )
        if self.critic_warmup and not self.credit.needs_values:
            raise ValueError(f"credit {self.credit.part_name} has no critic to warm up: leave critic_warmup at 0")
        if self.rollback is not None:
            unknown = [name for name in self.rollback.on if self.detectors.get(name) is None]
            if unknown:
                on = ", ".join(name for name, detector in self.detectors.items() if detector is not None) or "none"
                raise ValueError(f"rollback.on names {unknown[0]!r}, which is no detector that is on: choose from {on}")
            if not self.save_every:
                raise ValueError("rollback needs checkpoints to go back to: set save_every to 1 or more")
        if isinstance(self.critic, Trunk):
            if not self.credit.needs_values:
                raise ValueError(f"credit {self.credit.part_name} has no critic: leave critic out")
            for name in ("critic_warmup", "critic_optimiser"):
                if getattr(self, name):
                    raise ValueError(
                        f"{name} is for a critic with weights of its own, and critic.trunk puts it on the policy: leave {name} out"
                    )
        if self.critic_warmup >= self.steps:
            raise ValueError(f"critic_warmup ({self.critic_warmup}) leaves no step of {self.steps} for the policy")
        return self

    @property
    def needs_reference(self) -> bool:
        """Whether a part reads the reference's log-probabilities of the samples."""
        parts: list[Regulariser | Credit | Shaping | Selection]
        parts = [self.regulariser, self.credit, *self.shaping, *self.selection]
        return any(part.needs_reference for part in parts)

    def run(self, run: StageRun) -> dict[str, Any]:
        updates = self.epochs * self.minibatches
        trunk = self.critic if isinstance(self.critic, Trunk) else None
        apart = None if isinstance(self.critic, Trunk) else self.critic
        policy = run.open(
            "policy",
            self.model,
            optimiser=self.optimiser,
            total_steps=(self.steps - self.critic_warmup) * updates,
            value_head=trunk is not None,
        )
        critic = None if trunk is not None else self._open_critic(run, "critic", apart, self.steps * updates)
        costs = {
            name: self._open_critic(run, f"critic-{name}", constraint.critic or apart, self.steps * updates)
            for name, constraint in self.constraints.items()
        }
        asked = self.needs_reference or self.rollout.needs_reference
        reference = open_reference(run, self.reference, self.model) if asked else None
        rollouts = Ahead(self.ahead, policy, self._open_sampler(run))
        models = _Models(policy, critic if trunk is None else policy, critic, reference, costs, rollouts)
        self.rollout.open(run, self.model, reference)
        run.keep("rollouts", rollouts)
        for name, source in (self.rewards | self.monitors | self.diagnostics).items():
            source.open(run, name)
        records, report, longest = fitting_prompts(
            policy,
            *to_prompts([run.read(source) for source in self.prompts]),
            self.rollout.maximum_tokens,
            self.maximum_prompt,
        )
        run.count(report)
        sampler = SeededSampler(
            report.sizes, self.batch_size, run.seed, weights=report.weights, stratified=self.stratified
        )
        run.keep("prompts", sampler)
        if self.revisit is not None:
            self.revisit.open(run, self.rewards)
        self.keep_parts(run)
        self.at_start(policy.codec)
        if self.rehearsal is not None:
            self.rehearsal.open(run, policy.codec, updates)
        own = self.objective.at_temperature(self.rollout.temperature)
        objective = own if trunk is None else OneTrunk(own, self.value_objective, trunk.coefficient)

        margin = None if self.rollback is None else self.rollback.margin
        for step in run.steps(self.steps, self.save_every, self.retain, margin):
            self.at_step(step)
            looking = step % self.monitor_every == 0 or step in (1, self.steps)
            metrics: dict[str, float] = {}
            prompts = self._prompts(records, sampler, policy, longest, run.seed + step)
            draws = self._draws(run, prompts, models, self.steps - step, looking, metrics)
            experience, found = self.collection(draws)
            experience = self._with_proximal(experience, policy)
            experience, limits = self._credited(experience, costs)
            experience, compared = _without_anchors(experience)
            experience = self._select(experience, after_credit=True)
            metrics |= found | limits | compared | self.regulariser.observe(experience)
            with run.phase("update"):
                metrics |= self._update(run, models, experience, objective, step)
                self.rollout.learned(policy)
            metrics |= describe(experience)
            if looking:
                metrics |= self._diagnose(policy, experience)
            alarms = raised(self.detectors, step, metrics, experience)
            metrics["warnings"] = float(len(alarms))
            if self.rollback is not None:
                metrics["rollbacks"] = float(len(run.rolled_back))
            run.log(step, metrics, _HEADLINE)
            if looking:
                run.log_samples(step, texts(experience))
            for name, alarm in alarms.items():
                run.warn(step, name, alarm.title, alarm.what, alarm.remedy)
            if self.rollback is not None and self.rollback.wanted(alarms, len(run.rolled_back)):
                run.roll_back(step, self.rollback.factor, going_on=["prompts", "revisit"])
        return run.finish({"steps": self.steps}, policy)

    # -- one paragraph of the step each ---------------------------------------------------------------------------------

    def _prompts(
        self, records: list[Any], sampler: SeededSampler, policy: ModelGroup, longest: int | None, seed: int
    ) -> Iterator[Prompts]:
        """One batch of prompts after another; groups are numbered through, and no two rows of a step have one seed."""
        for number in count():
            if self.revisit is None:
                chosen = [records[index] for index in sampler.next()]
            else:
                chosen = self.revisit.choose(records, sampler)
            offset = number * self.batch_size
            yield prompts_batch(chosen, policy.codec, seed, offset, maximum=longest, overlong="truncate_left")

    def _draws(
        self,
        run: StageRun,
        batches: Iterator[Prompts],
        models: _Models,
        left: int,
        looking: bool,
        metrics: dict[str, float],
    ) -> Iterator[Experience]:
        """One rollout after another, judged and weighed, as many as the collection asks for; the last one's metrics stay."""
        while True:
            with run.phase("rollout"):
                draw = self._drawn(batches, models.rollouts, left, looking)
                metrics |= {f"rollout/{name}": value for name, value in draw.metrics.items()}
            with run.phase("judge"):
                experience = self._judge(run, draw, models, metrics)
                if self.revisit is not None:
                    self.revisit.note(experience)
                    metrics["prompts_left_out"] = float(self.revisit.left_out)
                experience = self._weigh(experience)
                if looking:
                    metrics |= self._monitor(draw.samples)
            yield experience

    def _drawn(self, batches: Iterator[Prompts], rollouts: Ahead, left: int, looking: bool) -> Draw:
        """The next rollout; with `overlap` judges begin with each response as soon as it is finished and no other waits before it."""
        judges = [*self.rewards.values(), *(self.monitors.values() if looking else ())] if self.overlap else []
        told = 0

        def begin(row: dict[str, Any]) -> None:
            nonlocal told
            told += 1
            for judge in judges:
                judge.begin(row)

        def draw(policy: ModelGroup, prompts: Prompts) -> Draw:
            with policy.watched(None if self.ahead else begin):
                samples = self.rollout(policy, prompts)
            logprobs = self._old_logprobs(samples, policy) if self.ahead else None
            return Draw(samples, logprobs, self.rollout.metrics())

        drawn = rollouts(batches, draw, left)
        if not told:
            for row in drawn.samples.rows:
                begin(row)
        return drawn

    def _judge(self, run: StageRun, draw: Draw, models: _Models, metrics: dict[str, float]) -> Experience:
        """Fill in what the models say about the samples, then score them: sources in other processes are at work meanwhile."""
        samples, temperature = draw.samples, self.rollout.temperature
        with run.phase("judge/policy"):
            logprobs = self._old_logprobs(samples, models.policy) if draw.logprobs is None else draw.logprobs
        experience = Experience.from_samples(samples).replace(logprobs=logprobs)
        if models.values is not None:
            with run.phase("judge/critic"):
                experience = experience.replace(values=models.values.values(experience))
        if self.needs_reference:
            with run.phase("judge/reference"):
                logprobs = reference_logprobs(models.policy, models.reference, experience, temperature)
                experience = experience.replace(reference_logprobs=logprobs)
        for name, source in self.rewards.items():
            with run.phase(f"judge/{name}"):
                experience.channels[name] = source.ask(samples)
            metrics |= {f"reward/{name}/{key}": value for key, value in source.metrics().items()}
        return experience

    def _old_logprobs(self, samples: Samples, policy: ModelGroup) -> Tensor:
        """[B, T] by the policy that sampled: recomputed as the trainer does, the first ratio is exactly one; the sampler's cost nothing."""
        if self.old_logprobs == "sampler" or (self.old_logprobs == "auto" and policy.spec.exact_sampler):
            found = self.rollout.logprobs(samples)
            if found is not None and not bool(found.isnan().any()):
                return found
        return policy.token_logprobs(samples, self.rollout.temperature)

    def _with_proximal(self, experience: Experience, policy: ModelGroup) -> Experience:
        """A batch that waited gets the policy of now as old policy of the ratio, where the objective corrects for the wait itself.

        The regulariser's penalty is that of the policy of now in any case: that of the one which sampled pulls back from where it was.
        """
        anew = self.old_logprobs == "recompute" or self.objective.mismatch is not None
        if not (self.ahead and (anew or self.needs_reference)):
            return experience
        logprobs = policy.token_logprobs(experience, self.rollout.temperature)
        now = self._laid_on_tokens(experience.replace(logprobs=logprobs))
        return now if anew else now.replace(logprobs=experience.logprobs)

    def _weigh(self, experience: Experience) -> Experience:
        """Combine the channels, shape the score, select rows, lay the reward on tokens."""
        score = combine(dict(experience.channels.items()), self.rewards)
        failed = ~torch.isfinite(score) | ~experience.mask.any(1)
        for constraint in self.constraints.values():
            failed |= ~torch.isfinite(constraint.cost(experience))
        weight = torch.where(failed, 0.0, experience.weight)
        score = torch.where(failed, 0.0, score)
        if experience.anchor is not None:
            # All anchors have weight 0; one that failed is known by its score, and no row is compared with it.
            score = torch.where(failed & experience.anchor, torch.nan, score)
        experience = in_turn(self.shaping, experience.replace(score=score, weight=weight))
        return self._laid_on_tokens(self._select(experience, after_credit=False))

    def _laid_on_tokens(self, experience: Experience) -> Experience:
        """The score at the last token, less the regulariser's penalty of every token."""
        rewards = functional.place_at_last_token(experience.score.nan_to_num(), experience.mask)
        return experience.replace(rewards=rewards - self.regulariser.penalty(experience))

    def _credited(
        self, experience: Experience, critics: dict[str, ModelGroup | None]
    ) -> tuple[Experience, dict[str, float]]:
        """Advantages; under constraints those of the Lagrangian, and what the critic of each cost must learn.

        Credit is taken of the mixture of rewards and values, not mixed of several credits: for linear credit that is the same, and
        whitening or a division by a group's spread then does not change what a cost weighs against the reward.
        """
        if not self.constraints:
            return self.credit(experience), {}
        metrics: dict[str, float] = {}
        costs: dict[str, Experience] = {}
        for name, constraint in self.constraints.items():
            metrics |= {f"constraint/{name}/{key}": value for key, value in constraint.observe(experience).items()}
            costs[name] = constraint.in_place_of_reward(experience)
            critic = critics[name]
            if critic is not None:
                costs[name] = costs[name].replace(values=critic.values(experience))
        credited = self.credit(with_lagrangian(experience, self.constraints, costs))
        if self.credit.needs_values:
            credited = with_lessons(credited, {name: self.credit(cost) for name, cost in costs.items()})
            credited = credited.replace(values=experience.values, returns=self.credit(experience).returns)
        return credited.replace(score=experience.score, rewards=experience.rewards), metrics

    def _update(
        self, run: StageRun, models: _Models, experience: Experience, objective: PolicyObjective | OneTrunk, step: int
    ) -> dict[str, float]:
        """Critics learn first, then the policy; each its own lesson, in the same minibatches."""
        metrics: dict[str, float] = {}

        def learn(name: str, group: ModelGroup, batch: Experience, loss: Trainable, **more: Any) -> None:
            with run.phase(f"update/{name}"):
                learned = group.update(batch, loss, self.epochs, self.minibatches, run.seed + step, **more)
            for key, value in learned.items():  # those of a critic on the policy's trunk have its name already
                metrics[key if key.startswith("critic/") else f"{name}/{key}"] = value

        if models.critic is not None:
            learn("critic", models.critic, experience, self.value_objective)
        for name, group in models.costs.items():
            if group is not None:
                learn(f"constraint/{name}/critic", group, cost_lesson(experience, name), self.value_objective)
        if step > self.critic_warmup:
            prior = self.regulariser
            loss = objective.with_kl(
                prior.loss_coefficient, prior.loss_estimator, prior.loss_reduction, prior.loss_clamp
            )
            beside = None if self.rehearsal is None else self.rehearsal.lesson()
            learn("policy", models.policy, _counted(experience), loss, reference=models.reference, beside=beside)
        return metrics

    def _select(self, experience: Experience, after_credit: bool) -> Experience:
        return in_turn((part for part in self.selection if part.after_credit == after_credit), experience)

    def _monitor(self, samples: Samples) -> dict[str, float]:
        learned = slice(None) if samples.anchor is None else ~samples.anchor
        return {
            f"monitor/{name}": float(source.ask(samples)[learned].nanmean()) for name, source in self.monitors.items()
        }

    def _diagnose(self, policy: ModelGroup, experience: Experience) -> dict[str, float]:
        return {
            f"diagnostic/{name}/{key}": value
            for name, diagnostic in self.diagnostics.items()
            for key, value in diagnostic(policy, experience).items()
        }

    # -- what the step needs --------------------------------------------------------------------------------------------

    def _open_sampler(self, run: StageRun) -> ModelGroup | None:
        """Processes that only sample, where the runtime has any."""
        if not run.runtime.samplers:
            return None
        if self.rollout.beside_policy:
            raise RunError(
                f"stage {run.id}: rollout {self.rollout.part_name} asks models that are where the policy is trained, and with "
                f"runtime.samplers={run.runtime.samplers} it is sampled elsewhere: set runtime.samplers to 0"
            )
        return run.open("sampler", self.model.model_copy(update={"lora": None}), apart=True)

    def _open_critic(self, run: StageRun, role: str, model: ModelSpec | None, updates: int) -> ModelGroup | None:
        if not self.credit.needs_values:
            return None
        return run.open(role, model or self.model, "scalar", self.critic_optimiser or self.optimiser, updates)


def _without_anchors(experience: Experience) -> tuple[Experience, dict[str, float]]:
    """Rows that were only compared with have done their work; what they scored is worth knowing."""
    if experience.anchor is None:
        return experience, {}
    rest = take(experience, (~experience.anchor).nonzero().squeeze(1))
    return rest, {"anchor_score": float(experience.score[experience.anchor].nanmean())}


def _counted(experience: Experience) -> Experience:
    """The rows that the policy learns from; reading the others would change nothing. All of them where none counts."""
    rows = (experience.weight > 0).nonzero().squeeze(1)
    return take(experience, rows) if 0 < len(rows) < len(experience) else experience
