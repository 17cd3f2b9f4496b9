"""Decoding one token for many rows: through the model's own modules, or faster for the Llama, Qwen and Gemma families.

Knows: weights and key-value caches of a prefilled batch.
Does not know: prompts, sampling, which rows are finished.

A transformers model spends most of a decoding step on the CPU around its matrix products: attention over one query, casts of the
weights, and dispatch. The fast decoder reads the same weights and does the same arithmetic with few large operations. With
autocast it casts (and joins) the weights once for each call of `generate`; without, it uses them where they lie.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache

from fairlead.generation.cache import cache_argument, full_attention_only, growing_cache
from fairlead.generation.shared import SharedPrompts, worth_sharing
from fairlead.models.attention import ATTENTION
from fairlead.models.families import Anatomy, Layer, Norm, anatomy, capped

__all__ = ["Decoder", "FastDecoder", "FastWeights", "PlainDecoder", "fast_weights"]

_ROWS = 64  # rows that a packed weight is laid out for; others are as right
_COLUMNS = 32  # the cache grows by this many: matrix products run over whole columns, so few should be empty


class Decoder(Protocol):
    """A batch of rows in the middle of their responses."""

    def prefill(self, ids: Tensor, mask: Tensor, positions: Tensor, spread: Tensor | None) -> Tensor:
        """Read prompts [p, P]; row i continues prompt `spread[i]` (None: each row its own). Returns logits [n, V]."""
        ...

    def step(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Read one token of each row; returns the logits [n, V] of the next."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only; a row that stands there several times goes on as several."""
        ...


