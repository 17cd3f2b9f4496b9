"""Reading a ragged sequence through a model of a known family, in fewer passes over memory than through its own `forward`.

Knows: the parts of such a model (`families`), attention among ragged rows, which outputs are wanted.
Does not know: batches, heads of models, what is learned.

The same modules do the matrix products, so adapters and quantised maps work. What lies between them is computed here:

* Norms and rotary embeddings have gradients written by hand, with half of the passes that torch's own take.
* The last layer looks at all tokens and is computed only for those whose output is wanted: for a prompt nothing but its last one,
  for a row that gets a score a single one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from fairlead.models.attention import Ragged
from fairlead.models.families import Anatomy, Layer, Norm

__all__ = ["read_ragged"]

_MOST = 0.9  # where more of the tokens are wanted, taking them apart costs more than it saves


def read_ragged(body: Anatomy, ids: Tensor, positions: Tensor, rows: Ragged, places: Tensor) -> Tensor:
    """Last hidden states [M, D] at `places` [M] of the sequence `ids` [N], whose tokens stand at `positions` [N] of their rows."""
    x = body.model.embed_tokens(ids)
    with torch.autocast(x.device.type, enabled=False):
        rotations = body.rotations(x[None], positions[None])
    turns = {kind: _turn(cosine[0, :, None], sine[0, :, None]) for kind, (cosine, sine) in rotations.items()}
    wanted = torch.unique(places)
    if not len(wanted):
        return x[:0]
    if len(wanted) > _MOST * len(ids):
        for layer in body.layers:
            x = _layer(body, layer, x, turns[layer.kind], rows)
        return _normalised(body.norm, x, x.dtype).index_select(0, places)
    for layer in body.layers[:-1]:
        x = _layer(body, layer, x, turns[layer.kind], rows)
    last = body.layers[-1]
    some, kept = rows.only(wanted)
    x = _layer(body, last, x, turns[last.kind], some, kept)
    return _normalised(body.norm, x, x.dtype).index_select(0, torch.searchsorted(kept, places))


def _layer(
    body: Anatomy, layer: Layer, x: Tensor, turn: tuple[Tensor, Tensor], rows: Ragged, kept: Tensor | None = None
) -> Tensor:
    """One layer over [N, D]; the outputs are those of the tokens `kept` [M], or all."""
    inner = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype

    def heads(module: Any, norm: Norm | None, h: Tensor, count: int) -> Tensor:
        found = module(h).view(len(h), count, body.head_width)
        return found if norm is None else _normalised(norm, found, found.dtype)

    h = _normalised(layer.before_attention, x, inner)
    mine, turn_mine = (h, turn) if kept is None else (h[kept], (turn[0][kept], turn[1][kept]))
    query = _turned(heads(layer.query, layer.query_norm, mine, body.heads), turn_mine)
    key = _turned(heads(layer.key, layer.key_norm, h, body.key_heads), turn)
    value = heads(layer.value, None, h, body.key_heads)
    dropout = body.dropout if body.model.training else 0.0
    mixed = rows(query, key, value, body.scale, dropout, layer.window).flatten(1)
    x = x if kept is None else x[kept]
    x = _add(x, layer.output(mixed), layer.after_attention)
    h = _normalised(layer.before_mlp, x, inner)
    gate = layer.gate(h)
    gate = F.gelu(gate, approximate="tanh") if body.gelu else F.silu(gate)
    return _add(x, layer.down(gate * layer.up(h)), layer.after_mlp)


def _add(x: Tensor, change: Tensor, norm: Norm | None) -> Tensor:
    change = change.to(x.dtype) if norm is None else _normalised(norm, change, x.dtype)
    return x + change


def _normalised(norm: Norm, x: Tensor, dtype: torch.dtype) -> Tensor:
    """RMS norm of [..., D] in float32, as `dtype`."""
    if x.is_cuda:  # one kernel there
        return F.rms_norm(x.float(), x.shape[-1:], norm.weight.float(), norm.epsilon).to(dtype)
    return _RmsNorm.apply(x, norm.weight, norm.epsilon, dtype)  # type: ignore[no-untyped-call, no-any-return]


def _turned(heads: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    return _Turn.apply(heads, *turn)  # type: ignore[no-untyped-call, no-any-return]


class _RmsNorm(torch.autograd.Function):
    """y = w n with n = x r and r = (mean(x²) + ε)^-½; dx = r (g w − n mean(g w n)), dw = Σ g n."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
        """[..., D] in any precision → the same shape in `dtype`."""
        wide = x.float()
        mean = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        scale = mean.add_(epsilon).rsqrt_()
        unit = wide * scale
        ctx.save_for_backward(unit, scale, weight)
        ctx.precision = x.dtype
        return (unit * weight.float()).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        """Gradients of the input and the weight."""
        unit, scale, weight = ctx.saved_tensors
        wide = weight.float()
        with torch.autocast(gradient.device.type, enabled=False):
            gradient = gradient.float()
            products = gradient * unit
            of_weight = None
            if ctx.needs_input_grad[1]:
                of_weight = products.flatten(0, -2).sum(0).to(weight.dtype)
            share = (products @ wide).div_(-unit.shape[-1])[..., None]
            of_input = (gradient * wide).addcmul_(unit, share).mul_(scale)
        return of_input.to(ctx.precision), of_weight, None, None


class _Turn(torch.autograd.Function):
    """Rotary position embedding (Su et al. 2021, arXiv 2104.09864), halves paired; its gradient turns back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """Heads [N, H, W] turned by angles with `cosine` and `sine` [N, 1, W], as `_turn` gives them."""
        ctx.save_for_backward(cosine, sine)
        return _turn_by(x, cosine, sine, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """The gradient turned by the opposite angles."""
        cosine, sine = ctx.saved_tensors
        return _turn_by(gradient, cosine, sine, -1), None, None


def _turn(cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
    """The sine that the second half adds to the first is negative."""
    half = sine.shape[-1] // 2
    return cosine, torch.cat((-sine[..., :half], sine[..., half:]), -1)


def _turn_by(x: Tensor, cosine: Tensor, sine: Tensor, direction: int) -> Tensor:
    wide = x.to(cosine.dtype)
    first, second = wide.chunk(2, -1)
    return (wide * cosine).addcmul_(torch.cat((second, first), -1), sine, value=direction).to(x.dtype)
