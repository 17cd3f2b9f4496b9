"""Sampling from the geometric mixture of two models, token by token.

Knows: two decoders over the same rows, and the logits that they give.
Does not know: which models these are, temperature, filters (they come behind the mixture).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fairlead.generation.decoders import Decoder

__all__ = ["MixedDecoder", "Mixing"]


@dataclass(frozen=True)
class Mixing:
    """The model whose logits are mixed in, and its share β of (1 − β)·own + β·other."""

    model: Any
    """None: the sampled model itself with its adapters off."""
    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"the share of the other model must lie in (0, 1], got {self.share:g}")


class MixedDecoder:
    """Logits (1 − share)·own + share·other, each model with a cache of its own.

    Its distribution is π_own^(1 − share) · π_other^share, normalised at every token. Both logits would be divided by one
    temperature, so that dividing the mixture, as the sampler does, is the same.

    Source: the opponent of Nash-MD-PG (Munos et al. 2023, arXiv 2312.00886).
    """

    def __init__(
        self, own: Decoder, other: Decoder, share: float, beside: Callable[[], AbstractContextManager[Any]]
    ) -> None:
        """`beside` is the context in which `other` is asked, such as that of adapters switched off."""
        self.own, self.other, self.share, self.beside = own, other, share, beside

    def prefill(self, ids: Tensor, mask: Tensor, positions: Tensor, spread: Tensor | None) -> Tensor:
        """As in `Decoder`."""
        own = self.own.prefill(ids, mask, positions, spread)
        with self.beside():
            return self._mixed(own, self.other.prefill(ids, mask, positions, spread))

    def step(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """As in `Decoder`."""
        own = self.own.step(tokens, positions)
        with self.beside():
            return self._mixed(own, self.other.step(tokens, positions))

    def keep(self, rows: Tensor) -> None:
        """As in `Decoder`."""
        self.own.keep(rows)
        self.other.keep(rows)

    def _mixed(self, own: Tensor, other: Tensor) -> Tensor:
        if own.shape != other.shape:
            raise ValueError(
                f"models with {own.shape[-1]} and {other.shape[-1]} tokens cannot be mixed: both need one tokenizer"
            )
        return torch.lerp(own.float(), other.float(), self.share)
