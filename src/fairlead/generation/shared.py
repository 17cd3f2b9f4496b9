"""The keys and values of prompts that several rows go on from, read once for all of them.

Knows: which rows belong to which prompt.
Does not know: what the rows wrote, layers, sampling.

In attention over a cache of its own, every row reads its prompt again at every token, which for long prompts is most of
the step. Here the queries of a prompt's rows stand beside each other, so that its keys and values are read once by a matrix product.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["SharedPrompts", "worth_sharing"]

SAVED = 1 << 20
"""Numbers that a layer need not read again at every token; with fewer the additional operations cost more than that (on processors)."""


def worth_sharing(keys: Tensor, owner: Tensor) -> bool:
    """Whether rows that go on from the prompts `owner`, with keys [p, heads, P, width], are faster when they share them."""
    prompts, heads, length, width = keys.shape
    return keys.device.type == "cpu" and (len(owner) - prompts) * length * heads * width >= SAVED


class SharedPrompts:
    """Keys and values of p prompts of P tokens, left-padded, with n rows behind them."""

    def __init__(self, keys: list[Tensor], values: list[Tensor], owner: Tensor) -> None:
        """For each layer keys and values [p, heads, P, width]; row i goes on from prompt `owner[i]`."""
        self.heads, self.length = keys[0].shape[1:3]
        self.keys = [layer.flatten(0, 1) for layer in keys]
        self.values = [layer.flatten(0, 1) for layer in values]
        self._belong(owner, keys[0].shape[0])

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows, and with the prompts that they need."""
        needed, owner = torch.unique(self.owner[rows], return_inverse=True)
        if len(needed) < self.prompts:
            places = (needed[:, None] * self.heads + torch.arange(self.heads, device=needed.device)).flatten()
            self.keys = [layer.index_select(0, places) for layer in self.keys]
            self.values = [layer.index_select(0, places) for layer in self.values]
        self._belong(owner, len(needed))

    def scores(self, layer: int, query: Tensor) -> Tensor:
        """Products of the queries [n * heads, repeats, width] with the keys of their prompts: [n * heads, repeats, P]."""
        return self._apart(torch.bmm(self._together(query), self.keys[layer].transpose(1, 2)))

    def mix(self, layer: int, shares: Tensor) -> Tensor:
        """The values of their prompts in these shares [n * heads, repeats, P]: [n * heads, repeats, width]."""
        return self._apart(torch.bmm(self._together(shares), self.values[layer]))

    def _belong(self, owner: Tensor, prompts: int) -> None:
        """Give each row a seat among those of its prompt; every prompt has as many seats as the fullest needs."""
        self.owner, self.prompts = owner, prompts
        order = owner.argsort(stable=True)
        count = owner.bincount(minlength=prompts)
        start = count.cumsum(0) - count
        self.seats = int(count.max())
        seat = torch.empty_like(owner)
        seat[order] = torch.arange(len(owner), device=owner.device) - start[owner[order]]
        self.place = owner * self.seats + seat
        in_order = len(owner) == prompts * self.seats and bool((self.place.diff() == 1).all())
        self.scattered = not in_order

    def _together(self, rows: Tensor) -> Tensor:
        """[n * heads, repeats, x] as [prompts * heads, seats * repeats, x]; empty seats hold zeros."""
        repeats, width = rows.shape[1:]
        rows = rows.view(-1, self.heads, repeats, width)
        if self.scattered:
            seated = rows.new_zeros(self.prompts * self.seats, self.heads, repeats, width)
            rows = seated.index_copy_(0, self.place, rows)
        seated = rows.view(self.prompts, self.seats, self.heads, repeats, width).transpose(1, 2)
        return seated.reshape(self.prompts * self.heads, self.seats * repeats, width)

    def _apart(self, seated: Tensor) -> Tensor:
        """The inverse of `_together`."""
        width = seated.shape[2]
        repeats = seated.shape[1] // self.seats
        rows = seated.view(self.prompts, self.heads, self.seats, repeats, width).transpose(1, 2)
        rows = rows.reshape(self.prompts * self.seats, self.heads, repeats, width)
        if self.scattered:
            rows = rows.index_select(0, self.place)
        return rows.reshape(-1, repeats, width)
