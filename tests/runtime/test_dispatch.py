"""Who gets which rows, and batches that travel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tensordict import TensorDict

from fairlead.batch import Experience, take
from fairlead.runtime.dispatch import deal, deal_prompts, pack, row_lengths, unpack


@pytest.mark.parametrize(
    ("costs", "workers", "expected"),
    [
        ([7, 5, 4, 3, 3], 2, [[0, 3], [1, 2, 4]]),  # 7 | 5 | 5+4 | 7+3 | 9+3
        ([1, 1, 1, 1], 2, [[0, 2], [1, 3]]),
        ([1, 9], 3, [[1], [0], []]),
        ([0, 0, 0], 2, [[0, 2], [1]]),  # rows without tokens are spread too
        ([], 2, [[], []]),
        ([3, 2], 1, [[0, 1]]),
    ],
)
def test_deal(costs: list[int], workers: int, expected: list[list[int]]) -> None:
    assert deal(costs, workers) == expected


def test_lengths_count_prompts_and_candidates(experience: Experience, pairs: Any, packed: Any) -> None:
    assert row_lengths(experience)[7] == int(experience.prompt_mask[7].sum())  # no token of its own
    longest = int(pairs.prompt_mask[2].sum() + pairs.mask[2].sum(-1).max())
    assert row_lengths(pairs)[2] == 2 * longest
    assert row_lengths(packed) == (packed.segments > 0).sum(1).tolist()


def test_rows_of_a_prompt_stay_together(prompts: Any) -> None:
    for workers in (1, 2, 3):
        shares = deal_prompts(prompts, 5, workers)
        assert sorted(row for share in shares for row in share) == list(range(12))
        assert all(share and {row // 2 for row in share} == {row // 2 for row in share if row % 2} for share in shares)


def test_a_single_prompt_is_shared_by_all_workers(prompts: Any) -> None:
    assert [len(share) for share in deal_prompts(take(prompts, [3, 3, 3, 3]), 5, 2)] == [2, 2]
    assert [len(share) for share in deal_prompts(take(prompts, [3, 3, 3, 3]), 5, 2, whole=True)] == [4, 0]


def test_batches_travel(experience: Experience, pairs: Any, packed: Any, prompts: Any) -> None:
    extras = TensorDict(
        {"half": torch.randn(12, 2).bfloat16(), "deep": TensorDict({"x": torch.arange(12)}, [12])}, [12]
    )
    rich = experience.replace(extras=extras, present=experience.mask | (experience.tokens > 50))
    for batch in (rich, pairs, packed, prompts):
        for rows in (None, [1], [2, 0]):
            found = unpack(pack(batch), rows)
            expected = batch if rows is None else batch[torch.tensor(rows)]
            assert type(found) is type(batch) and found.batch_size == expected.batch_size
            for name in type(batch).__dataclass_fields__:
                one, other = getattr(found, name), getattr(expected, name)
                if isinstance(other, torch.Tensor):
                    assert torch.equal(one, other) and one.dtype == other.dtype, name
                elif isinstance(other, TensorDict):
                    assert bool((one == other).all()) if other.keys() else not one.keys(), name
                elif name != "rows":
                    assert one is other is None, name


def test_what_travels_is_not_copied_before_it_must_be(experience: Experience) -> None:
    parcel = pack(experience)
    assert parcel.fields["advantages"].values.ctypes.data == experience.advantages.data_ptr()
    unpack(parcel, [0]).advantages.fill_(5.0)
    assert not bool((experience.advantages == 5.0).any())
