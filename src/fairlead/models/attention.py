"""Attention by plain matrix products, and attention among the rows of a ragged batch.

Knows: transformers' attention interface.
Does not know: models, what the rows are.

torch's CPU kernel for attention is made for long sequences. On rows of a few hundred tokens, which is what feedback consists of, two
batched matrix products with a softmax between them are faster: `benchmarks/reading.py` measures by how much.

In a ragged batch all tokens of all rows lie one behind the other in one sequence [1, N], so that no layer computes padding. Only
attention needs to know the rows: it gathers the queries and keys that belong together, and puts the results back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from fairlead.models.shapes import recurring

if TYPE_CHECKING:
    from fairlead.loops.attention import Layout

__all__ = ["ATTENTION", "Ragged", "Span", "attention", "ragged_attention"]

ATTENTION = "fairlead"
"""The name under which transformers knows it."""

_LONGEST = {torch.bfloat16: 512, torch.float32: 96}
"""Keys up to which the products are faster than torch's kernel, measured on AVX-512 processors."""

_PIECE = (
    128  # queries whose products with the keys up to them are one; halves the work on what lies ahead of the queries
)
_FEW_ROWS = 8  # sizes to a doubling of the number of rows in a block, where shapes should recur
_SIMILAR = 0.75  # rows share a block of products while the shorter has at least this share of the longest's keys

Span = tuple[int, int]
"""Start and length of neighbouring tokens of the ragged sequence."""


@dataclass
class _Block:
    """Rows whose attention is computed together, padded to a common width."""

    queries: Tensor
    """[r * Tq] places in the ragged sequence; 0 at padding."""
    keys: Tensor
    """[r * S]"""
    query_positions: Tensor
    """[r, Tq]"""
    key_positions: Tensor
    """[r, S]; at padding past every query."""
    pieces: list[tuple[int, int, int]]
    """Queries from … to, and how many keys the last of them may see, in the row that sees most."""
    tokens: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]
    """Queries [r, Tq] and keys [r, S] once more, -1 at padding."""

    def hidden(self, dtype: torch.dtype, window: int | None) -> Tensor:
        """[r, 1, Tq, S]: what is added to the scores. The least number is finite: padding sees nothing and must not be NaN."""
        distance = self.query_positions[:, :, None] - self.key_positions[:, None]
        seen = distance >= 0
        if window is not None:
            seen = seen & (distance < window)
        return _added(seen[:, None], dtype)


