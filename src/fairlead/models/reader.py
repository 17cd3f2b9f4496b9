"""Reading a ragged sequence through a model of a known family, in fewer passes over memory than through its own `forward`.

Knows: the parts of such a model (`families`), attention among ragged rows, which outputs are wanted.
Does not know: batches, heads of models, what is learned.

The same modules do the matrix products, so adapters and quantised maps work. What lies between them is computed here:

* By compiled loops where there are any (`fairlead.loops`), in single passes forwards and backwards; else by torch's operations.
* The last layer looks at all tokens and is computed only for those whose output is wanted: for a prompt nothing but its last one,
  for a row that gets a score a single one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fairlead import loops
from fairlead.models.attention import Ragged
from fairlead.models.families import Anatomy, Layer, Norm

__all__ = ["read_ragged"]

_LONGEST = 1024
"""Keys of a row up to which loops and products are used; beyond, torch's kernel, which keeps no shares for the way back."""

_MOST = 0.9  # where more of the tokens are wanted, taking them apart costs more than it saves


def read_ragged(body: Anatomy, ids: Tensor, positions: Tensor, rows: Ragged, places: Tensor) -> Tensor:
    """Last hidden states [M, D] at `places` [M] of the sequence `ids` [N], whose tokens stand at `positions` [N] of their rows."""
    x = body.model.embed_tokens(ids)
    with torch.autocast(x.device.type, enabled=False):
        rotations = body.rotations(x[None], positions[None])
    turns = {kind: (cosine[0], sine[0]) for kind, (cosine, sine) in rotations.items()}
    wanted = torch.unique(places)
    if not len(wanted):
        return x[:0]
    everywhere = len(wanted) > _MOST * len(ids)
    change = None
    for layer in body.layers[:-1]:
        x, change = _layer(body, layer, x, change, turns[layer.kind], rows)
    last = body.layers[-1]
    some, kept = (rows, None) if everywhere else rows.only(wanted)
    x, change = _layer(body, last, x, change, turns[last.kind], some, kept)
    _, h = _added(x, change, body.norm, x.dtype)
    return h.index_select(0, places if kept is None else torch.searchsorted(kept, places))


def _layer(
    body: Anatomy,
    layer: Layer,
    x: Tensor,
    change: Tensor | None,
    turn: tuple[Tensor, Tensor],
    rows: Ragged,
    kept: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One layer over [N, D], to which `change` of the layer before is still to be added; returns the same two.

    They are those of the tokens `kept` [M], or of all.
    """
    inner = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype

    def heads(module: Any, norm: Norm | None, h: Tensor, count: int) -> Tensor:
        found = module(h).view(len(h), count, body.head_width)
        return found if norm is None else _normed(norm, found, found.dtype)

    x, h = _added(x, change, layer.before_attention, inner)
    mine, turn_mine = (h, turn) if kept is None else (h[kept], (turn[0][kept], turn[1][kept]))
    query = heads(layer.query, layer.query_norm, mine, body.heads)
    key = heads(layer.key, layer.key_norm, h, body.key_heads)
    value = heads(layer.value, None, h, body.key_heads)
    dropout = body.dropout if body.model.training else 0.0
    attended = _attended(query, key, value, (turn_mine, turn), rows, body.scale, dropout, layer.window)
    mixed = layer.output(attended.flatten(1))
    if layer.after_attention is not None:
        mixed = _normed(layer.after_attention, mixed, x.dtype)
    x, h = _added(x if kept is None else x[kept], mixed, layer.before_mlp, inner)
    change = layer.down(_gated(layer.gate(h), layer.up(h), body.gelu))
    return x, change if layer.after_mlp is None else _normed(layer.after_mlp, change, x.dtype)


def _added(x: Tensor, change: Tensor | None, norm: Norm, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x plus `change`, and its norm as `dtype`."""
    if change is None:
        return x, _normed(norm, x, dtype)
    if loops.fit(x, change):
        from fairlead.loops.layers import added_and_normed

        return added_and_normed(x, change, norm.weight, norm.epsilon, dtype)
    x = x + change.to(x.dtype)
    return x, _normed(norm, x, dtype)


def _normed(norm: Norm, x: Tensor, dtype: torch.dtype) -> Tensor:
    """RMS norm of [..., D] in float32, as `dtype`."""
    if loops.fit(x):
        from fairlead.loops.layers import normed

        return normed(x, norm.weight, norm.epsilon, dtype)
    return F.rms_norm(x.float(), x.shape[-1:], norm.weight.float(), norm.epsilon).to(dtype)


def _attended(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    turns: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]],
    rows: Ragged,
    scale: float,
    dropout: float,
    window: int | None,
) -> Tensor:
    """Attention of [M, H, W] over [N, K, W], rotated by the angles of queries and of keys: [M, H, W]."""
    if not dropout and rows.longest <= _LONGEST and loops.fit(query, key, value):
        from fairlead.loops.attention import attended

        return attended(query, key, value, turns, rows.layout(len(key)), scale, window)
    return rows(_turned(query, *turns[0]), _turned(key, *turns[1]), value, scale, dropout, window)


def _turned(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021, arXiv 2104.09864) of [N, H, W] by angles with `cosine` and `sine` [N, W]."""
    if loops.fit(heads, cosine):
        from fairlead.loops.layers import turned

        return turned(heads, cosine, sine)
    wide = heads.to(cosine.dtype)
    first, second = wide.chunk(2, -1)
    return (wide * cosine[:, None] + torch.cat((-second, first), -1) * sine[:, None]).to(heads.dtype)


def _gated(gate: Tensor, up: Tensor, gelu: bool) -> Tensor:
    """`up` times GELU or SiLU of `gate`."""
    if loops.fit(gate, up):
        from fairlead.loops.layers import gated

        return gated(gate, up, gelu)
    return (F.gelu(gate, approximate="tanh") if gelu else F.silu(gate)) * up
