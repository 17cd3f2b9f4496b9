"""Multipliers by dual ascent, on the mean cost or on a pessimistic one."""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
from pydantic import Field, PrivateAttr, model_validator
from torch import Tensor

from fairlead import functional
from fairlead.batch import Experience
from fairlead.constraints.base import Constraint

__all__ = ["HighConfidence", "Lagrangian"]


class Lagrangian(Constraint, name="lagrangian"):
    """A multiplier that rises while the mean cost of recent responses is over the limit, and falls while it is below.

    The mean is that of the policy: responses which selection leaves out count, those whose cost is unknown do not. `rate: 0` is a
    fixed penalty.

    Source: Dai et al. 2023 (Safe RLHF, arXiv 2310.12773), section 3.3; defaults of the released script.
    """

    initial: float = Field(1.0, ge=0, description="multiplier to begin with")
    rate: float = Field(0.1, ge=0, description="step of dual ascent")
    maximum: float = Field(5.0, gt=0, description="largest multiplier")
    parametrisation: Literal["log", "linear"] = Field(
        "log", description="ascend on the multiplier's logarithm, or on itself, cut at 0"
    )
    window: int = Field(128, ge=2, description="recent responses whose mean counts; at least those of the rollout")
    delay: int = Field(0, ge=0, description="rollouts in which the multiplier stays")

    _multiplier: float | None = PrivateAttr(None)
    _costs: list[float] = PrivateAttr(default_factory=list)
    _seen: int = PrivateAttr(0)

    @model_validator(mode="after")
    def _moves(self) -> Self:
        if self.initial > self.maximum:
            raise ValueError(f"initial ({self.initial:g}) exceeds maximum ({self.maximum:g})")
        if self.parametrisation == "log" and not self.initial and self.rate:
            raise ValueError(
                "on its logarithm a multiplier of 0 never moves: set initial above 0, or parametrisation: linear"
            )
        return self

    @property
    def multiplier(self) -> float:
        return self.initial if self._multiplier is None else self._multiplier

    def observe(self, experience: Experience) -> dict[str, float]:
        cost = self.cost(experience)
        counts = torch.isfinite(cost) & experience.mask.any(1)
        if experience.anchor is not None:
            counts &= ~experience.anchor
        self._costs = (self._costs + cost[counts].tolist())[-max(self.window, int(counts.sum())) :]
        self._seen += 1
        if not self._costs:
            return {"multiplier": self.multiplier}
        costs = torch.tensor(self._costs, dtype=torch.float64)
        excess = self._estimate(costs) - self.bound
        if self._seen > self.delay:
            moved = functional.dual_ascent(
                torch.tensor(self.multiplier, dtype=torch.float64),
                torch.tensor(excess, dtype=torch.float64),
                self.rate,
                self.parametrisation == "log",
                self.maximum,
            )
            self._multiplier = float(moved)
        return {"multiplier": self.multiplier, "excess": excess, "cost": float(costs.mean())}

    def _estimate(self, costs: Tensor) -> float:
        """What must not exceed the bound, from recent costs [n]."""
        return float(costs.mean())

    def state_dict(self) -> dict[str, Any]:
        return {"multiplier": self._multiplier, "costs": self._costs, "seen": self._seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._multiplier, self._costs, self._seen = state["multiplier"], list(state["costs"]), state["seen"]


class HighConfidence(Lagrangian, name="high-confidence"):
    """The limit holds for the mean cost plus k standard deviations, so that the policy may later pass a test of safety.

    The policy learns from the cost whose gradient is that of the inflated mean. Both take k from the costs in the window.

    Source: HC-RLHF 2025 (arXiv 2506.08266) and its released scripts, whose KL stands in the reward alone and whose advantages
    are not divided.
    """

    normalise: bool = Field(False, description="divide the mixture of reward and cost by 1 + multiplier")
    kl: Literal["shared", "reward"] = Field("reward", description="as in lagrangian")
    rate: float = Field(0.01, ge=0, description="step of dual ascent")
    maximum: float = Field(1e6, gt=0, description="largest multiplier")
    window: int = Field(256, ge=2, description="recent responses whose mean and deviation count, as in lagrangian")
    delta: float = Field(0.1, gt=0, le=0.5, description="probability with which the later test may err")
    test_prompts: int = Field(1000, ge=2, description="prompts that the later test will have")
    train_factor: float = Field(1.0, ge=0, description="C₁: pessimism for the costs of the window; 0: none")
    test_factor: float = Field(1.0, ge=0, description="C₂: pessimism for those of the test; 0: none")

    def _k(self) -> float:
        if len(self._costs) < 2:  # one cost tells nothing about its spread
            return 0.0
        return functional.pessimism(
            self.delta, len(self._costs), self.test_prompts, self.train_factor, self.test_factor
        )

    def _estimate(self, costs: Tensor) -> float:
        k = self._k()
        return float(costs.mean() + k * costs.std()) if k else float(costs.mean())

    def learned_cost(self, experience: Experience) -> Tensor:
        cost, k = self.cost(experience), self._k()
        if not k:
            return cost
        costs = torch.tensor(self._costs, dtype=cost.dtype)
        return functional.pessimistic_cost(cost, float(costs.mean()), float(costs.std()), k)
