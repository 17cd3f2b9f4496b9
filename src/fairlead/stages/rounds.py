"""Preference learning in rounds: sample, compare, learn from the pairs, and again with what was learned.

Knows: the order of a round, and which groups it needs.
Does not know: who judges, which responses are paired, the loss.
"""

from __future__ import annotations

import logging
import math
from typing import Any, Literal

import torch
from pydantic import Field, model_validator

from fairlead import functional
from fairlead.batch import NOT_YET, Experience, Pairs, Samples, in_turn, row_table, take
from fairlead.data import SeededSampler, prompts_batch, to_prompts
from fairlead.evaluation import plain_text
from fairlead.objectives import DPO, PreferenceObjective
from fairlead.regularisers import KL, Regulariser
from fairlead.rewards import Reward, combine
from fairlead.rollouts import Rollout, SampleRollout
from fairlead.runs import RunError, StageRun
from fairlead.runtime import ModelGroup, OptimiserSpec
from fairlead.selection import BestWorst, Pairing, Selection
from fairlead.shaping import Shaping
from fairlead.stages.base import Model, Sources, Stage, fitting_prompts, open_reference, reference_logprobs

__all__ = ["PreferenceRounds"]

logger = logging.getLogger(__name__)

_HEADLINE = ("round", "score", "best_score", "policy/loss", "policy/accuracy", "kl/k1", "length")