@dataclass
class Ragged:
    """Which tokens of one sequence attend to which: rows in the order of the sequence, each a span of queries over spans of keys.

    The tokens of a row see the spans of its keys up to themselves; the last span of keys is the queries' own. `rounded` makes shapes
    recur (`shapes`): `filler` tokens then stand at the end of the sequence, whose outputs mean nothing.
    """

    rows: Sequence[tuple[Span, tuple[Span, ...]]]
    device: torch.device
    rounded: bool = False
    filler: int = field(init=False, default=0)
    _blocks: list[_Block] = field(default_factory=list)
    _hidden: dict[tuple[int, torch.dtype, int | None], Tensor] = field(default_factory=dict)
    _layouts: dict[int, Layout] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ordered = sorted(self.rows, key=lambda row: (-_length(row[1]), -row[0][1]))
        tokens = sum(queries[1] for queries, _ in ordered)
        self.filler = self._round(tokens) - tokens
        back = np.zeros(tokens + self.filler, dtype=np.int64)
        first = 0
        while ordered:
            longest = _length(ordered[0][1])
            count = next((i for i, row in enumerate(ordered) if _length(row[1]) < _SIMILAR * longest), len(ordered))
            first = self._add(ordered[:count], back, first)
            ordered = ordered[count:]
        self.back = torch.from_numpy(back).to(self.device)
        """[N]: where each query's result lies among the results of the blocks."""

    def _round(self, size: int, steps: int = 16) -> int:
        return recurring(size, steps) if self.rounded else size

    def only(self, places: Tensor) -> tuple[Ragged, Tensor]:
        """Attention for the queries at `places` (ascending), and all between two of one row; and where these lie.

        The queries that are then given are these and no others (filler repeats the last); the keys are those of the whole sequence.
        """
        wanted = places.cpu().numpy()
        rows: list[tuple[Span, tuple[Span, ...]]] = []
        kept: list[Any] = []
        count = 0
        for (start, length), spans in self.rows:
            low, high = np.searchsorted(wanted, (start, start + length))
            if low < high:
                first, end = int(wanted[low]), int(wanted[high - 1]) + 1
                rows.append(((count, end - first), (*spans[:-1], (spans[-1][0], end - spans[-1][0]))))
                kept.append(np.arange(first, end))
                count += end - first
        some = Ragged(rows, self.device, self.rounded)
        kept.append(np.repeat(kept[-1][-1:], some.filler))
        return some, torch.from_numpy(np.concatenate(kept)).to(self.device)

    def _add(self, rows: Sequence[tuple[Span, tuple[Span, ...]]], back: Any, first: int) -> int:
        count = self._round(len(rows), _FEW_ROWS)
        width, longest = self._round(max(queries[1] for queries, _ in rows)), self._round(_length(rows[0][1]))
        queries = np.full((count, width), -1, dtype=np.int64)
        keys = np.full((count, longest), -1, dtype=np.int64)
        query_positions = np.zeros((count, width), dtype=np.int64)
        key_positions = np.full((count, longest), np.iinfo(np.int64).max // 2, dtype=np.int64)
        for i, ((start, length), spans) in enumerate(rows):
            queries[i, :length] = np.arange(start, start + length)
            query_positions[i, :length] = np.arange(_length(spans) - length, _length(spans))
            back[start : start + length] = np.arange(first + i * width, first + i * width + length)
            place = 0
            for key_start, key_count in spans:
                keys[i, place : place + key_count] = np.arange(key_start, key_start + key_count)
                place += key_count
            key_positions[i, :place] = np.arange(place)
        borders = np.linspace(0, width, max(1, round(width / _PIECE)) + 1).astype(int).tolist()
        seen = [self._round(int(query_positions[:, a:b].max()) + 1) for a, b in pairwise(borders)]
        pieces = [(a, b, min(most, longest)) for (a, b), most in zip(pairwise(borders), seen, strict=True)]

        def tensor(x: Any) -> Tensor:
            return torch.from_numpy(x).to(self.device)

        block = _Block(
            tensor(queries.ravel().clip(0)),
            tensor(keys.ravel().clip(0)),
            tensor(query_positions),
            tensor(key_positions),
            pieces,
            (queries, keys),
        )
        self._blocks.append(block)
        return first + queries.size

    @property
    def longest(self) -> int:
        """Most keys of a row, padding included."""
        return max(block.key_positions.shape[1] for block in self._blocks)

    def layout(self, tokens: int) -> Layout:
        """The same for compiled loops, where keys are of so many tokens."""
        from fairlead.loops.attention import Block, Layout, Slots  # only where Numba is

        if tokens not in self._layouts:
            queries, keys = zip(*(block.tokens for block in self._blocks), strict=True)
            self._layouts[tokens] = Layout(
                [Block(x.query_positions.numpy(), x.key_positions.shape[1], x.pieces) for x in self._blocks],
                Slots.of(queries, len(self.back)),
                Slots.of(keys, tokens),
            )
        return self._layouts[tokens]

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float, dropout: float, window: int | None
    ) -> Tensor:
        """Attention of queries [N, H, D] over keys and values [N, K, D]; returns [N, H, D]."""
        query = query * scale
        results = []
        for number, block in enumerate(self._blocks):
            rows, queries = block.query_positions.shape
            wanted = number, query.dtype, window
            if wanted not in self._hidden:
                self._hidden[wanted] = block.hidden(query.dtype, window)
            q = query.index_select(0, block.queries).view(rows, queries, *query.shape[1:]).transpose(1, 2)
            k, v = (x.index_select(0, block.keys).view(rows, -1, *x.shape[1:]).transpose(1, 2) for x in (key, value))
            hidden = self._hidden[wanted]
            if _short(q, k.shape[2]):
                mixed = [
                    _attend(q[:, :, a:b], k[:, :, :seen], v[:, :, :seen], hidden[:, :, a:b, :seen], dropout)
                    for a, b, seen in block.pieces
                ]
                results.append(torch.cat(mixed, 1).flatten(0, 1))
            else:
                results.append(_attend(q, k, v, hidden, dropout).flatten(0, 1))
        return torch.cat(results).index_select(0, self.back)


