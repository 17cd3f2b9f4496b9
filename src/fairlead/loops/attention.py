"""Attention among rows of several lengths, forwards and backwards: matrix products, and one pass over memory between any two of them.

Knows: where the tokens of each row lie (`Layout`), rotation, the softmax over what a token may see, and the gradients of all that.
Does not know: models, how rows come about.

Queries, keys and values are rotated, scaled and laid in rows of common width by one pass, and results taken back by another. Of the
scores only what a token may see is read: there is no mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba import prange
from torch import Tensor
from torch.autograd.function import once_differentiable

from fairlead.loops.compiling import loop
from fairlead.loops.numbers import exponential, memory, put, use_threads, wide

__all__ = ["Block", "Layout", "Slots", "attended"]

Turn = tuple[Tensor, Tensor]
"""Cosines and sines [N, W] of the angles by which a token's heads are rotated."""

_EVERYTHING = 2**62


@dataclass(frozen=True)
class Slots:
    """Places in rows padded to the width of their block, one behind the other, and the tokens that belong there."""

    token: np.ndarray[Any, Any]
    """[slots]: whose place it is; -1 for padding."""
    place: np.ndarray[Any, Any]
    """[slots, 3]: slots before the row, place in the row, width of the row."""
    order: np.ndarray[Any, Any]
    """[slots]: by token, padding first."""
    start: np.ndarray[Any, Any]
    """[N + 1]: where a token's slots begin in `order`."""

    @classmethod
    def of(cls, tokens: Sequence[np.ndarray[Any, Any]], count: int) -> Slots:
        """Those of blocks of tokens [rows, width] (-1: padding) among `count` tokens."""
        places, before = [], 0
        for block in tokens:
            rows, width = block.shape
            begin = before + np.repeat(np.arange(rows) * width, width)
            places.append(np.stack([begin, np.tile(np.arange(width), rows), np.full(rows * width, width)], 1))
            before += block.size
        token = np.concatenate([block.ravel() for block in tokens])
        order = np.argsort(token, kind="stable")
        start = np.searchsorted(token[order], np.arange(count + 1))
        return cls(token, np.concatenate(places), order, start)


@dataclass(frozen=True)
class Block:
    """Rows whose attention is computed together."""

    positions: np.ndarray[Any, Any]
    """[rows, Tq]: position of each query among the keys of its row; 0 at padding."""
    keys: int
    """Width of the rows of keys."""
    pieces: list[tuple[int, int, int]]
    """Queries from … to, and how many keys the last of them may see, in the row that sees most."""


@dataclass(frozen=True)
class Layout:
    """A query sees the keys of its row up to its own position."""

    blocks: list[Block]
    queries: Slots
    keys: Slots


def attended(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    turns: tuple[Turn, Turn],
    layout: Layout,
    scale: float,
    window: int | None,
) -> Tensor:
    """Softmax attention of [M, H, W] over [N, K, W] (H a multiple of K), rotated before by the angles of queries and of keys: [M, H, W]."""
    return _Attend.apply(query, key, value, *turns[0], *turns[1], layout, scale, window)  # type: ignore[no-untyped-call, no-any-return]


