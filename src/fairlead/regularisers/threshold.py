"""A KL penalty that acts above a threshold, and a controller that moves the threshold."""

from __future__ import annotations

import math
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator
from torch import Tensor

from fairlead import functional
from fairlead.batch import Experience
from fairlead.parts import nearest
from fairlead.regularisers.base import Regulariser

__all__ = ["EntropyGate", "RewardVelocity", "ThresholdKL", "TrainingPhase"]


class EntropyGate(BaseModel):
    """Pull harder where the policy hardly varies what it says (SAFE, arXiv 2602.04651)."""

    model_config = ConfigDict(extra="forbid")

    target: float = Field(2.0, gt=0, description="entropy of a token, nats, at which the gate is about 1")
    floor: float = Field(0.5, ge=0, description="the gate is at least this")


class RewardVelocity(BaseModel):
    """Raise the threshold while the reward rises: PID control of its velocity (SAFE, arXiv 2602.04651)."""

    model_config = ConfigDict(extra="forbid")

    proportional: float = Field(0.3, description="gain of the error")
    integral: float = Field(0.01, description="gain of its sum, which is kept in ±1")
    derivative: float = Field(0.05, description="gain of its change")
    target: float = Field(0.001, description="rise of the smoothed reward a step to aim at")
    keep: float = Field(0.95, ge=0, lt=1, description="share of the smoothed reward that stays at each step")


class TrainingPhase(BaseModel):
    """Widen the threshold by a factor while the policy climbs, narrow it when nothing moves (SAFE, arXiv 2602.04651)."""

    model_config = ConfigDict(extra="forbid")

    window: int = Field(50, ge=2, description="steps that are compared with as many before them; fewer are warm-up")
    rise: float = Field(0.01, ge=0, description="climbing: the mean reward has risen by more than this")
    still: float = Field(0.02, ge=0, description="converged: the reward spreads by less than this")
    high: float = Field(0.7, description="converged: and its mean is above this")


