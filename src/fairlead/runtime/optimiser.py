"""Optimiser and learning-rate schedule of a trained model.

Knows: AdamW, Muon and how their learning rate moves.
Does not know: losses, batches.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

__all__ = ["OptimiserSpec", "build_optimiser", "schedule_factor", "set_learning_rate"]


class OptimiserSpec(BaseModel):
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) or Muon (Jordan et al. 2024), its schedule and clipping.

    Muon orthogonalises the momentum of the matrices inside the model's layers, with the update scaled to the size of AdamW's
    (Liu et al. 2025, arXiv 2502.16982, eq. 4), so that one learning rate serves both; embeddings, heads and vectors keep AdamW.
    """

    model_config = ConfigDict(extra="forbid")

    algorithm: Literal["adamw", "muon"] = Field(
        "adamw", description="adamw, or muon for the matrices inside the layers (pays in pre-training)"
    )
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
    tokens_per_microbatch: int | None = Field(
        None,
        ge=1,
        description="token budget of one forward and backward pass; memory grows with it, gradients do not change. null: 8,192 on a "
        "GPU; on a CPU 4,096, or fewer of a large model, so that activations stay near a gibibyte",
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


class AdamWAndMuon(torch.optim.Optimizer):
    """Muon for the matrices of the layers and AdamW for the rest, behind the interface of one optimiser."""

    def __init__(self, adamw: torch.optim.Optimizer, muon: torch.optim.Optimizer) -> None:
        self.members = (adamw, muon)

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The parameter groups of both."""
        return [group for member in self.members for group in member.param_groups]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter."""
        for member in self.members:
            member.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients."""
        for member in self.members:
            member.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The state of both, AdamW's first."""
        return {"members": [member.state_dict() for member in self.members]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        for member, state in zip(self.members, state_dict["members"], strict=True):
            member.load_state_dict(state)


def build_optimiser(model: nn.Module, spec: OptimiserSpec) -> torch.optim.Optimizer:
    """The optimiser of the parameters of `model` that require a gradient."""
    trained = [p for p in model.parameters() if p.requires_grad]
    layered: set[int] = set()
    if spec.algorithm == "muon":
        layers = [part for part in model.modules() if isinstance(part, nn.ModuleList)]
        layered = {id(p) for part in layers for p in part.parameters() if p.dim() == 2}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.dim() > 1 and id(p) not in layered], "weight_decay": spec.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=spec.learning_rate,
        betas=spec.betas,
        eps=spec.epsilon,
        fused=True,
    )
    matrices = [p for p in trained if id(p) in layered]
    if not matrices:
        return adamw
    muon = torch.optim.Muon(
        matrices, lr=spec.learning_rate, weight_decay=spec.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return AdamWAndMuon(adamw, muon)


def set_learning_rate(optimiser: torch.optim.Optimizer, spec: OptimiserSpec, step: int, factor: float = 1.0) -> float:
    """Move the optimiser to update `step` of its schedule, times `factor`; returns the learning rate."""
    rate = factor * spec.learning_rate * schedule_factor(spec, step)
    for group in optimiser.param_groups:
        group["lr"] = rate
    return rate