def _length(spans: tuple[Span, ...]) -> int:
    return sum(count for _, count in spans)


_rows: ContextVar[Ragged | None] = ContextVar("ragged rows", default=None)


@contextmanager
def ragged_attention(rows: Ragged) -> Iterator[None]:
    """Within it, every sequence that passes through `attention` is the ragged sequence of these rows."""
    token = _rows.set(rows)
    try:
        yield
    finally:
        _rows.reset(token)


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention of queries [R, H, T, D] over keys and values [R, K, S, D] (H a multiple of K); returns [R, T, H, D].

    `attention_mask` [R or 1, 1 or H, T or 1, S]: true (or 0) where a key is seen; None: causal, or one query that sees all.
    Within `ragged_attention` the mask is not looked at. What the products are not made for (long rows, GPUs, position biases)
    goes to transformers' own `sdpa`.
    """
    device = query.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    biased = any(others.get(name) is not None for name in ("position_bias", "softcap"))
    rows = _rows.get()
    if rows is not None:
        if biased or not causal:
            raise ValueError(f"{type(module).__name__} has attention that ragged rows do not know")
        with torch.autocast(device, enabled=False):
            query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
            return rows(query, key, value, scale, dropout, others.get("sliding_window"))[None], None
    queries, keys = query.shape[2], key.shape[2]
    plain = attention_mask is not None or queries == 1 or (causal and queries == keys)
    if biased or not plain or dropout or others.get("output_attentions", False) or not _short(query, keys):
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout, scaling, is_causal, **others
        )
    with torch.autocast(device, enabled=False):
        return _attend(query * scale, key, value, _hidden(attention_mask, query, keys), dropout), None


def _short(query: Tensor, keys: int) -> bool:
    return query.device.type == "cpu" and keys <= _LONGEST.get(query.dtype, 0)


def _attend(query: Tensor, key: Tensor, value: Tensor, hidden: Tensor | None, dropout: float) -> Tensor:
    """Queries already scaled; the queries of all heads that share keys go into one product. Returns [R, T, H, D]."""
    (rows, heads, queries, width), (groups, keys) = query.shape, key.shape[1:3]
    if not _short(query, keys):
        mixed = F.scaled_dot_product_attention(
            query, key, value, hidden, dropout, scale=1.0, enable_gqa=heads != groups
        )
        return mixed.transpose(1, 2)
    grouped = query.reshape(rows * groups, -1, width)
    scores = torch.bmm(grouped, key.reshape(rows * groups, keys, width).transpose(1, 2))
    if hidden is not None:
        scores = scores.view(rows, heads, queries, keys).add_(hidden)
    shares = F.dropout(scores.softmax(-1), dropout).view(rows * groups, -1, keys)
    mixed = torch.bmm(shares, value.reshape(rows * groups, keys, width))
    return mixed.view(rows, heads, queries, width).transpose(1, 2)


def _hidden(mask: Tensor | None, query: Tensor, keys: int) -> Tensor | None:
    """The mask of an ordinary batch, as `_Block.hidden`."""
    if mask is None:
        if query.shape[2] == 1:
            return None
        mask = torch.ones(keys, keys, dtype=torch.bool, device=query.device).tril()[None, None]
    return _added(mask, query.dtype) if mask.dtype == torch.bool else mask.clamp(min=torch.finfo(query.dtype).min)


def _added(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)


AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
