"""Which records come next, and which rows are computed together.

Knows: counts, lengths, seeds.
Does not know: records, tokens, batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["SeededSampler", "token_budget_batches"]

_SEED_BITS = (1 << 64) - 1


class SeededSampler:
    """An endless stream of batches of record numbers that depends on the seed and the position only.

    In an epoch each record comes once. With several sources (`size` a list) and `weights`, source s brings
    round(weight_s * size_s) draws an epoch, taken in turn from its own endless shuffled stream, so that over the
    epochs its records come equally often. Numbers count through the joined sources, as `to_prompts` and its like
    return them.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        batch_size: int,
        seed: int,
        shuffle: bool = True,
        drop_last: bool = False,
        weights: Sequence[float] | None = None,
        stratified: bool = False,
    ) -> None:
        """`stratified` spreads every source evenly over the epoch, so that each batch holds them in their proportions.

        `drop_last` leaves out the records that do not fill a batch at the end of an epoch; otherwise the batch is
        filled up from the next epoch, so every batch has `batch_size` rows either way.

        Raises: ValueError for an empty source, weights that do not match, or an epoch shorter than a batch to be
        dropped.
        """
        self.sizes = [size] if isinstance(size, int) else list(size)
        self.weights = [1.0] * len(self.sizes) if weights is None else [float(weight) for weight in weights]
        if len(self.weights) != len(self.sizes):
            raise ValueError(f"there are {len(self.sizes)} sources and {len(self.weights)} weights")
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"nothing to draw from: the sources hold {self.sizes} records")
        if min(self.weights) <= 0 or batch_size < 1:
            raise ValueError(f"weights and batch size must be positive, got {self.weights} and {batch_size}")
        self.batch_size, self.seed, self.shuffle, self.drop_last = batch_size, seed, shuffle, drop_last
        self.quotas = [max(round(w * n), 1) for w, n in zip(self.weights, self.sizes, strict=True)]
        self.epoch_size = sum(self.quotas)
        if drop_last and self.epoch_size < batch_size:
            raise ValueError(
                f"an epoch of {self.epoch_size} records does not fill a batch of {batch_size}; set drop_last=False"
            )
        self.stratified = stratified
        self.position = 0
        self._cached: tuple[int, list[int]] | None = None

    @property
    def epoch(self) -> int:
        """How many epochs are complete."""
        return self.position // self.epoch_size

    @property
    def batches_per_epoch(self) -> int:
        """How many calls of `next` it takes to see an epoch (the last one may reach into the following epoch)."""
        whole, rest = divmod(self.epoch_size, self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def next(self) -> list[int]:
        """The numbers of the next `batch_size` records."""
        if self.drop_last and self.epoch_size - self.position % self.epoch_size < self.batch_size:
            self.position = (self.epoch + 1) * self.epoch_size
        batch: list[int] = []
        while len(batch) < self.batch_size:
            start = self.position % self.epoch_size
            taken = self._order(self.epoch)[start : start + self.batch_size - len(batch)]
            batch += taken
            self.position += len(taken)
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The position; the rest follows from the arguments."""
        return {"position": self.position, "sizes": list(self.sizes)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken; ValueError when the data has changed since."""
        if list(state["sizes"]) != self.sizes:
            raise ValueError(
                f"the data has changed: it had {state['sizes']} records when saved and has {self.sizes} now"
            )
        self.position = int(state["position"])

    def _order(self, epoch: int) -> list[int]:
        if self._cached is None or self._cached[0] != epoch:
            draws: list[int] = []
            places: list[float] = []
            offset = 0
            for source, (size, quota) in enumerate(zip(self.sizes, self.quotas, strict=True)):
                draws += [offset + number for number in self._stream(source, size, epoch * quota, quota)]
                places += [(number + 0.5) / quota for number in range(quota)]
                offset += size
            if self.stratified:
                draws = [draws[i] for i in sorted(range(len(draws)), key=places.__getitem__)]
            elif self.shuffle and len(self.sizes) > 1:
                draws = [draws[i] for i in self._permutation(len(draws), len(self.sizes), epoch)]
            self._cached = epoch, draws
        return self._cached[1]

    def _stream(self, source: int, size: int, start: int, count: int) -> list[int]:
        """`count` numbers from `start` on of the endless sequence of permutations of one source."""
        numbers: list[int] = []
        while len(numbers) < count:
            turn, place = divmod(start + len(numbers), size)
            order = self._permutation(size, source, turn) if self.shuffle else range(size)
            numbers += order[place : place + count - len(numbers)]
        return numbers

    def _permutation(self, size: int, stream: int, turn: int) -> list[int]:
        random = np.random.Generator(np.random.PCG64([self.seed & _SEED_BITS, stream, turn]))
        return [int(number) for number in random.permutation(size)]


def token_budget_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Rows grouped by length into batches of at most `budget` tokens, padding counted (rows * longest row).

    A row longer than the budget has a batch of its own. Longest rows first, so that memory peaks at once or never;
    equal lengths stay in order. Raises ValueError for a budget below 1.
    """
    if budget < 1:
        raise ValueError(f"the token budget must be positive, got {budget}")
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= budget:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
