"""Selection: flat groups and truncated responses."""

from __future__ import annotations

import pytest
import torch

from fairlead.batch import row_table
from fairlead.selection import BestOfN, DropFlatGroups, DropTruncated, KeepBand
from tiny_batches import experience

ROWS = [[-1.0]] * 6


def test_flat_groups_are_dropped() -> None:
    batch = experience(ROWS, score=[1, 1, 2, 3, 5, 5], group=[9, 9, 2, 2, 4, 4], weight=[1, 1, 1, 2, 1, 1.0])
    assert DropFlatGroups()(batch).weight.tolist() == [0, 0, 1, 2, 0, 0]


def test_the_tolerance_is_maximum_minus_minimum() -> None:
    batch = experience(ROWS[:4], score=[0, 0, 0, 1.0], group=[0] * 4)
    assert DropFlatGroups(tolerance=1.0)(batch).weight.sum() == 0
    assert DropFlatGroups(tolerance=0.99)(batch).weight.sum() == 4
    assert DropFlatGroups(tolerance=0)(batch).weight.sum() == 4


def test_a_failed_row_does_not_make_its_group_uneven() -> None:
    batch = experience(ROWS[:4], score=[1, 1, 1, 0.0], group=[0] * 4, weight=[1, 1, 1, 0.0])
    assert DropFlatGroups()(batch).weight.tolist() == [0, 0, 0, 0]


def test_groups_of_one_and_none() -> None:
    assert DropFlatGroups()(experience(ROWS, score=[1, 2, 3, 4, 5, 6])).weight.sum() == 0
    batch = experience(ROWS[:2], score=[1, 2], group=[0, 0], weight=[0.0, 0.0])
    assert DropFlatGroups()(batch).weight.tolist() == [0, 0]


def test_truncated() -> None:
    batch = experience(ROWS[:3], weight=[1, 3, 0.0], truncated=[True, False, False])
    assert DropTruncated()(batch).weight.tolist() == [0, 3, 0]


def test_the_spread_of_one_judge() -> None:
    batch = experience(ROWS[:4], score=[1, 2, 3, 4], group=[0, 0, 1, 1])
    batch.channels["right"] = torch.tensor([1.0, 1.0, 0.0, 1.0])
    assert DropFlatGroups(channel="right")(batch).weight.tolist() == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="no judge 'rigt' among the rewards; did you mean 'right'"):
        DropFlatGroups(channel="rigt")(batch)


def test_a_band_of_mean_scores() -> None:
    batch = experience(ROWS, score=[1.0, 1, 0, 1, 0, 0], group=[0, 0, 1, 1, 2, 2], weight=[1, 1, 1, 2, 1, 1.0])
    assert KeepBand()(batch).weight.tolist() == [0, 0, 1, 2, 0, 0]
    assert KeepBand(low=-1.0)(batch).weight.tolist() == [0, 0, 1, 2, 1, 1]
    assert KeepBand(high=2.0)(batch).weight.tolist() == [1, 1, 1, 2, 0, 0]
    batch.channels["right"] = torch.tensor([1.0, 0, 1, 1, 0, 0])
    assert KeepBand(channel="right")(batch).weight.tolist() == [1, 1, 0, 0, 0, 0]
    assert KeepBand()(batch.replace(weight=torch.zeros(6))).weight.sum() == 0


def test_the_best_of_each_prompt() -> None:
    batch = experience(ROWS, score=[1, 3, 2, 7, 8, 9], group=[0, 0, 0, 1, 1, 1], weight=[1, 2, 1, 1, 1, 0.0])
    assert BestOfN()(batch).weight.tolist() == [0, 2, 0, 0, 1, 0]
    assert BestOfN(keep=2)(batch).weight.tolist() == [0, 2, 1, 1, 1, 0]
    assert BestOfN(keep=9)(batch).weight.tolist() == batch.weight.tolist()


def test_among_equals_chance_decides() -> None:
    batch = experience(ROWS, score=[1.0] * 6, group=[0] * 6)
    torch.manual_seed(0)
    assert {int(BestOfN()(batch).weight.argmax()) for _ in range(60)} == set(range(6))


def test_empty_responses_are_never_the_best() -> None:
    said = ["", "b", " ", "d", "", ""]
    rows = row_table([{"prompt": "p", "response": text} for text in said])
    batch = experience(ROWS, score=[9, 3, 8, 7, 8, 9], group=[0, 0, 0, 0, 1, 1]).replace(rows=rows)
    assert BestOfN()(batch).weight.tolist() == [0, 0, 0, 1, 0, 0]
