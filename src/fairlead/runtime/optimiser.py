"""Optimiser and learning-rate schedule of a trained model.

Knows: AdamW and how its learning rate moves.
Does not know: losses, batches.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

__all__ = ["OptimiserSpec", "build_optimiser", "schedule_factor", "set_learning_rate"]


class OptimiserSpec(BaseModel):
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101), its schedule and clipping."""

    model_config = ConfigDict(extra="forbid")

    learning_rate: float = Field(1e-5, gt=0, description="peak learning rate")
    betas: tuple[float, float] = Field((0.9, 0.95), description="decay rates of the two moments")
    epsilon: float = Field(1e-8, gt=0, description="added to the root of the second moment")
    weight_decay: float = Field(
        0.0, ge=0, description="decoupled decay of matrices; vectors (norms, biases) are not decayed"
    )
    maximum_gradient_norm: float | None = Field(
        1.0, gt=0, description="global norm to which gradients are clipped; null: no clipping"
    )
    schedule: Literal["constant", "linear", "cosine", "warmup-stable-decay"] = Field(
        "constant", description="course of the learning rate after warm-up"
    )
    warmup: float = Field(
        0.0, ge=0, description="linear warm-up: share of all steps when below 1, else a number of steps"
    )
    decay: float = Field(
        0.2, gt=0, le=1, description="share of steps that a warmup-stable-decay schedule spends on its decay"
    )
    floor: float = Field(0.0, ge=0, le=1, description="learning rate at the end as a share of the peak")
    tokens_per_microbatch: int = Field(
        8192,
        ge=1,
        description="token budget (padding included) of one forward and backward pass; memory grows with it, gradients do not change",
    )
    total_steps: int = Field(0, ge=0, description="length of the schedule in updates; 0: the stage fills it in")


def schedule_factor(spec: OptimiserSpec, step: int) -> float:
    """Share of the peak learning rate at update `step` (0-based)."""
    total = max(spec.total_steps, 1)
    warmup = spec.warmup * total if spec.warmup < 1 else spec.warmup
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if spec.schedule == "constant":
        return 1.0
    progress = min(max((step - warmup) / max(total - warmup, 1), 0.0), 1.0)
    if spec.schedule == "linear":
        shape = 1 - progress
    elif spec.schedule == "cosine":
        shape = 0.5 * (1 + math.cos(math.pi * progress))
    else:
        shape = min(1.0, (1 - progress) / spec.decay)
    return spec.floor + (1 - spec.floor) * shape


def build_optimiser(parameters: Iterable[nn.Parameter], spec: OptimiserSpec) -> torch.optim.Optimizer:
    """Fused AdamW over the parameters that require a gradient."""
    trained = [p for p in parameters if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": spec.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=spec.learning_rate,
        betas=spec.betas,
        eps=spec.epsilon,
        fused=True,
    )


def set_learning_rate(optimiser: torch.optim.Optimizer, spec: OptimiserSpec, step: int) -> float:
    """Move the optimiser to update `step` of its schedule; returns the learning rate."""
    rate = spec.learning_rate * schedule_factor(spec, step)
    for group in optimiser.param_groups:
        group["lr"] = rate
    return rate