class _Attend(torch.autograd.Function):
    """O = P V with P = softmax(S) and S = Q Kᵀ; dV = Pᵀ dO, dP = dO Vᵀ, dS = P (dP − Σ dP P), dQ = dS K, dK = dSᵀ Q."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, *others: Any) -> Tensor:
        """As `attended`."""
        *turns, layout, scale, window = others
        use_threads()
        group = query.shape[1] // key.shape[1]
        q = _laid(query, turns[:2], scale, layout.queries, group)
        k, v = _laid(key, turns[2:], 1.0, layout.keys, 1), _laid(value, None, 1.0, layout.keys, 1)
        mixed, shares, learns = torch.empty_like(q), [], any(ctx.needs_input_grad)
        for block, (bq, bo), (bk, bv) in _blocks(layout, key.shape[1], (q, mixed), (k, v)):
            for start, end, seen in block.pieces:
                some = slice(start * group, end * group)
                p = torch.bmm(bq[:, some], bk[:, :seen].transpose(1, 2))
                _softmax(memory(p), block.positions, start, group, window or _EVERYTHING)
                torch.bmm(p, bv[:, :seen], out=bo[:, some])
                if learns:
                    shares.append(p)
        ctx.save_for_backward(q, k, v, *turns, *shares)
        ctx.layout, ctx.scale, ctx.window, ctx.shapes = layout, scale, window, (query.shape, key.shape)
        return _collected(mixed, None, 1.0, layout.queries, group, query.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Of queries, keys and values."""
        q, k, v, *rest = ctx.saved_tensors
        turns, shares, layout = rest[:4], iter(rest[4:]), ctx.layout
        of_query, of_key = ctx.shapes
        group = of_query[1] // of_key[1]
        use_threads()
        beyond = _laid(gradient.to(q.dtype), None, 1.0, layout.queries, group)
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for block, (bq, bdq, bdo), (bk, bv, bdk, bdv) in _blocks(layout, of_key[1], (q, dq, beyond), (k, v, dk, dv)):
            for start, end, seen in block.pieces:
                some = slice(start * group, end * group)
                p, do = next(shares), bdo[:, some]
                ds = torch.bmm(do, bv[:, :seen].transpose(1, 2))
                _softmax_backward(memory(p), block.positions, start, group, ctx.window or _EVERYTHING, memory(ds))
                torch.bmm(ds, bk[:, :seen], out=bdq[:, some])
                bdk[:, :seen].baddbmm_(ds.transpose(1, 2), bq[:, some])
                bdv[:, :seen].baddbmm_(p.transpose(1, 2), do)
        return (
            _collected(dq, turns[:2], ctx.scale, layout.queries, group, of_query),
            _collected(dk, turns[2:], 1.0, layout.keys, 1, of_key),
            _collected(dv, None, 1.0, layout.keys, 1, of_key),
            *(None,) * 7,
        )


def _blocks(
    layout: Layout, groups: int, at_queries: Sequence[Tensor], at_keys: Sequence[Tensor]
) -> Iterator[tuple[Block, list[Tensor], list[Tensor]]]:
    """Each block with its part of what is laid at queries, [rows K, Tq H / K, W], and at keys, [rows K, S, W]."""
    heads = len(at_queries[0]) // len(layout.queries.token)
    first_query = first_key = 0
    for block in layout.blocks:
        rows, width = block.positions.shape
        queries = slice(first_query, first_query + rows * width * heads)
        keys = slice(first_key, first_key + rows * block.keys * groups)
        yield (
            block,
            [x[queries].view(rows * groups, -1, x.shape[1]) for x in at_queries],
            [x[keys].view(rows * groups, -1, x.shape[1]) for x in at_keys],
        )
        first_query, first_key = queries.stop, keys.stop


def _laid(x: Tensor, turn: Sequence[Tensor] | None, scale: float, slots: Slots, group: int) -> Tensor:
    """x [N, H, W], rotated and scaled, in its slots: [slots H, W]; zero at padding."""
    out = x.new_empty(len(slots.token) * x.shape[1], x.shape[2])
    angles = _angles(turn, x.shape[2])
    _lay(memory(x.contiguous().flatten(1)), *angles, np.float32(scale), slots.token, slots.place, group, memory(out))
    return out


def _collected(
    laid: Tensor, turn: Sequence[Tensor] | None, scale: float, slots: Slots, group: int, shape: torch.Size
) -> Tensor:
    """The sums over each token's slots, rotated back and scaled: [N, H, W]."""
    out = laid.new_empty(shape)
    angles = _angles(turn, shape[2])
    _collect(
        memory(laid), *angles, np.float32(scale), slots.start, slots.order, slots.place, group, memory(out.flatten(1))
    )
    return out


def _angles(turn: Sequence[Tensor] | None, width: int) -> list[np.ndarray[Any, Any]]:
    return [np.empty((0, width), np.float32)] * 2 if turn is None else [memory(x) for x in turn]


# ---------------------------------------------------------------------------------------------------------------------
# The loops
# ---------------------------------------------------------------------------------------------------------------------


