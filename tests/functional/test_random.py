"""Counter-based random numbers."""

import numpy as np
import pytest
import torch
from scipy import stats

from fairlead import functional
from fairlead.functional import random as module

WORD = 1 << 64


def reference_mix(z: int) -> int:
    """SplitMix64's finaliser in Python's unbounded integers."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
    return z ^ (z >> 31)


def reference_uniform(seed: int, counter: int) -> float:
    golden = 0x9E3779B97F4A7C15
    key = reference_mix((seed + golden) % WORD)
    return (reference_mix((key + (counter + 1) * golden) % WORD) >> 11) * 2.0**-53


def test_mix_gives_the_published_splitmix64_stream() -> None:
    # The first outputs for seed 1234567, as in the reference C code.
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    state = torch.tensor([module._signed(1234567 + (i + 1) * 0x9E3779B97F4A7C15) for i in range(5)])
    assert [value % WORD for value in module._mix(state).tolist()] == expected


@pytest.mark.parametrize("counter", [0, 1, 12345, -1, (1 << 63) - 1, -(1 << 63)])
def test_equals_the_reference_at_all_corners(counter: int) -> None:
    seeds = [0, 1, -1, 42, (1 << 63) - 1, -(1 << 63), 0x9E3779B97F4A7C15 - WORD]
    expected = [reference_uniform(seed, counter) for seed in seeds]
    assert functional.uniform(torch.tensor(seeds), counter).tolist() == expected
    per_row = torch.full((len(seeds),), counter)
    assert functional.uniform(torch.tensor(seeds), per_row).tolist() == expected


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    seeds = torch.tensor([5, 9, -3, 7])
    counters = torch.tensor([0, 4, 2, 9])
    together = functional.uniform(seeds, counters)
    alone = [functional.uniform(seeds[i : i + 1], int(counters[i])).item() for i in range(4)]
    assert together.tolist() == alone
    assert together.dtype == torch.float64
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(functional.uniform(seeds[order], counters[order]), together[order])
    grid = functional.uniform(seeds[:, None], torch.arange(10)[None])
    assert torch.equal(grid[torch.arange(4), counters], together)


GRID = 300


def grid(seed_step: int) -> np.ndarray:
    seeds = torch.arange(GRID) * seed_step
    return functional.uniform(seeds[:, None], torch.arange(GRID)[None]).numpy()


@pytest.mark.parametrize("seed_step", [1, 1 << 32, 0x9E3779B97F4A7C15 - WORD])
def test_uniform_along_seeds_and_along_counters(seed_step: int) -> None:
    numbers = grid(seed_step)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert np.unique(numbers).size == numbers.size
    assert stats.kstest(numbers.ravel(), "uniform").pvalue > 1e-3
    # The p-values of single rows and columns must themselves be uniform.
    for lines in (numbers, numbers.T):
        p_values = [stats.kstest(line, "uniform").pvalue for line in lines]
        assert stats.kstest(p_values, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("seed_step", [1, 1 << 32, 0x9E3779B97F4A7C15 - WORD])
def test_independent_over_seeds_and_over_counters(seed_step: int) -> None:
    numbers = grid(seed_step)
    for first, second in (
        (numbers[:, :-1], numbers[:, 1:]),
        (numbers[:-1], numbers[1:]),
        (numbers[:-1, 1:], numbers[1:, :-1]),
    ):
        counts, _, _ = np.histogram2d(first.ravel(), second.ravel(), bins=8, range=[[0, 1], [0, 1]])
        _, p_value = functional.chi_square(counts.ravel(), np.full(64, first.size / 64))
        assert p_value > 1e-3
        assert abs(functional.pearson(first.ravel(), second.ravel())) < 4 / np.sqrt(first.size)


def test_every_bit_of_the_seed_and_of_the_counter_counts() -> None:
    bits = torch.tensor([module._signed(1 << bit) for bit in range(64)])
    base = functional.uniform(torch.tensor([77]), 5)
    assert (functional.uniform(77 ^ bits, 5) != base).all()
    assert (functional.uniform(torch.full((64,), 77), 5 ^ bits) != base).all()


def test_draws_follow_a_categorical_distribution() -> None:
    probability = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    draws = torch.searchsorted(probability.cumsum(0), functional.uniform(torch.arange(20_000), 0), right=True)
    counts = torch.bincount(draws, minlength=3)
    assert functional.chi_square(counts, 20_000 * probability)[1] > 1e-3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_same_numbers_on_cpu_and_gpu() -> None:
    seeds = torch.arange(-5000, 5000) * 0x1234567
    for counter in (0, 7, -1):
        assert torch.equal(functional.uniform(seeds, counter), functional.uniform(seeds.cuda(), counter).cpu())


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"seeds must be int64, got torch.int32"):
        functional.uniform(torch.zeros(2, dtype=torch.int32), 0)
    with pytest.raises(ValueError, match="counter must be an int or an int64 tensor"):
        functional.uniform(torch.zeros(2, dtype=torch.int64), torch.zeros(2))
    with pytest.raises(ValueError, match="does not broadcast"):
        functional.uniform(torch.zeros(2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="64 bits"):
        functional.uniform(torch.zeros(2, dtype=torch.int64), 1 << 63)


def test_mixed_seeds_differ_by_salt_and_by_seed() -> None:
    seeds = torch.arange(64)
    mixed = torch.stack([functional.mix_seeds(seeds, salt) for salt in range(4)])
    assert mixed.unique().numel() == 256
    assert torch.equal(functional.mix_seeds(seeds[5:6], 3), mixed[3, 5:6])
    assert torch.equal(functional.mix_seeds(seeds, torch.full((64,), 2)), mixed[2])
