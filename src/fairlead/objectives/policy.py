"""Policy objectives: from advantages to a loss."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator
from tensordict import TensorDict
from torch import Tensor

from fairlead import functional
from fairlead.batch import Experience, task_rows
from fairlead.objectives.base import Loss, Objective
from fairlead.runtime.forward import Outputs

__all__ = ["CISPO", "Aggregation", "FilteredNLL", "Mismatch", "PPOClip", "PolicyGradient", "PolicyObjective"]

_EXACT_KL = {"exact": "kl", "exact-forward": "forward_kl"}
"""Estimators that are outputs of the model and its reference, by the output's name."""

_KL_TOLERANCE = 1.5
"""By how much a target KL may be passed: the factor of OpenAI's Spinning Up, Stable-Baselines3 and TRL's first PPO trainer."""

Aggregation = Literal["token-mean", "sequence-mean-token-mean", "sequence-mean-token-sum", "constant-length"]


class Mismatch(BaseModel):
    """Importance weights against a sampler that differs from the trainer (other kernels, precision, filters, older weights).

    The weight of the old policy over the sampling distribution multiplies the policy loss behind the clip, not its KL and entropy
    terms. Truncated importance sampling: Ionides 2008; for language models Yao et al. 2025.
    """

    model_config = ConfigDict(extra="forbid")

    level: Literal["token", "sequence", "geometric"] = Field(
        "token", description="weight of each token, of the whole response, or its geometric mean over tokens"
    )
    mode: Literal["truncate", "mask"] = Field("truncate", description="limit weights to the bounds, or 0 outside them")
    low: float = Field(0.0, ge=0, description="lower bound")
    high: float = Field(2.0, gt=0, description="upper bound")
    token_weight: bool = Field(
        False,
        description="weigh what a mask keeps by each token's own weight, without bounds (OpenRLHF's seq-mask-tis)",
    )
    normalise: bool = Field(False, description="divide by the mean weight over the tokens of the minibatch")

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        if self.token_weight and (self.mode, self.level) not in {("mask", "sequence"), ("mask", "geometric")}:
            raise ValueError("token_weight changes masks of level sequence or geometric only: set mode: mask")
        return self

    def weight(self, batch: Experience) -> Tensor:
        """[B, T]"""
        weight = functional.mismatch_weight(
            batch.logprobs,
            batch.behaviour_logprobs,
            batch.mask,
            self.level,
            self.mode,
            self.low,
            self.high,
            self.token_weight,
        )
        if self.normalise:
            weight = weight / functional.masked_mean(weight, batch.mask & (batch.weight > 0)[:, None]).clamp(min=1e-8)
        return weight


