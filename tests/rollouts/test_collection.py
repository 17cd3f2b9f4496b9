"""Collections: which rollouts are asked for and which of their prompts stay."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from fairlead.batch import Experience
from fairlead.rollouts import Once, Refill
from tiny_batches import experience


def draws(*weights: list[float], asked: list[int]) -> Iterator[Experience]:
    """Rollouts of two prompts with two samples each, of growing length; groups are numbered through."""
    for number, weight in enumerate(weights):
        asked.append(number)
        groups = [2 * number, 2 * number, 2 * number + 1, 2 * number + 1]
        yield experience([[-1.0] * (number + 1)] * 4, score=[number] * 4, group=groups, weight=weight)


def test_once() -> None:
    asked: list[int] = []
    batch, metrics = Once()(draws([0.0] * 4, [1.0] * 4, asked=asked))
    assert asked == [0] and batch.weight.sum() == 0 and metrics == {}


def test_refill_replaces_prompts_that_count_nothing() -> None:
    asked: list[int] = []
    batch, metrics = Refill()(draws([1, 0.5, 0, 0], [0.0] * 4, [1, 0, 2, 2], [1.0] * 4, asked=asked))
    assert asked == [0, 1, 2]
    assert batch.group.tolist() == [0, 0, 4, 4] and batch.weight.tolist() == [1, 0.5, 1, 0]
    assert batch.mask.sum(1).tolist() == [1, 1, 3, 3]  # widths are brought together, the surplus prompt is gone
    assert metrics == {"collection/draws": 3.0, "collection/filled": 1.0}


def test_refill_asks_no_further_than_needed_or_allowed() -> None:
    asked: list[int] = []
    assert Refill()(draws([1.0] * 4, [1.0] * 4, asked=asked))[1]["collection/draws"] == 1
    asked = []
    batch, metrics = Refill(most_draws=2)(draws([0.0] * 4, [1, 1, 0, 0], [1.0] * 4, asked=asked))
    assert asked == [0, 1] and metrics["collection/filled"] == 0.5 and batch.group.tolist() == [2, 2]


def test_nothing_counts_anywhere() -> None:
    asked: list[int] = []
    batch, metrics = Refill(most_draws=3)(draws(*[[0.0] * 4] * 5, asked=asked))
    assert asked == [0, 1, 2] and metrics["collection/filled"] == 0
    assert batch.group.tolist() == [0, 0, 1, 1] and torch.equal(batch.weight, torch.zeros(4))
