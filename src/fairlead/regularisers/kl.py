"""Penalties on the Kullback–Leibler divergence from the reference policy."""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator
from torch import Tensor

from fairlead import functional
from fairlead.batch import Experience
from fairlead.regularisers.base import Regulariser

__all__ = ["KL", "AdaptiveTarget"]


class AdaptiveTarget(BaseModel):
    """Proportional controller of the coefficient (Ziegler et al. 2019, arXiv 1909.08593, section 2.2)."""

    model_config = ConfigDict(extra="forbid")

    target: float = Field(6.0, gt=0, description="KL to aim at, nats")
    per: Literal["response", "token"] = Field(
        "response", description="whether that is the KL of a whole response or, as in verl, its mean over tokens"
    )
    horizon: float = Field(
        10_000.0, gt=0, description="samples over which the coefficient may change by the whole error"
    )
    clip: float = Field(0.2, gt=0, description="largest relative error that counts")


class KL(Regulariser, name="kl"):
    """A fixed or adaptive weight on the KL divergence to the reference, in the reward or in the loss.

    Source: Ziegler et al. 2019 (arXiv 1909.08593), eq. 2 (in the reward); Shao et al. 2024 (arXiv 2402.03300), eq. 4 (k3 in
    the loss); the estimators are those of Schulman's note "Approximating KL divergence" (2020); exact-forward with reduction sum is SuperHF's prior
    (Mukobi et al. 2023, arXiv 2310.16763).
    """

    coefficient: float = Field(0.05, ge=0, description="weight β; 0 opens no reference model and measures no KL")
    place: Literal["reward", "loss"] = Field(
        "reward", description="subtract from the token rewards, or add to the loss"
    )
    estimator: Literal["k1", "k2", "k3", "abs", "k3-ratio", "exact", "exact-forward"] | None = Field(
        None,
        description="null: k1 in the reward, k3-ratio in the loss, which have the gradient of the KL itself; "
        "GRPO's k3 in the loss has that of the reverse KL, and k1 in the loss none at all. exact sums over the whole vocabulary, "
        "which takes another pass of the reference in every update; exact-forward is KL(reference ‖ policy). Both in the loss only",
    )
    reduction: Literal["loss", "mean", "sum"] = Field(
        "loss",
        description="in the loss: tokens weigh as in the loss, or each response by its mean over tokens, and these as their mean or sum "
        "over the minibatch",
    )
    clamp: float | None = Field(
        None,
        gt=0,
        description="limit the estimate of a token to ± this, nats (verl's k3 and all of OpenRLHF's: 10); null: no limit",
    )
    adaptive: AdaptiveTarget | None = Field(None, description="move the coefficient so that the KL approaches a target")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.place == "reward" and self.estimator in ("k3-ratio", "exact", "exact-forward"):
            raise ValueError(
                f"estimator {self.estimator} exists in the loss only: set place: loss, or choose k1, k2, k3, abs"
            )
        if self.place == "reward" and self.reduction != "loss":
            raise ValueError("in the reward the KL of tokens is not reduced: set place: loss, or leave reduction out")
        if self.clamp is not None and self.estimator in ("exact", "exact-forward"):
            raise ValueError(
                f"{self.estimator} is no estimate of single tokens that a clamp could limit: leave clamp out"
            )
        if self.adaptive is not None and not self.coefficient:
            raise ValueError("an adaptive coefficient is moved by factors and stays 0 when it begins at 0")
        return self

    _current: float | None = PrivateAttr(None)

    @property
    def current(self) -> float:
        """The coefficient now."""
        return self.coefficient if self._current is None else self._current

    @property
    def needs_reference(self) -> bool:
        return self.coefficient > 0

    def penalty(self, experience: Experience) -> Tensor:
        if self.place == "loss" or experience.reference_logprobs is None:
            return torch.zeros_like(experience.logprobs)
        estimate = functional.kl_estimate(
            experience.logprobs, experience.reference_logprobs, self.estimator or "k1", self.clamp
        )
        return torch.where(experience.mask, self.current * estimate, 0.0)

    @property
    def loss_coefficient(self) -> float:
        return self.current if self.place == "loss" else 0.0

    @property
    def loss_estimator(self) -> str:
        return self.estimator or "k3-ratio"

    @property
    def loss_reduction(self) -> str:
        return self.reduction

    @property
    def loss_clamp(self) -> float | None:
        return self.clamp

    def observe(self, experience: Experience) -> dict[str, float]:
        if experience.reference_logprobs is None:
            return {}
        metrics = {"kl/coefficient": self.current}
        per_row: dict[str, Tensor] = {}
        for estimator in ("k1", "k3"):
            estimate = functional.kl_estimate(experience.logprobs, experience.reference_logprobs, estimator)
            per_row[estimator] = functional.masked_sum(estimate, experience.mask, dim=1)
            metrics[f"kl/{estimator}"] = float(per_row[estimator].mean())
        if self.adaptive is not None:
            observed = per_row["k1"]
            if self.adaptive.per == "token":
                observed = observed / experience.mask.sum(1).clamp(min=1)
            self._current = functional.adaptive_coefficient(
                self.current,
                float(observed.mean()),
                self.adaptive.target,
                self.adaptive.horizon,
                experience.mask.shape[0],
                self.adaptive.clip,
            )
        return metrics

    def state_dict(self) -> dict[str, Any]:
        return {"current": self._current}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._current = state["current"]
