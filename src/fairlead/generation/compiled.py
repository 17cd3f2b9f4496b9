"""The fast decoder with compiled loops between its matrix products: bfloat16 on a processor, where Numba is installed.

Knows: which layers the loops can do, and in what order.
Does not know: how the loops do it (`kernels`), prompts, sampling.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from fairlead.generation.decoders import FastDecoder, FastWeights
from fairlead.models.families import capped

__all__ = ["CompiledDecoder", "loops"]


@cache
def loops() -> ModuleType | None:
    """The module `kernels`; None without Numba (the extra `fast`), or where it has no OpenMP."""
    try:
        from fairlead.generation import kernels

        kernels.gated(torch.zeros(1, 2, dtype=torch.bfloat16), False)
    except (ImportError, OSError, RuntimeError, ValueError):
        return None
    return kernels


_NO_PROMPTS = np.zeros((0, 0, 0), np.uint16)
_NOT_HIDDEN = np.zeros((0, 0), np.bool_)


class CompiledDecoder(FastDecoder):
    """Llama, Mistral, Qwen 2 and Gemma 1; see `fits`."""

    @staticmethod
    def fits(weights: FastWeights) -> bool:
        """Whether all products are packed (bfloat16 by oneDNN), the residual stream is float32, and no layer has norms besides the usual two."""
        plain = all(
            layer.packed and layer.after_attention is None and layer.after_mlp is None and layer.query_norm is None
            for layer in weights.layers
        )
        body, packed = weights.body, weights.head.packed
        residual = body.model.embed_tokens.weight.dtype
        return plain and packed and body.attention_cap is None and residual == torch.float32 and loops() is not None

    def _layers(self, x: Tensor, rotations: dict[str, tuple[Tensor, Tensor]], here: int) -> Tensor:
        w, body, kernels = self.weights, self.weights.body, loops()
        assert kernels is not None, "only where it fits"
        kernels.use_threads()
        x, more = x.contiguous(), x.new_empty(0, x.shape[1], dtype=w.dtype)
        turns = {kind: [half.flatten(0, -2).contiguous().numpy() for half in pair] for kind, pair in rotations.items()}
        hidden = _NOT_HIDDEN if self.hidden is None else self.hidden.numpy()
        owner = np.zeros(len(x), np.int64) if self.prompts is None else self.prompts.owner.numpy()
        for i, layer in enumerate(w.layers):
            normed = kernels.normed(x, more, layer.before_attention.weight, layer.before_attention.epsilon)
            attended = x.new_empty(len(x), body.heads * body.head_width, dtype=w.dtype)
            kernels.attend(
                kernels.bits(layer.qkv(normed)),
                *turns[layer.kind],
                kernels.bits(self.keys[i]),
                kernels.bits(self.values[i]),
                here,
                np.float32(body.scale),
                hidden,
                owner,
                _NO_PROMPTS if self.prompts is None else kernels.bits(self.prompts.keys[i]),
                _NO_PROMPTS if self.prompts is None else kernels.bits(self.prompts.values[i]),
                kernels.bits(attended),
            )
            normed = kernels.normed(x, layer.output(attended), layer.before_mlp.weight, layer.before_mlp.epsilon)
            more = layer.down(kernels.gated(layer.gate_up(normed), body.gelu))
        return capped(w.head(kernels.normed(x, more, w.norm.weight, w.norm.epsilon)), w.logit_cap)
