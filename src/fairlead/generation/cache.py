"""A key-value cache that grows in place.

Knows: transformers' cache layers and how their masks are sized.
Does not know: what is sampled, which rows are finished.

transformers' dynamic layers copy the whole cache at every token (`torch.cat`). These layers keep spare columns, write
the new token into them and hand out a view; a sliding-window layer hands out the last columns of the window.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

__all__ = ["cache_argument", "full_attention_only", "growing_cache"]

_SPARE_COLUMNS = 64


class _GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values [rows, heads, columns, width] with spare columns behind the used ones."""

    def __init__(self, window: int | None = None) -> None:
        super().__init__()
        self.window = window
        self.is_sliding = window is not None
        self.seen = 0  # tokens so far
        self.dropped = 0  # tokens that left the window and no longer stand in the buffer
        self.buffers: list[Tensor] = []

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.device = key_states.device
        self.buffers = [key_states[:, :, :0], value_states[:, :, :0]]
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append the states of the new tokens; returns the states that these tokens attend to."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        new = key_states.shape[-2]
        first, end = self._first(), self.seen + new
        if end - self.dropped > self.buffers[0].shape[-2]:
            self._grow(first, new)
        here = slice(self.seen - self.dropped, end - self.dropped)
        visible = slice(first - self.dropped, end - self.dropped)
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, here] = states
        self.seen = end
        self.keys, self.values = (buffer[:, :, visible] for buffer in self.buffers)
        return self.keys, self.values

    def _first(self) -> int:
        """The oldest token that the next one attends to."""
        return 0 if self.window is None else max(self.seen - self.window + 1, 0)

    def _grow(self, first: int, new: int) -> None:
        used = slice(first - self.dropped, self.seen - self.dropped)
        columns = used.stop - used.start
        # Half as much again: copies then cost a constant share of each token, however long the response gets.
        spare = max(_SPARE_COLUMNS, columns // 2)
        for i, old in enumerate(self.buffers):
            self.buffers[i] = old.new_empty((*old.shape[:2], columns + new + spare, old.shape[-1]))
            self.buffers[i][:, :, :columns] = old[:, :, used]
        self.dropped = first

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Rows `beam_idx` in this order; a row may come several times."""
        if self.is_initialized:
            self.buffers = [buffer.index_select(0, beam_idx.to(buffer.device)) for buffer in self.buffers]
            self.keys, self.values = (
                buffer[:, :, :0] for buffer in self.buffers
            )  # the old views would keep the old buffers alive

    def get_seq_length(self) -> int:
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        first = self._first()
        return self.seen - first + query_length, first


def growing_cache(config: Any) -> DynamicCache:
    """The cache that transformers builds for a model, with its attention layers replaced by growing ones.

    Layers of other kinds (state-space, linear attention, indexed) stay as transformers has them.
    """
    cache = DynamicCache(config=config)
    for i, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer:
            cache.layers[i] = _GrowingLayer()
        elif type(layer) is DynamicSlidingWindowLayer:
            cache.layers[i] = _GrowingLayer(layer.sliding_window)
    return cache


def full_attention_only(cache: DynamicCache) -> bool:
    """True where every layer sees every token, so that one mask serves them all."""
    return bool(cache.layers) and all(type(x) is _GrowingLayer and x.window is None for x in cache.layers)


def cache_argument(model: Any) -> str:
    """The name under which the model's `forward` takes its cache: transformers is renaming it."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
