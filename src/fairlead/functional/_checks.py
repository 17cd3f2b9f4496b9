"""Checks shared by the files of this room.

Knows how to say clearly which argument has a wrong shape or an unknown name. Does not know any mathematics.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def require_same_shape(**tensors: Tensor | None) -> None:
    """Raise ValueError unless all given tensors (None is skipped) have the same shape; keywords are their names."""
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items() if tensor is not None}
    if len(set(given.values())) > 1:
        shapes = ", ".join(f"{name} {list(shape)}" for name, shape in given.items())
        raise ValueError(f"shapes must be equal, got {shapes}")


def require_dimensions(name: str, tensor: Tensor, letters: str) -> None:
    """Raise ValueError unless `tensor` has one dimension per letter, e.g. "BT" for [B, T]."""
    if tensor.dim() != len(letters):
        raise ValueError(f"{name} must have shape [{', '.join(letters)}], got {list(tensor.shape)}")


def require_rows(score: Tensor, mask: Tensor, name: str = "score") -> None:
    """Raise ValueError unless `score` is [B] and `mask` is [B, T] with the same B."""
    require_dimensions(name, score, "B")
    require_dimensions("mask", mask, "BT")
    if score.shape[0] != mask.shape[0]:
        raise ValueError(f"{name} has {score.shape[0]} rows but mask has {mask.shape[0]}")


def require_choice(what: str, value: str, choices: Iterable[str]) -> None:
    """Raise ValueError naming the valid choices unless `value` is one of them."""
    names = list(choices)
    if value not in names:
        raise ValueError(f"unknown {what} {value!r}: choose one of {', '.join(names)}")


def require_range(name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError unless low <= value <= high (NaN fails)."""
    if not low <= value <= high:
        raise ValueError(f"{name} must lie in [{low:g}, {high:g}], got {value}")


def require_positive(name: str, value: float) -> None:
    """Raise ValueError unless value > 0 (NaN fails)."""
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}")


def at_least_float32(x: Tensor) -> Tensor:
    """Integers, booleans and half precision become float32; float32 and float64 stay as they are."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()