@loop
def _lay(x: Any, cosine: Any, sine: Any, scale: float, token: Any, place: Any, group: int, out: Any) -> None:
    """x [N, H W]; cosine, sine [N, W], or without rows; out [slots H, W]: the heads of a group beside each other, then slots, then groups."""
    width = out.shape[1]
    half, heads = width // 2, x.shape[1] // width
    for slot in prange(token.shape[0]):
        source = token[slot]
        for head in range(heads):
            at = place[slot, 0] * (heads // group) + head // group * place[slot, 2] + place[slot, 1]
            left = out[at * group + head % group]
            right = left[half:]
            if source < 0:
                for i in range(width):
                    put(left, i, np.float32(0.0))
                continue
            first = x[source, head * width :]
            second = first[half:]
            if cosine.shape[0]:
                for i in range(half):
                    a, b = wide(first[i]) * scale, wide(second[i]) * scale
                    c, s = wide(cosine[source, i]), wide(sine[source, i])
                    put(left, i, a * c - b * s)
                    put(right, i, b * c + a * s)
            else:
                for i in range(width):
                    put(left, i, wide(first[i]) * scale)


@loop
def _collect(
    laid: Any, cosine: Any, sine: Any, scale: float, first: Any, order: Any, place: Any, group: int, out: Any
) -> None:
    """laid [slots H, W] as `_lay` leaves it; out [N, H W]."""
    width = laid.shape[1]
    half, heads = width // 2, out.shape[1] // width
    for token in prange(out.shape[0]):
        total = np.empty(width, np.float32)
        beyond = total[half:]
        for head in range(heads):
            total[:] = np.float32(0.0)
            for number in range(first[token], first[token + 1]):
                slot = order[number]
                at = place[slot, 0] * (heads // group) + head // group * place[slot, 2] + place[slot, 1]
                found = laid[at * group + head % group]
                for i in range(width):
                    total[i] += wide(found[i])
            left = out[token, head * width :]
            right = left[half:]
            if cosine.shape[0]:
                for i in range(half):
                    a, b = total[i] * scale, beyond[i] * scale
                    c, s = wide(cosine[token, i]), wide(sine[token, i])
                    put(left, i, a * c + b * s)
                    put(right, i, b * c - a * s)
            else:
                for i in range(width):
                    put(left, i, total[i] * scale)


@loop
def _softmax(scores: Any, positions: Any, start: int, group: int, window: int) -> None:
    """In place of scores [rows K, queries H / K, keys], of queries from `start` on: shares of what is seen, zero elsewhere."""
    groups = scores.shape[0] // positions.shape[0]
    for unit in prange(scores.shape[0]):
        e = np.empty(scores.shape[2], np.float32)
        for j in range(scores.shape[1]):
            end = min(positions[unit // groups, start + j // group] + 1, scores.shape[2])
            begin = max(0, end - window)
            seen = scores[unit, j, begin:end]
            largest, total = np.float32(-3e38), np.float32(0.0)
            for c in range(seen.shape[0]):
                largest = max(largest, wide(seen[c]))
            for c in range(seen.shape[0]):
                e[c] = exponential(wide(seen[c]) - largest)
                total += e[c]
            share = np.float32(1.0) / total
            for c in range(seen.shape[0]):
                put(seen, c, e[c] * share)
            scores[unit, j, :begin] = 0
            scores[unit, j, end:] = 0


@loop
def _softmax_backward(shares: Any, positions: Any, start: int, group: int, window: int, gradient: Any) -> None:
    """In place of the gradient of the shares, both [rows K, queries H / K, keys]: that of the scores."""
    groups = shares.shape[0] // positions.shape[0]
    for unit in prange(shares.shape[0]):
        for j in range(shares.shape[1]):
            end = min(positions[unit // groups, start + j // group] + 1, shares.shape[2])
            begin = max(0, end - window)
            share, seen = shares[unit, j, begin:end], gradient[unit, j, begin:end]
            mean = np.float32(0.0)
            for c in range(seen.shape[0]):
                mean += wide(share[c]) * wide(seen[c])
            for c in range(seen.shape[0]):
                put(seen, c, wide(share[c]) * (wide(seen[c]) - mean))
            gradient[unit, j, :begin] = 0
            gradient[unit, j, end:] = 0
