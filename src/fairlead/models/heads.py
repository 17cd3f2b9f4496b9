"""Heads of critics other than a linear one.

Knows: what a head computes from hidden states.
Does not know: backbones, or what values are used for.
"""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from fairlead import functional

__all__ = ["PessimisticHead", "SoftMinimumHead"]


class PessimisticHead(BaseModel):
    """Several small heads on one critic, and the soft minimum of what they say (SAFE, arXiv 2602.04651)."""

    model_config = ConfigDict(extra="forbid")

    heads: int = Field(2, ge=1, description="how many heads; 1: a single one of this form")
    alpha: float = Field(0.3, ge=0, description="how soft the minimum is: 0 the smallest value, large the mean")


class SoftMinimumHead(nn.Module):
    """V = soft-min of W₂·GELU(W₁·LayerNorm(h)), several small networks of a quarter of the width.

    The last layers begin at zero, so that a new critic starts flat; the first ones differ, and so the heads come to differ.
    """

    def __init__(self, width: int, spec: PessimisticHead) -> None:
        super().__init__()
        inner = max(1, width // 4)
        self.alpha = spec.alpha
        self.normalise = nn.LayerNorm(width)
        self.first = nn.ModuleList(nn.Linear(width, inner) for _ in range(spec.heads))
        self.last = nn.ModuleList(nn.Linear(inner, 1) for _ in range(spec.heads))
        for layer in self.last:
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., width] → [..., 1]"""
        hidden = self.normalise(hidden)
        values = [last(F.gelu(first(hidden))) for first, last in zip(self.first, self.last, strict=True)]
        return functional.soft_minimum(torch.cat(values, dim=-1).float(), self.alpha)[..., None]