class ThresholdKL(Regulariser, name="threshold-kl"):
    """A squared penalty on the KL above a threshold, stronger where entropy is low; the threshold follows the reward.

    Per step, with k the mean log-ratio of a token: k_s = 0.9 k_s + 0.1 k, τ = clip((τ₀ + velocity) · phase), penalty P = c·(k_s − τ)₊²·g.
    Its gradient is that of a KL with the weight 2c·(k_s − τ)₊·g, which stands in the loss (k2) or in the reward of the next rollout. The
    released code adds P as a plain number, which moves nothing: `place: none`. The entropy of a token is estimated by the mean of
    −log π over the tokens drawn.

    The constants of phase and velocity suit rewards between 0 and 1. `rise_coefficient: 5, smoothing: 0` without gate, velocity and phase
    is the asymmetric controller of the same repository.

    Source: SAFE (arXiv 2602.04651) and its released code; the gradient is this project's.
    """

    coefficient: float = Field(0.1, ge=0, description="c of the penalty; 0 opens no reference model and measures no KL")
    place: Literal["loss", "reward", "none"] = Field(
        "loss",
        description="where the gradient acts: in the loss, in the next rollout's reward, or nowhere (released code)",
    )
    threshold: float = Field(0.3, description="τ₀, KL of a token below which nothing pulls, nats")
    lowest: float = Field(0.1, description="the threshold that is in force is at least this")
    highest: float = Field(0.6, description="the threshold that is in force is at most this")
    smoothing: float = Field(0.9, ge=0, lt=1, description="share of the smoothed KL that stays at each step")
    channel: str | None = Field(
        None, description="the reward whose raw mean the controller follows; null: the only one there is"
    )
    gate: EntropyGate | None = Field(default_factory=EntropyGate, description="null: no gate")
    velocity: RewardVelocity | None = Field(default_factory=RewardVelocity, description="null: no PID control")
    phase: TrainingPhase | None = Field(default_factory=TrainingPhase, description="null: no phases")
    rise_coefficient: float = Field(
        0.0, ge=0, description="weight of the squared rise of the KL a step, where it rises"
    )
    rise_window: int = Field(50, ge=1, description="steps over which that rise is measured")

    _smoothed: float = PrivateAttr(0.0)
    _slow: float = PrivateAttr(0.0)
    _state: functional.Velocity = PrivateAttr(default_factory=functional.Velocity)
    _rewards: list[float] = PrivateAttr(default_factory=list)
    _kls: list[float] = PrivateAttr(default_factory=list)
    _current: float = PrivateAttr(0.0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.lowest > self.highest:
            raise ValueError(f"lowest ({self.lowest:g}) exceeds highest ({self.highest:g})")
        if self.rise_coefficient and not self.coefficient:
            raise ValueError("coefficient 0 opens no reference model, so there is no KL whose rise could be weighed")
        return self

    @property
    def needs_reference(self) -> bool:
        return self.coefficient > 0

    def penalty(self, experience: Experience) -> Tensor:
        if self.place != "reward" or not self._current:
            return torch.zeros_like(experience.logprobs)
        estimate = functional.kl_estimate(experience.logprobs, experience.reference_logprobs, "k1")
        return torch.where(experience.mask, self._current * estimate, 0.0)

    @property
    def loss_coefficient(self) -> float:
        return self._current if self.place == "loss" else 0.0

    @property
    def loss_estimator(self) -> str:
        return "k2"

    def observe(self, experience: Experience) -> dict[str, float]:
        counted = experience.mask & (experience.weight > 0)[:, None]
        if experience.reference_logprobs is None or not bool(counted.any()):
            return {}
        estimate = functional.kl_estimate(experience.logprobs, experience.reference_logprobs, "k1")
        kl = float(functional.masked_mean(estimate, counted))
        entropy = -float(functional.masked_mean(experience.logprobs, counted))
        self._smoothed = self.smoothing * self._smoothed + (1 - self.smoothing) * kl
        self._slow = 0.99 * self._slow + 0.01 * kl
        threshold, phase = self._threshold(experience)
        gate = 1.0 if self.gate is None else functional.entropy_gate(entropy, self.gate.target, self.gate.floor)
        penalty, slope = functional.excess_penalty(self._smoothed, threshold, self.coefficient, gate)
        rise = max((kl - self._kls[0]) / self.rise_window, 0.0) if len(self._kls) == self.rise_window else 0.0
        self._kls = [*self._kls, kl][-self.rise_window :]
        self._current = slope + 2 * self.rise_coefficient * rise / self.rise_window
        per_row = functional.masked_sum(estimate, experience.mask, dim=1)
        k3 = functional.kl_estimate(experience.logprobs, experience.reference_logprobs, "k3")
        return {
            "kl/coefficient": self._current,
            "kl/k1": float(per_row.mean()),
            "kl/k3": float(functional.masked_sum(k3, experience.mask, dim=1).mean()),
            "kl/smoothed": self._smoothed,
            "kl/slow": self._slow,
            "kl/threshold": threshold,
            "kl/gate": gate,
            "kl/penalty": penalty + self.rise_coefficient * rise**2,
            "kl/phase": phase,
        }

    def _threshold(self, experience: Experience) -> tuple[float, float]:
        """The threshold in force, and the factor of the phase in it."""
        adjustment, factor = 0.0, 1.0
        if self.velocity is not None or self.phase is not None:
            reward = self._reward(experience)
            if math.isfinite(reward):
                self._rewards.append(reward)
                if self.velocity is not None:
                    gains = self.velocity.proportional, self.velocity.integral, self.velocity.derivative
                    self._state = self._state.observe(reward, gains, self.velocity.target, self.velocity.keep)
            adjustment = self._state.output
        if self.phase is not None:
            self._rewards = self._rewards[-2 * self.phase.window :]
            name = functional.training_phase(self._rewards, **self.phase.model_dump())
            factor = functional.PHASES[name]
        return functional.kl_threshold(self.threshold, adjustment, factor, self.lowest, self.highest), factor

    def _reward(self, experience: Experience) -> float:
        known = list(experience.channels.keys())
        name = known[0] if self.channel is None and len(known) == 1 else self.channel
        if name is None:
            raise ValueError(f"regulariser threshold-kl follows one reward: set `channel` to one of {', '.join(known)}")
        if name not in known:
            raise ValueError(f"there is no reward {name!r} for threshold-kl to follow; {nearest(name, known)}")
        return float(experience.channels[name].nanmean())

    def state_dict(self) -> dict[str, Any]:
        state = self._state
        return {
            "smoothed": self._smoothed,
            "slow": self._slow,
            "velocity": (state.smoothed, state.integral, state.error, state.output),
            "rewards": list(self._rewards),
            "kls": list(self._kls),
            "current": self._current,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._smoothed, self._slow, self._current = state["smoothed"], state["slow"], state["current"]
        self._state = functional.Velocity(*state["velocity"])
        self._rewards, self._kls = list(state["rewards"]), list(state["kls"])