class PreferenceRounds(Stage, name="preference-rounds"):
    """Online preference learning in rounds: iterative DPO, or INPO, REBEL, REFUEL by choice of parts.

    In every round the policy answers new prompts several times, the rewards (or a preference between two, through the reward
    `win-rate`) judge the answers, a pair of each prompt is kept, and the policy learns from the pairs before it samples again.
    Some pairs of every round are written to the samples of the run.

    Source: Dong et al. 2024 (RLHF Workflow, arXiv 2405.07863), algorithm 1; INPO: Zhang et al. 2024 (arXiv 2407.00617), algorithm 1;
    REBEL: Gao et al. 2024 (arXiv 2404.16767), algorithm 1; REFUEL: Gao et al. 2024 (arXiv 2410.04612), algorithm 1.
    """

    model: Model = Field(description="the policy to begin with")
    reference: Model | None = Field(None, description="the reference model; null: the policy as it begins")
    anchor: Literal["first", "previous"] = Field(
        "first",
        description="the reference of each round: the reference model, as in the paper, or the policy as the round begins, as in the released scripts",
    )
    prompts: Sources = Field(description="where prompts come from")
    rewards: dict[str, Reward] = Field(min_length=1, description="sources of reward by name, each with its weight")
    monitors: dict[str, Reward] = Field(
        default_factory=dict, description="judges that are recorded in every round and never learned from"
    )
    rollout: Rollout = Field(default_factory=lambda: SampleRollout(n=8), description="how responses are drawn")
    shaping: list[Shaping] = Field(default_factory=list, description="what becomes of the score, in order")
    selection: list[Selection] = Field(default_factory=list, description="which responses may be paired, in order")
    regulariser: Regulariser = Field(
        default_factory=lambda: KL(coefficient=0.0),
        description="a KL to the reference that is subtracted from the score, for objectives that have no reference of their own",
    )
    pairing: Pairing = Field(default_factory=BestWorst, description="which two responses to a prompt are compared")
    objective: PreferenceObjective = Field(default_factory=DPO, description="the loss on pairs")
    optimiser: OptimiserSpec = Field(
        default_factory=lambda: OptimiserSpec(learning_rate=1e-5), description="how the policy is trained"
    )
    rounds: int = Field(3, ge=1, description="how often it samples")
    prompts_per_round: int = Field(256, ge=1, description="prompts of each round")
    epochs: float = Field(
        1.0, gt=0, description="passes over the prompts of a round; where pairs are missing the others come again"
    )
    batch_size: int = Field(32, ge=1, description="pairs in one optimiser step")
    maximum_prompt: int | None = Field(
        None,
        ge=1,
        description="longest prompt, tokens; longer ones lose their beginning. null: prompts that leave the context no room for a "
        "response are left out",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> PreferenceRounds:
        if getattr(self.rollout, "n", 2) < 2:
            raise ValueError("a pair needs two responses to a prompt: set rollout.n to 2 or more")
        for part in self.shaping:
            if part.needs_reference:
                raise ValueError(
                    f"shaping {part.part_name} asks the reference about every response, which rounds do not"
                )
            if part.anchor_rollout and not self.rollout.draws_anchor:
                raise ValueError(
                    f"shaping {part.part_name} compares with another response, which rollout {self.rollout.part_name} does not draw: "
                    f"set rollout.part to {part.anchor_rollout}"
                )
        if not any(reward.weight for reward in self.rewards.values()):
            raise ValueError("every reward has weight 0, so no response is better; judges belong in `monitors`")
        if self.regulariser.loss_coefficient:
            raise ValueError("a loss on pairs has no KL term: set regulariser.place to reward")
        late = next((selection for selection in self.selection if selection.after_credit), None)
        if late is not None:
            raise ValueError(f"selection {late.part_name} looks at advantages, which there are none of here")
        return self

    def run(self, run: StageRun) -> dict[str, Any]:
        steps = max(1, math.ceil(self.epochs * self.prompts_per_round / self.batch_size))
        policy = run.open("policy", self.model, optimiser=self.optimiser, total_steps=self.rounds * steps)
        reference = open_reference(run, self.reference, self.model)
        self.rollout.open(run, self.model, reference)
        for name, source in (self.rewards | self.monitors).items():
            source.open(run, name)
        # What an objective says of the policy that sampled holds at the temperature of sampling.
        temperature = self.rollout.temperature if self.objective.at_sampling_temperature else 1.0
        objective = self.objective.at_temperature(temperature)
        records, report, longest = fitting_prompts(
            policy,
            *to_prompts([run.read(source) for source in self.prompts]),
            self.rollout.maximum_tokens,
            self.maximum_prompt,
        )
        run.count(report)
        prompts = SeededSampler(report.sizes, self.prompts_per_round, run.seed, weights=report.weights)
        run.keep("prompts", prompts)
        current = _Round()
        run.keep("round", current)
        self.keep_parts(run)
        self.at_start(policy.codec)

        for step in run.steps(self.rounds * steps, self.save_every, self.retain):
            self.at_step(step)
            number, place = divmod(step - 1, steps)
            metrics: dict[str, float] = {"round": number + 1}
            if place == 0:
                with run.phase("rollout"):
                    chosen = [records[index] for index in prompts.next()]
                    samples = self._sample(policy, chosen, longest, run.seed + number)
                    metrics |= {f"rollout/{name}": value for name, value in self.rollout.metrics().items()}
                with run.phase("judge"):
                    experience = self._judge(samples, policy, reference)
                    metrics |= self._describe(experience) | self._ask(samples) | self.regulariser.observe(experience)
                    pairs = self._pairs(experience, number, run.seed + number)
                    metrics |= {"pairs": len(pairs), "dropped_prompts": self.prompts_per_round - len(pairs)}
                with run.phase("reference"):
                    current.pairs = self._with_anchors(pairs, policy, reference, temperature)
                    metrics |= self._divergence(experience, policy, reference)
                run.log_samples(step, _texts(pairs))
            if len(current.pairs):
                with run.phase("update"):
                    batch = current.minibatch(self.batch_size, place, run.seed + number)
                    learned = policy.update(batch, objective)
                metrics |= {f"policy/{name}": value for name, value in learned.items()}
            if place == steps - 1:
                self.rollout.learned(policy)
            run.log(step, metrics, _HEADLINE)
        return run.finish({"steps": self.rounds * steps, "rounds": self.rounds}, policy)

    # -- one paragraph of the round each --------------------------------------------------------------------------------

    def _sample(self, policy: ModelGroup, records: list[Any], longest: int | None, seed: int) -> Samples:
        """Responses to the prompts of the round."""
        batch = prompts_batch(records, policy.codec, seed, maximum=longest, overlong="truncate_left")
        return self.rollout(policy, batch)

    def _judge(self, samples: Samples, policy: ModelGroup, reference: ModelGroup | None) -> Experience:
        """Every response with its score; one that is empty or could not be judged takes no part."""
        experience = Experience.from_samples(samples)
        if self.regulariser.needs_reference:
            temperature = self.rollout.temperature
            experience = experience.replace(logprobs=policy.token_logprobs(experience, temperature))
            logprobs = reference_logprobs(policy, reference, experience, temperature)
            experience = experience.replace(reference_logprobs=logprobs)
        for name, source in self.rewards.items():
            experience.channels[name] = source.ask(samples)
        score = combine(dict(experience.channels.items()), self.rewards)
        failed = ~torch.isfinite(score) | ~experience.mask.any(1)
        experience = experience.replace(
            score=torch.where(failed, 0.0, score), weight=torch.where(failed, 0.0, experience.weight)
        )
        experience = in_turn([*self.shaping, *self.selection], experience)
        return experience.replace(score=experience.score - self.regulariser.penalty(experience).sum(1))

    def _describe(self, experience: Experience) -> dict[str, float]:
        """What the round found: all responses, the best one of each prompt, and how far length explains the score."""
        counted = experience.weight > 0
        score, lengths = experience.score[counted], experience.mask.sum(1).float()
        best = [
            float(experience.score[rows].max())
            for group in torch.unique(experience.group)
            if (rows := (experience.group == group) & counted).any()
        ]
        metrics = {
            "score": float(score.mean()) if score.numel() else math.nan,
            "best_score": sum(best) / len(best) if best else math.nan,
            "length": float(lengths.mean()),
            "score_length_correlation": functional.pearson(score, lengths[counted]) if score.numel() > 1 else math.nan,
            "truncated": float(experience.truncated.float().mean()),
            "counted_rows": float(counted.float().mean()),
            "tokens": float(lengths.sum()),
        }
        for name, channel in experience.channels.items():
            metrics |= {
                f"channel/{name}": float(channel.nanmean()),
                f"failed/{name}": float(channel.isnan().float().mean()),
            }
        return metrics

    def _ask(self, samples: Samples) -> dict[str, float]:
        """What the rewards have to report of themselves, and the monitors of the responses."""
        told = {
            f"reward/{name}/{key}": value
            for name, source in self.rewards.items()
            for key, value in source.metrics().items()
        }
        return told | {
            f"monitor/{name}": float(source.ask(samples).nanmean()) for name, source in self.monitors.items()
        }

    def _pairs(self, experience: Experience, number: int, seed: int) -> Pairs:
        """The pairs of the round. Later rounds may find none, as where the policy has come to say one thing only: they pass."""
        chosen, rejected = self.pairing(experience, torch.Generator().manual_seed(seed))
        if not chosen.numel():
            reason = (
                f"round {number + 1}: no pair is left of {self.prompts_per_round} prompts, because all responses to a prompt are equal, "
                "have equal scores, or failed"
            )
            if number == 0:
                raise RunError(f"{reason}; raise rollout.n or the temperature, and look at what the rewards give")
            logger.warning("%s; nothing is learned in it", reason)
        return Pairs.from_samples(experience, chosen, rejected)

    def _with_anchors(
        self, pairs: Pairs, policy: ModelGroup, reference: ModelGroup | None, temperature: float
    ) -> Pairs:
        """The log-probabilities that stay fixed during the round."""
        if not len(pairs):
            return pairs
        if self.objective.needs_previous or self.anchor == "previous":
            pairs = pairs.replace(previous_logprobs=policy.token_logprobs(pairs, temperature))
        if self.anchor == "previous":
            return pairs.replace(reference_logprobs=pairs.previous_logprobs)
        if self.objective.needs_reference:
            pairs = pairs.replace(reference_logprobs=reference_logprobs(policy, reference, pairs, temperature))
        return pairs

    def _divergence(self, experience: Experience, policy: ModelGroup, reference: ModelGroup | None) -> dict[str, float]:
        """KL of the policy that sampled from the reference, nats a response, over one response of each prompt."""
        starts = torch.cat([torch.tensor([True]), experience.group[1:] != experience.group[:-1]])
        some = take(experience, starts.nonzero().squeeze(1))
        temperature = self.rollout.temperature
        there = policy.token_logprobs(some, temperature)
        return {"kl/k1": float((there - reference_logprobs(policy, reference, some, temperature)).sum(1).mean())}


class _Round:
    """The pairs that the present round learns from, which a checkpoint in the middle of it must carry."""

    def __init__(self) -> None:
        self.pairs: Pairs = NOT_YET  # of the first round on

    def minibatch(self, size: int, place: int, seed: int) -> Pairs:
        """The `place`-th minibatch of `size` pairs, in an order that depends on the seed only."""
        order = SeededSampler(len(self.pairs), size, seed)
        order.position = place * size
        return take(self.pairs, order.next())

    def state_dict(self) -> dict[str, Any]:
        if self.pairs is NOT_YET:
            return {}
        columns = {name: value for name, value in self.pairs.to_dict().items() if isinstance(value, torch.Tensor)}
        return {"columns": columns, "rows": [dict(row) for row in self.pairs.rows]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            self.pairs = Pairs(**state["columns"], rows=row_table(state["rows"]), batch_size=[len(state["rows"])])


def _texts(pairs: Pairs, limit: int = 4) -> list[dict[str, Any]]:
    rows = [pairs.rows[index] for index in range(min(limit, len(pairs)))]
    return [
        {"prompt": row["prompt"], "response": plain_text(row["chosen"]), "rejected": plain_text(row["rejected"])}
        for row in rows
    ]
