"""Order, resuming, mixing, and token budgets."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from fairlead.data import SeededSampler, token_budget_batches


def draw(sampler: SeededSampler, batches: int) -> list[list[int]]:
    return [sampler.next() for _ in range(batches)]


def test_each_record_once_an_epoch() -> None:
    sampler = SeededSampler(10, 4, seed=1)
    numbers = [n for batch in draw(sampler, 5) for n in batch]
    assert sorted(numbers[:10]) == sorted(numbers[10:]) == list(range(10))
    assert numbers[:10] != numbers[10:] and numbers[:10] != list(range(10))
    assert sampler.epoch == 2 and sampler.batches_per_epoch == 3


def test_seed_decides() -> None:
    assert draw(SeededSampler(50, 5, 3), 12) == draw(SeededSampler(50, 5, 3), 12) != draw(SeededSampler(50, 5, 4), 12)
    assert draw(SeededSampler(5, 2, -7), 3) == draw(SeededSampler(5, 2, -7), 3)


def test_without_shuffling_and_batches_larger_than_the_data() -> None:
    assert draw(SeededSampler(3, 2, 0, shuffle=False), 3) == [[0, 1], [2, 0], [1, 2]]
    assert draw(SeededSampler(2, 5, 0, shuffle=False), 1) == [[0, 1, 0, 1, 0]]


def test_drop_last() -> None:
    sampler = SeededSampler(5, 2, 0, shuffle=False, drop_last=True)
    assert draw(sampler, 4) == [[0, 1], [2, 3], [0, 1], [2, 3]]
    assert sampler.batches_per_epoch == 2
    with pytest.raises(ValueError, match="does not fill a batch of 6"):
        SeededSampler(5, 6, 0, drop_last=True)


@pytest.mark.parametrize(
    "arguments", [{}, {"drop_last": True}, {"shuffle": False}, {"size": [5, 6], "weights": [2, 0.5]}]
)
def test_resume_goes_on_with_the_same_batches(arguments: dict[str, Any]) -> None:
    arguments = {"size": 11, "batch_size": 3, "seed": 5} | arguments
    whole = draw(SeededSampler(**arguments), 20)
    for stop in (0, 1, 3, 4, 9):
        first = SeededSampler(**arguments)
        draw(first, stop)
        second = SeededSampler(**arguments)
        second.load_state_dict(first.state_dict())
        assert draw(second, 20 - stop) == whole[stop:]
        assert second.epoch == first.epoch or stop < 20


def test_resume_with_other_data() -> None:
    state = SeededSampler(5, 2, 0).state_dict()
    with pytest.raises(ValueError, match=r"the data has changed: it had \[5\] records when saved and has \[6\] now"):
        SeededSampler(6, 2, 0).load_state_dict(state)


def test_mixing_by_weight() -> None:
    sampler = SeededSampler([10, 20], 5, seed=0, weights=[3.0, 0.5])  # an epoch: 30 of the first, 10 of the second
    counts = Counter(n for batch in draw(sampler, 8) for n in batch)
    assert all(counts[n] == 3 for n in range(10))
    assert sum(counts[n] for n in range(10, 30)) == 10 and max(counts[n] for n in range(10, 30)) == 1
    counts.update(n for batch in draw(sampler, 8) for n in batch)
    assert all(counts[n] == 1 for n in range(10, 30)), "the second half of the second source comes in the second epoch"
    assert sampler.epoch == 2


def test_stratified_batches_hold_every_source_in_its_proportion() -> None:
    sampler = SeededSampler([8, 4], 3, seed=1, stratified=True)
    batches = [sampler.next() for _ in range(8)]
    assert all(sum(number < 8 for number in batch) == 2 for batch in batches)
    assert sorted(number for batch in batches[:4] for number in batch) == list(range(12))
    assert batches[:4] != batches[4:]  # shuffled anew inside the sources


def test_mixed_sources_are_interleaved() -> None:
    first = SeededSampler([50, 50], 20, seed=0).next()
    assert 3 < sum(n < 50 for n in first) < 17


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "nothing to draw from"),
        ({"size": [3, 0]}, "nothing to draw from"),
        ({"size": [3, 3], "weights": [1.0]}, "2 sources and 1 weights"),
        ({"size": 3, "weights": [0.0]}, "must be positive"),
        ({"size": 3, "batch_size": 0}, "must be positive"),
    ],
)
def test_sampler_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SeededSampler(**({"batch_size": 2, "seed": 0} | arguments))


def test_token_budget() -> None:
    # Sorted: 7 (row 1), 5 (3), 4 (0), 2 (2), 2 (4); budget 10 with padding: [7], [5, 4], [2, 2].
    assert token_budget_batches([4, 7, 2, 5, 2], 10) == [[1], [3, 0], [2, 4]]
    assert token_budget_batches([30, 1], 10) == [[0], [1]]
    assert token_budget_batches([], 10) == []
    lengths = [(i * 37) % 101 for i in range(200)]
    batches = token_budget_batches(lengths, 256)
    assert sorted(row for batch in batches for row in batch) == list(range(200))
    assert all(len(batch) * max(lengths[row] for row in batch) <= 256 for batch in batches)
    with pytest.raises(ValueError, match="must be positive"):
        token_budget_batches([1], 0)
