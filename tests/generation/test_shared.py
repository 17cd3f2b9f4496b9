"""Prompts that rows share give every row what a copy of its own would give it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fairlead.generation.shared import SharedPrompts, worth_sharing

HEADS, LENGTH, WIDTH, REPEATS = 2, 5, 3, 4


def states(prompts: int, seed: int) -> list[Tensor]:
    return [torch.randn(prompts, HEADS, LENGTH, WIDTH, generator=torch.Generator().manual_seed(seed))]


def assert_same_as_copies(shared: SharedPrompts, keys: Tensor, values: Tensor, owner: Tensor) -> None:
    random = torch.Generator().manual_seed(9)
    query = torch.randn(len(owner) * HEADS, REPEATS, WIDTH, generator=random)
    shares = torch.rand(len(owner) * HEADS, REPEATS, LENGTH, generator=random)
    torch.testing.assert_close(shared.scores(0, query), query @ keys[owner].flatten(0, 1).transpose(1, 2))
    torch.testing.assert_close(shared.mix(0, shares), shares @ values[owner].flatten(0, 1))


@pytest.mark.parametrize(
    "owner", [[0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 1, 2], [2, 0, 1, 0, 2, 2, 0], [1, 1, 0, 0, 2, 2], [2]]
)
def test_even_uneven_and_scrambled_groups(owner: list[int]) -> None:
    keys, values, rows = states(3, 1), states(3, 2), torch.tensor(owner)
    assert_same_as_copies(SharedPrompts(keys, values, rows), keys[0], values[0], rows)


def test_rows_leave_come_twice_and_prompts_go_with_their_last_row() -> None:
    keys, values, owner = states(4, 3), states(4, 4), torch.tensor([0, 0, 1, 1, 2, 3])
    shared = SharedPrompts(keys, values, owner)
    for rows in (torch.tensor([5, 0, 1, 1, 4]), torch.tensor([4, 0, 0]), torch.tensor([1])):
        shared.keep(rows)
        owner = owner[rows]
        assert_same_as_copies(shared, keys[0], values[0], owner)
    assert shared.prompts == 1


def test_a_few_short_prompts_are_copied_and_many_long_ones_shared() -> None:
    keys = torch.empty(16, 2, 128, 64)
    assert worth_sharing(keys, torch.arange(16).repeat_interleave(8))
    assert not worth_sharing(keys[..., :32, :], torch.arange(16).repeat_interleave(8))
    assert not worth_sharing(keys, torch.arange(16))
