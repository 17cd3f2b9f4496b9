"""Where the parts of a decoder of a known family lie: Llama, Mistral, Qwen 2 and 3, and Gemma 1 to 3.

Knows: how transformers names the modules of these families, and in what their arithmetic differs.
Does not know: how they are computed.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Anatomy", "Layer", "Norm", "anatomy", "capped", "language_logits"]

_FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")
_ACTIVATIONS = {"silu": False, "gelu_pytorch_tanh": True}
_ATTENTION = {"full_attention", "sliding_attention"}


@dataclass(frozen=True)
class Norm:
    """RMS norm (Zhang and Sennrich 2019, arXiv 1910.07467)."""

    module: Any
    shifted: bool
    """Gemma keeps its weights less one."""

    @property
    def weight(self) -> Tensor:
        """[width]"""
        return 1.0 + self.module.weight if self.shifted else self.module.weight  # type: ignore[no-any-return]

    @property
    def epsilon(self) -> float:
        """What is added to the mean square."""
        return float(self.module.eps if self.shifted else self.module.variance_epsilon)


@dataclass(frozen=True)
class Layer:
    """The modules of one layer."""

    query: Any
    key: Any
    value: Any
    output: Any
    gate: Any
    up: Any
    down: Any
    before_attention: Norm
    after_attention: Norm | None
    before_mlp: Norm
    after_mlp: Norm | None
    query_norm: Norm | None
    key_norm: Norm | None
    kind: str
    """Which rotary embedding the layer uses, where a model has several."""
    window: int | None
    """A token sees so many tokens at most, itself included; None: all before it."""


@dataclass(frozen=True)
class Anatomy:
    """A backbone taken apart."""

    model: Any
    layers: tuple[Layer, ...]
    norm: Norm
    heads: int
    key_heads: int
    head_width: int
    scale: float
    """Attention scores are products times this."""
    gelu: bool
    """tanh-GELU in the gate; else SiLU."""
    attention_cap: float | None
    """Attention scores are squashed into plus and minus this."""
    dropout: float
    """On attention's shares while training."""

    def rotations(self, x: Tensor, positions: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Cosines and sines [..., head width] at `positions` [...] for each kind of layer, in the precision of `x`."""
        embed = self.model.rotary_emb
        kinds = {layer.kind for layer in self.layers}
        if "layer_type" in inspect.signature(embed.forward).parameters:
            return {kind: embed(x, positions, kind) for kind in kinds}
        return dict.fromkeys(kinds, embed(x, positions))


def anatomy(backbone: Any) -> Anatomy | None:
    """The parts of a backbone (`LlamaModel` and its like); None for a family that is not known, or code that is not transformers' own."""
    config = getattr(backbone, "config", None)
    family = getattr(config, "model_type", None)
    if config is None or family not in _FAMILIES or getattr(config, "use_bidirectional_attention", False):
        return None
    if not type(backbone.layers[0]).__module__.startswith("transformers.models."):
        return None
    activation = getattr(config, "hidden_activation", None) or config.hidden_act
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if activation not in _ACTIVATIONS or kinds - _ATTENTION:
        return None
    gemma = family.startswith("gemma")
    attention = backbone.layers[0].self_attn
    return Anatomy(
        model=backbone,
        layers=tuple(_layer(layer, config, gemma) for layer in backbone.layers),
        norm=Norm(backbone.norm, gemma),
        heads=config.num_attention_heads,
        key_heads=config.num_key_value_heads,
        head_width=attention.head_dim,
        scale=attention.scaling,
        gelu=_ACTIVATIONS[activation],
        attention_cap=getattr(config, "attn_logit_softcapping", None) if family == "gemma2" else None,
        dropout=attention.attention_dropout,
    )


def language_logits(model: Any, hidden: Tensor) -> Tensor:
    """Logits [..., V] of a causal model of one of these families, of its last hidden states [..., D]."""
    logits: Tensor = model.lm_head(hidden)
    return capped(logits, getattr(model.config, "final_logit_softcapping", None))


def capped(x: Tensor, cap: float | None) -> Tensor:
    """`x` squashed into plus and minus `cap`, as Gemma does with scores and logits; as it is without one."""
    return x if cap is None else torch.tanh(x / cap) * cap


def _layer(layer: Any, config: Any, gemma: bool) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    sandwich = hasattr(layer, "pre_feedforward_layernorm")

    def norm(owner: Any, name: str) -> Norm | None:
        return Norm(getattr(owner, name), gemma) if hasattr(owner, name) else None

    # Mistral's configuration has a window and no layer types.
    slides = attention.sliding_window if hasattr(attention, "sliding_window") else None
    if config.model_type == "mistral":
        slides = config.sliding_window
    return Layer(
        query=attention.q_proj,
        key=attention.k_proj,
        value=attention.v_proj,
        output=attention.o_proj,
        gate=mlp.gate_proj,
        up=mlp.up_proj,
        down=mlp.down_proj,
        before_attention=Norm(layer.input_layernorm, gemma),
        after_attention=Norm(layer.post_attention_layernorm, gemma) if sandwich else None,
        before_mlp=Norm(layer.pre_feedforward_layernorm if sandwich else layer.post_attention_layernorm, gemma),
        after_mlp=norm(layer, "post_feedforward_layernorm"),
        query_norm=norm(attention, "q_norm"),
        key_norm=norm(attention, "k_norm"),
        kind=getattr(attention, "layer_type", None) or "full_attention",
        window=slides,
    )
