"""Policy objectives: from advantages to a loss."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, PrivateAttr, model_validator
from tensordict import TensorDict
from torch import Tensor

from fairlead import functional
from fairlead.batch import Experience
from fairlead.objectives.base import Loss, Objective
from fairlead.runtime.forward import Outputs

__all__ = ["Aggregation", "PPOClip", "PolicyGradient", "PolicyObjective"]

Aggregation = Literal["token-mean", "sequence-mean-token-mean", "sequence-mean-token-sum", "constant-length"]


class PolicyObjective(Objective, slot="objective"):
    """A per-token policy loss, aggregated over the batch, with entropy bonus and KL term."""

    default_part: ClassVar[str] = "ppo-clip"

    needs: ClassVar[tuple[str, ...]] = ("logprobs", "entropy")

    aggregation: Aggregation = Field("token-mean", description="how per-token losses become one number")
    maximum_length: int | None = Field(None, ge=1, description="the constant of constant-length aggregation, tokens")
    entropy_coefficient: float = Field(
        0.0, description="weight of the mean token entropy, which is subtracted from the loss"
    )

    @model_validator(mode="after")
    def _length_given(self) -> Self:
        if self.aggregation == "constant-length" and self.maximum_length is None:
            raise ValueError("aggregation constant-length needs maximum_length, the longest response allowed (tokens)")
        return self

    _kl_coefficient: float = PrivateAttr(0.0)
    _kl_estimator: str = PrivateAttr("k3")

    def with_kl(self, coefficient: float, estimator: str) -> Self:
        """A copy that adds coefficient × KL to the loss."""
        copy = self.model_copy()
        copy._kl_coefficient, copy._kl_estimator = coefficient, estimator
        return copy

    def prepare(self, batch: Experience) -> Experience:
        weights = functional.aggregation_weights(batch.mask, self.aggregation, batch.weight, self.maximum_length)
        # Metrics are means over tokens whatever the loss is: some aggregations have weights that do not sum to one.
        share = functional.aggregation_weights(batch.mask, "token-mean", batch.weight)
        extras = {} if batch.extras is None else dict(batch.extras.items())
        return batch.replace(
            loss_weight=weights, extras=TensorDict(extras | {"metric_weight": share}, batch_size=batch.batch_size)
        )

    @abstractmethod
    def token_loss(self, logprobs: Tensor, batch: Experience) -> tuple[Tensor, dict[str, Tensor]]:
        """[B, T] loss, and [B, T] metrics to be averaged over tokens."""

    def __call__(self, outputs: Outputs, batch: Experience) -> Loss:
        assert batch.extras is not None, "prepare the minibatch first"
        logprobs, entropy, weight = outputs.logprobs, outputs.entropy, batch.loss_weight
        per_token, metrics = self.token_loss(logprobs, batch)
        total = per_token - self.entropy_coefficient * entropy
        if self._kl_coefficient:
            kl = functional.kl_loss(logprobs, batch.logprobs, batch.reference_logprobs, self._kl_estimator)
            total = total + self._kl_coefficient * kl
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
        return (weight * total).sum(), sums


class PPOClip(PolicyObjective, name="ppo-clip"):
    """The clipped surrogate of proximal policy optimisation.

    Source: Schulman et al. 2017 (arXiv 1707.06347), eq. 7; a higher upper bound is DAPO's clip-higher (Yu et al. 2025,
    arXiv 2503.14476); the dual clip is Ye et al. 2020 (arXiv 1912.09729), eq. 5; the ratio of whole responses with the mean
    over tokens in the exponent is GSPO (Zheng et al. 2025, arXiv 2507.18071).
    """

    clip_low: float = Field(0.2, ge=0, le=1, description="the ratio counts no lower than 1 − this")
    clip_high: float = Field(0.2, ge=0, description="the ratio counts no higher than 1 + this")
    dual_clip: float | None = Field(None, gt=1, description="cap of the ratio for negative advantages")
    ratio: Literal["token", "sequence", "geometric"] = Field(
        "token", description="ratio of each token, of the whole response, or its geometric mean over tokens"
    )

    def token_loss(self, logprobs: Tensor, batch: Experience) -> tuple[Tensor, dict[str, Tensor]]:
        old, advantages = batch.logprobs, batch.advantages
        if self.ratio != "token":
            # Every token carries the response's ratio, and its own log-probability's gradient (GSPO-token).
            ratio = functional.sequence_ratio(logprobs.detach(), old, batch.mask, mean=self.ratio == "geometric")
            logprobs = old + (ratio.log()[:, None] + (logprobs - logprobs.detach()))
        loss = functional.ppo_clip(logprobs, old, advantages, self.clip_low, self.clip_high, self.dual_clip)
        clipped = functional.clipped_tokens(logprobs, old, advantages, self.clip_low, self.clip_high)
        return loss, {"clip_fraction": clipped.float()}


class PolicyGradient(PolicyObjective, name="reinforce"):
    """The plain policy gradient −A·log π, without ratio or clip.

    Source: Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning".
    """

    def token_loss(self, logprobs: Tensor, batch: Experience) -> tuple[Tensor, dict[str, Tensor]]:
        return functional.reinforce(logprobs, batch.advantages), {}