class PlainDecoder:
    """Any causal language model of transformers, through its own `forward`."""

    def __init__(self, model: Any, maximum: int) -> None:
        self.model, self.maximum = model, maximum
        accepted = inspect.signature(model.forward).parameters
        self.takes_positions = "position_ids" in accepted
        self.takes_keep = "logits_to_keep" in accepted
        self.cache_name = cache_argument(model)
        self.cache: Any = None
        self.visible: Tensor | None = None
        self.columns = 0

    def prefill(self, ids: Tensor, mask: Tensor, positions: Tensor, spread: Tensor | None) -> Tensor:
        """As in `Decoder`."""
        self.cache = growing_cache(self.model.config)
        logits = self._forward(ids, None if bool(mask.all()) else mask.long(), positions)
        if spread is not None:
            self.cache.reorder_cache(spread)
            logits, mask = logits[spread], mask[spread]
        self.columns = ids.shape[1]
        # The attention mask of the whole run is written once: prompt padding is the only thing it ever hides.
        self.visible = None if bool(mask.all()) else F.pad(mask, (0, self.maximum), value=True)
        # A ready mask [n, 1, 1, K] saves building one at every token.
        self.broadcast = self.model.config._attn_implementation in ("sdpa", ATTENTION) and full_attention_only(
            self.cache
        )
        return logits

    def step(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """As in `Decoder`."""
        self.columns += 1
        mask = None if self.visible is None else self.visible[:, : self.columns]
        if mask is not None and self.broadcast:
            mask = mask[:, None, None]
        return self._forward(tokens[:, None], mask, positions[:, None])

    def keep(self, rows: Tensor) -> None:
        """As in `Decoder`."""
        self.cache.reorder_cache(rows)
        self.visible = None if self.visible is None else self.visible[rows]

    def _forward(self, ids: Tensor, mask: Tensor | None, positions: Tensor) -> Tensor:
        arguments: dict[str, Any] = {self.cache_name: self.cache}
        if self.takes_positions:
            arguments["position_ids"] = positions
        if self.takes_keep:
            arguments["logits_to_keep"] = 1
        return self.model(input_ids=ids, attention_mask=mask, use_cache=True, **arguments).logits[:, -1]  # type: ignore[no-any-return]


# ---------------------------------------------------------------------------------------------------------------------
# The fast decoder
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class _Norm:
    """RMS norm (Zhang and Sennrich 2019, arXiv 1910.07467)."""

    weight: Tensor
    epsilon: float

    def __call__(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.to(self.weight.dtype), self.weight.shape, self.weight, self.epsilon)


@dataclass
class _Linear:
    """One or several linear maps of the same input, joined where a copy is made anyway, and then laid out as products want them."""

    weights: list[Tensor]
    biases: list[Tensor | None]
    packed: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        if self.packed:
            return torch.ops.mkldnn._linear_pointwise(x, self.weights[0], self.biases[0], "none", [], "")  # type: ignore[no-any-return]
        parts = [F.linear(x, weight, bias) for weight, bias in zip(self.weights, self.biases, strict=True)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


@dataclass
class _Layer:
    """The weights of one layer."""

    qkv: _Linear
    output: _Linear
    gate_up: _Linear
    down: _Linear
    before_attention: _Norm
    after_attention: _Norm | None
    before_mlp: _Norm
    after_mlp: _Norm | None
    query_norm: _Norm | None
    key_norm: _Norm | None
    kind: str
    """Which rotary embedding the layer uses, where a model has several."""

    @property
    def packed(self) -> bool:
        """Whether all products are."""
        return all(x.packed for x in (self.qkv, self.output, self.gate_up, self.down))


@dataclass
class FastWeights:
    """What the fast decoder reads of a model; see `fast_weights`."""

    body: Anatomy
    layers: list[_Layer]
    norm: _Norm
    head: _Linear
    dtype: torch.dtype
    logit_cap: float | None
    window: int | None
    """The narrowest sliding window; rows must stay within it."""


def fast_weights(model: Any) -> FastWeights | None:
    """The weights of a model that the fast decoder knows, in the precision of the present autocast; None for any other model."""
    body = anatomy(getattr(model, "model", None))
    if body is None:
        return None
    device = next(model.parameters()).device.type
    own = body.norm.module.weight.dtype
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else own
    try:
        layers = [_layer(layer, dtype) for layer in body.layers]
        head = _linear([model.lm_head], dtype)
    except TypeError:
        return None
    return FastWeights(
        body=body,
        layers=layers,
        norm=_norm(body.norm),
        head=head,
        dtype=dtype,
        logit_cap=getattr(model.config, "final_logit_softcapping", None),
        window=min((layer.window for layer in body.layers if layer.window is not None), default=None),
    )


def _layer(layer: Layer, dtype: torch.dtype) -> _Layer:
    def norm(known: Norm | None) -> _Norm | None:
        return None if known is None else _norm(known)

    return _Layer(
        qkv=_linear([layer.query, layer.key, layer.value], dtype),
        output=_linear([layer.output], dtype),
        gate_up=_linear([layer.gate, layer.up], dtype),
        down=_linear([layer.down], dtype),
        before_attention=_norm(layer.before_attention),
        after_attention=norm(layer.after_attention),
        before_mlp=_norm(layer.before_mlp),
        after_mlp=norm(layer.after_mlp),
        query_norm=norm(layer.query_norm),
        key_norm=norm(layer.key_norm),
        kind=layer.kind,
    )


def _norm(known: Norm) -> _Norm:
    return _Norm(known.weight, known.epsilon)


def _linear(modules: list[Any], dtype: torch.dtype) -> _Linear:
    weights = [_effective_weight(module) for module in modules]
    biases = [module.bias for module in modules]
    if all(weight.dtype == dtype for weight in weights):
        return _Linear(weights, biases)
    joined = torch.cat([weight.to(dtype) for weight in weights])
    bias = None if biases[0] is None else torch.cat([b.to(dtype) for b in biases])
    if _can_pack(joined):
        return _Linear([torch.ops.mkldnn._reorder_linear_weight(joined, _ROWS)], [bias], packed=True)
    return _Linear([joined], [bias])


def _can_pack(weight: Tensor) -> bool:
    """Whether oneDNN multiplies it, which otherwise lays it out anew for every product; the operations are those of torch's compiler."""
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16:
        return False
    return hasattr(torch.ops.mkldnn, "_reorder_linear_weight") and torch.ops.mkldnn._is_mkldnn_bf16_supported()  # type: ignore[no-any-return]


def _effective_weight(module: Any) -> Tensor:
    """The weight of a linear map, with its active adapters added."""
    if type(module) is nn.Linear:
        return module.weight
    if not hasattr(module, "get_delta_weight"):
        raise TypeError(f"the fast decoder does not know {type(module).__name__}")
    weight: Tensor = module.get_base_layer().weight
    if not module.disable_adapters and not module.merged:
        for name in module.active_adapters:
            if name in module.lora_A:
                weight = weight + module.get_delta_weight(name).to(weight.dtype)
    return weight


class FastDecoder:
    """Llama, Mistral, Qwen 2 and 3, and Gemma 1 to 3, from their weights."""

    def __init__(self, model: Any, weights: FastWeights) -> None:
        self.model, self.weights = model, weights
        self.keys: list[Tensor] = []
        """For each layer [n * key heads, columns, head width]: contiguous, as batched products want them."""
        self.values: list[Tensor] = []
        self.used = 0
        """Columns of them that are filled."""
        self.prompts: SharedPrompts | None = None
        """Prompts that several rows share; otherwise prompts are the first columns of the rows themselves."""
        self.hidden: Tensor | None = None
        """[n, prompt length] bool, true at prompt padding; None without any."""

    def prefill(self, ids: Tensor, mask: Tensor, positions: Tensor, spread: Tensor | None) -> Tensor:
        """As in `Decoder`."""
        whole = bool(mask.all())
        cache = DynamicCache(config=self.model.config)
        logits: Tensor = self.model(
            input_ids=ids,
            attention_mask=None if whole else mask.long(),
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
            **{cache_argument(self.model): cache},
        ).logits[:, -1]
        keys, values = (
            [getattr(layer, name).to(self.weights.dtype) for layer in cache.layers] for name in ("keys", "values")
        )
        if spread is not None:
            logits, mask = logits[spread], mask[spread]
            if worth_sharing(keys[0], spread):
                self.prompts = SharedPrompts(keys, values, spread)
                keys, values = ([layer[:, :, :0] for layer in states] for states in (keys, values))
            keys, values = ([layer.index_select(0, spread) for layer in states] for states in (keys, values))
        self.used = keys[0].shape[2]
        spare = _columns(self.used) - self.used
        self.keys, self.values = (
            [F.pad(x, (0, 0, 0, spare)).flatten(0, 1) for x in states] for states in (keys, values)
        )
        self.hidden = None if whole else ~mask
        return logits

    def keep(self, rows: Tensor) -> None:
        """As in `Decoder`."""
        heads = self.weights.body.key_heads
        places = (rows[:, None] * heads + torch.arange(heads, device=rows.device)).flatten()
        for states in (self.keys, self.values):
            for i, old in enumerate(states):
                states[i] = old.index_select(0, places)
        if self.prompts is not None:
            self.prompts.keep(rows)
        self.hidden = None if self.hidden is None else self.hidden[rows]

    def step(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """As in `Decoder`."""
        with torch.autocast(tokens.device.type, enabled=False):
            return self._step(tokens, positions)

    def _step(self, tokens: Tensor, positions: Tensor) -> Tensor:
        w = self.weights
        if self.used == self.keys[0].shape[1]:
            self._grow()
        here, self.used = self.used, self.used + 1
        x = w.body.model.embed_tokens(tokens)
        return self._layers(x, w.body.rotations(x, positions[:, None]), here)

    def _layers(self, x: Tensor, rotations: dict[str, tuple[Tensor, Tensor]], here: int) -> Tensor:
        """Logits [n, V] from embeddings [n, D] of one new token a row, whose keys and values go into column `here`."""
        w = self.weights
        for i, layer in enumerate(w.layers):
            attended = self._attend(i, layer, layer.before_attention(x).to(w.dtype), rotations[layer.kind], here)
            x = x + (attended if layer.after_attention is None else layer.after_attention(attended))
            gate, up = layer.gate_up(layer.before_mlp(x).to(w.dtype)).chunk(2, -1)
            gate = F.gelu(gate, approximate="tanh") if w.body.gelu else F.silu(gate)
            mixed = layer.down(gate * up)
            x = x + (mixed if layer.after_mlp is None else layer.after_mlp(mixed))
        logits = w.head(w.norm(x).to(w.dtype))
        return capped(logits, w.logit_cap)

    def _attend(self, index: int, layer: _Layer, x: Tensor, rotation: tuple[Tensor, Tensor], here: int) -> Tensor:
        """Attention of one new token a row over the row's cache, the new token included."""
        w, body, rows = self.weights, self.weights.body, x.shape[0]
        heads = layer.qkv(x).view(rows, body.heads + 2 * body.key_heads, body.head_width)
        if layer.query_norm is None or layer.key_norm is None:
            turned = _rotate(heads[:, : body.heads + body.key_heads], *rotation)
            query, key = turned[:, : body.heads], turned[:, body.heads :]
        else:
            query = _rotate(layer.query_norm(heads[:, : body.heads]), *rotation)
            key = _rotate(layer.key_norm(heads[:, body.heads : body.heads + body.key_heads]), *rotation)
        keys, values = self.keys[index], self.values[index]
        keys[:, here] = key.reshape(-1, body.head_width)
        values[:, here] = heads[:, body.heads + body.key_heads :].reshape(-1, body.head_width)
        grouped = (query * body.scale).to(w.dtype).reshape(rows * body.key_heads, -1, body.head_width)
        scores, shared = torch.bmm(grouped, keys.transpose(1, 2)), 0
        if self.prompts is not None:
            scores, shared = torch.cat([self.prompts.scores(index, grouped), scores], -1), self.prompts.length
        scores = capped(scores, body.attention_cap)
        scores[..., shared + self.used :] = float("-inf")
        if self.hidden is not None:
            at_prompt = scores.view(rows, body.heads, -1)[..., : self.hidden.shape[1]]
            at_prompt.masked_fill_(self.hidden[:, None], float("-inf"))
        shares = scores.softmax(-1, dtype=torch.float32).to(w.dtype)
        mixed = torch.bmm(shares[..., shared:], values)
        if self.prompts is not None:
            mixed = mixed + self.prompts.mix(index, shares[..., :shared])
        return layer.output(mixed.view(rows, -1))

    def _grow(self) -> None:
        for states in (self.keys, self.values):
            for i, old in enumerate(states):
                states[i] = F.pad(old, (0, 0, 0, _COLUMNS))


def _columns(used: int) -> int:
    """Room for `used` columns and at least one more."""
    return (used // _COLUMNS + 1) * _COLUMNS


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021, arXiv 2104.09864) of x [n, heads, width], halves paired."""
    first, second = x.chunk(2, -1)
    return x * cosine + torch.cat((-second, first), -1) * sine
