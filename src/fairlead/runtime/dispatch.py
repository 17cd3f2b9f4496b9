"""Which rows go to which worker, and the form in which batches and weights travel between processes.

Knows: rows, their lengths, typed batches.
Does not know: Ray, models, what the rows are for.

Everything travels as NumPy arrays: an object store keeps one copy of them for all processes of a machine, and a worker that
wants some of the rows copies these rows and no others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from fairlead.batch import Prompts, alike, row_table, row_tokens

__all__ = [
    "Parcel",
    "deal",
    "deal_prompts",
    "deal_rows",
    "pack",
    "pack_tensor",
    "row_lengths",
    "unpack",
    "unpack_tensor",
]

_UNEVEN = 1.25  # the busiest worker's work over the mean from which computing a prompt twice is cheaper than waiting


# ---------------------------------------------------------------------------------------------------------------------
# Who gets which rows
# ---------------------------------------------------------------------------------------------------------------------


def row_lengths(batch: Any) -> list[int]:
    """Tokens of each row, prompt included. The candidates of a row stay together: their number times the longest."""
    filled = row_tokens(batch)
    if filled is None:
        raise TypeError("prompts alone cannot be scored or learned from")
    lengths = filled.sum(-1)
    if hasattr(batch, "prompt_mask"):
        prompt = batch.prompt_mask.sum(-1)
        lengths = lengths + (prompt[:, None] if lengths.dim() == 2 else prompt)
    if lengths.dim() == 2:
        lengths = lengths.max(-1).values * lengths.shape[1]
    return [int(length) for length in lengths.tolist()]


def deal(costs: Sequence[int], workers: int) -> list[list[int]]:
    """Items dealt to workers so that the costs are balanced: the dearest first, each to whoever has least so far.

    Every worker's items are in ascending order; ties go to the first item and the first worker, so the deal is a function
    of its arguments. Workers beyond the number of items get nothing. (Graham 1969: at most 4/3 of the best deal.)
    """
    shares: list[list[int]] = [[] for _ in range(workers)]
    loads = [0] * workers
    for item in sorted(range(len(costs)), key=lambda item: (-costs[item], item)):
        worker = min(range(workers), key=lambda worker: (loads[worker], len(shares[worker]), worker))
        shares[worker].append(item)
        loads[worker] += costs[item]
    return [sorted(share) for share in shares]


def deal_prompts(prompts: Prompts, maximum_tokens: int, workers: int, whole: bool = False) -> list[list[int]]:
    """Rows to be answered, dealt to workers; equal prompts go to one worker, which runs each of them through the model once.

    `whole`: in any case, also where some worker then waits for another.
    """
    lengths: list[int] = prompts.prompt_mask.sum(1).tolist()
    families = alike(prompts.prompt_ids, prompts.prompt_mask)
    return _deal_families(families, lengths, [maximum_tokens] * len(lengths), workers, whole)


def deal_rows(batch: Any, workers: int) -> list[list[int]]:
    """Rows to be scored or learned from, dealt to workers; rows of equal prompts go to one worker, as in `deal_prompts`."""
    costs = row_lengths(batch)
    if not hasattr(batch, "prompt_mask"):
        return deal(costs, workers)
    prompts: list[int] = batch.prompt_mask.sum(-1).tolist()
    rest = [max(cost - prompt, 0) for cost, prompt in zip(costs, prompts, strict=True)]
    return _deal_families(alike(batch.prompt_ids, batch.prompt_mask), prompts, rest, workers)


def _deal_families(
    families: list[list[int]], shared: Sequence[int], own: Sequence[int], workers: int, whole: bool = False
) -> list[list[int]]:
    """Families dealt whole; rows singly where whole families would leave a worker with much more than the others, unless `whole`.

    A row costs what it shares with its family once, and its own part.
    """
    costs = [shared[rows[0]] + sum(own[row] for row in rows) for rows in families]
    shares = deal(costs, workers)
    busiest = max(sum(costs[family] for family in share) for share in shares)
    if busiest * workers > _UNEVEN * sum(costs) and not whole:
        return deal([a + b for a, b in zip(shared, own, strict=True)], workers)
    return [sorted(row for family in share for row in families[family]) for share in shares]


# ---------------------------------------------------------------------------------------------------------------------
# How they travel
# ---------------------------------------------------------------------------------------------------------------------


class _Array(NamedTuple):
    """A tensor as a NumPy array; NumPy has no bfloat16, so its bits travel as 16-bit integers."""

    values: Any
    bfloat16: bool


class Parcel(NamedTuple):
    """A typed batch without its text."""

    kind: type
    fields: dict[str, Any]
    """Name → _Array, or another such mapping for `channels` and `extras`."""
    rows: int


def pack_tensor(tensor: Tensor) -> _Array:
    """The tensor's own memory where it lies contiguous on the CPU, else a copy."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return _Array(tensor.view(torch.int16).numpy(), True)
    return _Array(tensor.numpy(), False)


def unpack_tensor(array: _Array, rows: Any = None) -> Tensor:
    """A tensor of its own memory with the given rows (default: all); what lies in an object store is read-only."""
    tensor = torch.from_numpy(np.array(array.values) if rows is None else array.values[rows])
    return tensor.view(torch.bfloat16) if array.bfloat16 else tensor


def pack(batch: Any) -> Parcel:
    """The batch without its text, ready to travel."""
    return Parcel(type(batch), _pack_fields(_fields(batch)), int(batch.batch_size[0]))


def unpack(parcel: Parcel, rows: Sequence[int] | None = None) -> Any:
    """The batch, or the given rows of it; instead of its text there are empty mappings."""
    index = None if rows is None else np.asarray(rows, dtype=np.int64)
    count = parcel.rows if rows is None else len(rows)
    fields = {name: _unpack_field(value, index, count) for name, value in parcel.fields.items()}
    if "rows" in parcel.kind.__dataclass_fields__:  # type: ignore[attr-defined]
        fields["rows"] = row_table([{}] * count)
    return parcel.kind(**fields, batch_size=[count])


def _fields(batch: Any) -> dict[str, Any]:
    return {name: getattr(batch, name) for name in type(batch).__dataclass_fields__ if name != "rows"}


def _pack_fields(fields: dict[str, Any]) -> dict[str, Any]:
    packed: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, Tensor):
            packed[name] = pack_tensor(value)
        elif isinstance(value, TensorDict):
            packed[name] = _pack_fields(dict(value.items()))
    return packed


def _unpack_field(value: Any, index: Any, count: int) -> Any:
    if isinstance(value, _Array):
        return unpack_tensor(value, index)
    return TensorDict({name: _unpack_field(v, index, count) for name, v in value.items()}, batch_size=[count])
