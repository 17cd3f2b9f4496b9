"""The fast decoder with compiled loops between its matrix products: bfloat16 on a processor, where Numba is installed.

Knows: which layers the loops can do, and in what order.
Does not know: how the loops do it (`loops.decoding`), prompts, sampling.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fairlead import loops
from fairlead.generation.decoders import FastDecoder, FastWeights
from fairlead.models.families import capped

__all__ = ["CompiledDecoder"]

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
        return plain and packed and body.attention_cap is None and residual == torch.float32 and loops.available()

    def _layers(self, x: Tensor, rotations: dict[str, tuple[Tensor, Tensor]], here: int) -> Tensor:
        from fairlead.loops.decoding import attend, gated, normed  # only where Numba is
        from fairlead.loops.numbers import memory, use_threads

        w, body = self.weights, self.weights.body
        use_threads()
        x, more = x.contiguous(), x.new_empty(0, x.shape[1], dtype=w.dtype)
        turns = {kind: [half.flatten(0, -2).contiguous().numpy() for half in pair] for kind, pair in rotations.items()}
        hidden = _NOT_HIDDEN if self.hidden is None else self.hidden.numpy()
        owner = np.zeros(len(x), np.int64) if self.prompts is None else self.prompts.owner.numpy()
        for i, layer in enumerate(w.layers):
            h = normed(x, more, layer.before_attention.weight, layer.before_attention.epsilon)
            attended = x.new_empty(len(x), body.heads * body.head_width, dtype=w.dtype)
            attend(
                memory(layer.qkv(h)),
                *turns[layer.kind],
                memory(self.keys[i]),
                memory(self.values[i]),
                here,
                np.float32(body.scale),
                hidden,
                owner,
                _NO_PROMPTS if self.prompts is None else memory(self.prompts.keys[i]),
                _NO_PROMPTS if self.prompts is None else memory(self.prompts.values[i]),
                memory(attended),
            )
            h = normed(x, layer.output(attended), layer.before_mlp.weight, layer.before_mlp.epsilon)
            more = layer.down(gated(layer.gate_up(h), body.gelu))
        return capped(w.head(normed(x, more, w.norm.weight, w.norm.epsilon)), w.logit_cap)