class PolicyObjective(Objective, slot="objective"):
    """A per-token policy loss, aggregated over the batch, with entropy bonus and KL term."""

    default_part: ClassVar[str] = "ppo-clip"

    aggregation: Aggregation = Field("token-mean", description="how per-token losses become one number")
    maximum_length: int | None = Field(None, ge=1, description="the constant of constant-length aggregation, tokens")
    entropy_coefficient: float = Field(
        0.0, description="weight of the mean token entropy, which is subtracted from the loss"
    )
    entropy_target: float | None = Field(
        None,
        gt=0,
        description="nats; in place of the entropy its distance from this is weighed, and added to the loss: a bonus below, a penalty above "
        "(Zheng et al. 2023, arXiv 2307.04964). Which of them is read from the log-probabilities of the rollout; null: no target",
    )
    target_kl: float | None = Field(
        None,
        gt=0,
        description="leave out the rest of an update once the mean KL of a minibatch from the policy before the update exceeds 1.5 times "
        "this, nats a token (estimator k3); null: never",
    )
    mismatch: Mismatch | None = Field(
        None, description="importance weights against a sampler that differs from the trainer; null: none"
    )
    drop_negative_above: float | None = Field(
        None,
        ge=0,
        description="leave out responses with negative advantages whose mean log-probability has fallen by more than this many nats "
        "since they were sampled; null: none (DeepSeek-V3.2, arXiv 2512.02556)",
    )

    task: str | None = Field(
        None,
        description="column of the data that names the task of a prompt: every task's loss is normalised by its own count, and the loss "
        "is their mean; null: all count together",
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.entropy_target is not None and self.entropy_coefficient <= 0:
            raise ValueError(
                "entropy_target does nothing without a weight: set entropy_coefficient above 0 (0.01, say), or leave it out"
            )
        if self.aggregation == "constant-length" and self.maximum_length is None:
            raise ValueError("aggregation constant-length needs maximum_length, the longest response allowed (tokens)")
        return self

    _kl_coefficient: float = PrivateAttr(0.0)
    _kl_estimator: str = PrivateAttr("k3")
    _kl_reduction: str = PrivateAttr("loss")
    _kl_clamp: float | None = PrivateAttr(None)

    @property
    def needs(self) -> tuple[str, ...]:
        exact = _EXACT_KL.get(self._kl_estimator) if self._kl_coefficient else None
        return ("logprobs", "entropy") if exact is None else ("logprobs", "entropy", exact)

    @property
    def limits(self) -> dict[str, float]:
        return {} if self.target_kl is None else {"old_kl": _KL_TOLERANCE * self.target_kl}

    def with_kl(self, coefficient: float, estimator: str, reduction: str = "loss", clamp: float | None = None) -> Self:
        """A copy that adds coefficient × KL to the loss, aggregated as the loss is or as `regularisers.kl.KL.reduction` says."""
        copy = self.model_copy()
        copy._kl_coefficient, copy._kl_estimator = coefficient, estimator
        copy._kl_reduction, copy._kl_clamp = reduction, clamp
        return copy

    def prepare(self, batch: Experience) -> Experience:
        weights = self._weights(batch)
        # Metrics are means over tokens whatever the loss is: some aggregations have weights that do not sum to one.
        share = functional.aggregation_weights(batch.mask, "token-mean", batch.weight)
        extras = {} if batch.extras is None else dict(batch.extras.items())
        extras["metric_weight"] = share
        if self.entropy_coefficient:
            extras["entropy_weight"] = self._entropy_sign(batch) * self.entropy_coefficient * weights
        if self._kl_reduction != "loss":
            rows = functional.aggregation_weights(batch.mask, "sequence-mean-token-mean", batch.weight)
            counted = batch.weight[batch.mask.any(1)].sum() if self._kl_reduction == "sum" else 1.0
            extras["kl_weight"] = rows * counted
        if self.mismatch is not None:
            extras["mismatch_weight"] = self.mismatch.weight(batch)
        return batch.replace(loss_weight=weights, extras=TensorDict(extras, batch_size=batch.batch_size))

    def _entropy_sign(self, batch: Experience) -> float:
        """−1 for a bonus. The sign of a distance belongs to the whole minibatch, so it comes from what is known of that beforehand."""
        if self.entropy_target is None:
            return -1.0
        entropy = -functional.masked_mean(batch.logprobs, batch.mask & (batch.weight > 0)[:, None])
        return 1.0 if float(entropy) > self.entropy_target else -1.0

    def _weights(self, batch: Experience) -> Tensor:
        """[B, T] weights that sum the losses to one; the tasks of which no row counts take no part."""

        def of(rows: Experience) -> Tensor:
            return functional.aggregation_weights(rows.mask, self.aggregation, rows.weight, self.maximum_length)

        if self.task is None:
            return of(batch)
        weights = torch.zeros_like(batch.mask, dtype=torch.float32)
        tasks = list(
            task_rows(batch, self.task, {str(row.get(self.task)) for row in batch.rows}, others=False).values()
        )
        counted = [rows for rows in tasks if bool((batch.weight[rows] > 0).any())]
        for rows in counted:
            weights[rows] = of(batch[rows]) / len(counted)
        return weights

    @abstractmethod
    def token_loss(self, logprobs: Tensor, batch: Experience) -> tuple[Tensor, dict[str, Tensor]]:
        """[B, T] loss, and [B, T] metrics to be averaged over tokens."""

    def __call__(self, outputs: Outputs, batch: Experience) -> Loss:
        assert batch.extras is not None, "prepare the minibatch first"
        logprobs, entropy, weight = outputs.logprobs, outputs.entropy, batch.loss_weight
        per_token, metrics = self.token_loss(logprobs, batch)
        if self.mismatch is not None:
            correction = batch.extras["mismatch_weight"]
            per_token, metrics = per_token * correction, metrics | {"mismatch_weight": correction}
        if self.drop_negative_above is not None:
            kept = self._kept(logprobs, batch, self.drop_negative_above)
            per_token, metrics = per_token * kept, metrics | {"kept_negative": kept}
        loss = (weight * per_token).sum()
        if self.entropy_coefficient:
            distance = entropy - (self.entropy_target or 0.0)
            loss = loss + (batch.extras["entropy_weight"] * distance).sum()
        if self._kl_coefficient:
            kl = self._kl(outputs, batch)
            loss = loss + self._kl_coefficient * (batch.extras.get("kl_weight", weight) * kl).sum()
            metrics = metrics | {"loss_kl": kl}
        with torch.no_grad():
            log_ratio = torch.where(batch.mask, logprobs - batch.logprobs, 0.0)
            metrics = metrics | {
                "entropy": entropy,
                "ratio": log_ratio.exp(),
                "old_kl": functional.kl_estimate(batch.logprobs, logprobs, "k3"),
            }
            share = batch.extras["metric_weight"]
            sums = {name: (share * value).sum() for name, value in metrics.items()}
            sums["max/ratio"] = log_ratio.exp().max() if log_ratio.numel() else torch.tensor(1.0)
        return loss, sums

    def _kl(self, outputs: Outputs, batch: Experience) -> Tensor:
        """[B, T]: exact over the vocabulary, or estimated from the token that was drawn."""
        if self._kl_estimator in _EXACT_KL:
            return getattr(outputs, _EXACT_KL[self._kl_estimator])  # type: ignore[no-any-return]
        return functional.kl_loss(
            outputs.logprobs, batch.logprobs, batch.reference_logprobs, self._kl_estimator, self._kl_clamp
        )

    def _kept(self, logprobs: Tensor, batch: Experience, limit: float) -> Tensor:
        """[B, T] of 0 and 1: not the rows that the policy has left far behind and is still being pushed away from."""
        with torch.no_grad():
            fallen = functional.masked_mean(batch.behaviour_logprobs - logprobs, batch.mask, dim=1)
            negative = functional.masked_sum(batch.advantages, batch.mask, dim=1) < 0
            kept = ~(negative & (fallen > limit))
            return functional.broadcast_to_tokens(kept.float(), batch.mask)


class PPOClip(PolicyObjective, name="ppo-clip"):
    """The clipped surrogate of proximal policy optimisation.

    Source: Schulman et al. 2017 (arXiv 1707.06347), eq. 7; a higher upper bound is DAPO's clip-higher (Yu et al. 2025,
    arXiv 2503.14476); the dual clip is Ye et al. 2020 (arXiv 1912.09729), eq. 5; the ratio of whole responses with the mean
    over tokens in the exponent is GSPO (Zheng et al. 2025, arXiv 2507.18071).
    """

    clip_low: float = Field(0.2, ge=0, le=1, description="the ratio counts no lower than 1 − this")
    clip_high: float = Field(0.2, ge=0, description="the ratio counts no higher than 1 + this")
    dual_clip: float | None = Field(None, gt=1, description="cap of the ratio for negative advantages")
    ratio: Literal["token", "macro", "sequence", "geometric"] = Field(
        "token",
        description="ratio of each token, of its macro action (credit `macro-gae`), of the whole response, or its geometric mean over "
        "tokens",
    )

    def token_loss(self, logprobs: Tensor, batch: Experience) -> tuple[Tensor, dict[str, Tensor]]:
        old, advantages = batch.logprobs, batch.advantages
        if self.ratio == "macro":
            segments = None if batch.extras is None else batch.extras.get("segments")
            if segments is None:
                raise ValueError(
                    "ratio macro needs the segments that credit macro-gae writes; choose it, or ratio: token"
                )
            change = functional.segment_sum(logprobs.detach() - old, segments)
            logprobs = old + functional.spread_segments(change, segments) + (logprobs - logprobs.detach())
        elif self.ratio != "token":
            # Every token carries the response's ratio, and its own log-probability's gradient (GSPO-token).
            ratio = functional.sequence_ratio(logprobs.detach(), old, batch.mask, mean=self.ratio == "geometric")
            logprobs = old + (ratio.log()[:, None] + (logprobs - logprobs.detach()))
        loss = functional.ppo_clip(logprobs, old, advantages, self.clip_low, self.clip_high, self.dual_clip)
        clipped = functional.clipped_tokens(logprobs, old, advantages, self.clip_low, self.clip_high)
        return loss, {"clip_fraction": clipped.float()}


class CISPO(PolicyObjective, name="cispo"):
    """The policy gradient with a bounded importance weight: no token loses its gradient, as it does behind PPO's clip.

    Source: MiniMax 2025 (MiniMax-M1, arXiv 2506.13585), eq. 4 and 5. The bounds are the ratio's own: `maximum_ratio` is TRL's
    `epsilon_high`; verl's `clip_ratio_low` and `clip_ratio_high` are 1 − minimum_ratio and maximum_ratio − 1.
    """

    minimum_ratio: float = Field(0.0, ge=0, description="the weight is at least this")
    maximum_ratio: float = Field(5.0, gt=0, description="the weight is at most this")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.minimum_ratio > self.maximum_ratio:
            raise ValueError(f"minimum_ratio ({self.minimum_ratio:g}) exceeds maximum_ratio ({self.maximum_ratio:g})")
        return self

    def token_loss(self, logprobs: Tensor, batch: Experience) -> tuple[Tensor, dict[str, Tensor]]:
        loss = functional.cispo(logprobs, batch.logprobs, batch.advantages, self.minimum_ratio, self.maximum_ratio)
        ratio = functional.importance_ratio(logprobs.detach(), batch.logprobs)
        outside = (ratio < self.minimum_ratio) | (ratio > self.maximum_ratio)
        return loss, {"clip_fraction": outside.float()}


class PolicyGradient(PolicyObjective, name="reinforce"):
    """The plain policy gradient −A·log π, without ratio or clip.

    Source: Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning".
    """

    def token_loss(self, logprobs: Tensor, batch: Experience) -> tuple[Tensor, dict[str, Tensor]]:
        return functional.reinforce(logprobs, batch.advantages), {}


class FilteredNLL(PolicyGradient, name="filtered-nll"):
    """Imitate the responses that selection kept: −log π, with credit `uniform` unweighted.

    With an `inverse` C the loss is NLL + C / NLL, which is least at NLL = √C and so holds the policy back from certainty. NLL is the
    mean over the minibatch's tokens, as the policy that sampled them saw it: exact in the first step after a rollout.

    Source: Mukobi et al. 2023 (SuperHF, arXiv 2310.16763) and its released code.
    """

    inverse: float = Field(0.0, ge=0, description="C, the weight of 1 / NLL; 0: none")

    def prepare(self, batch: Experience) -> Experience:
        batch = super().prepare(batch)
        if not self.inverse:
            return batch
        nll = -functional.masked_mean(batch.logprobs, batch.mask & (batch.weight > 0)[:, None])
        factor = functional.inverse_loss_factor(float(nll), self.inverse)
        return batch.replace(advantages=batch.advantages * factor)
