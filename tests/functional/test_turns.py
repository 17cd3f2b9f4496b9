"""Where dialogues part, and the two-turn game whose rounds are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fairlead import functional

UNIFORM = torch.Generator().manual_seed(0)


def draws(count: int) -> tuple[Tensor, Tensor]:
    return torch.rand(count, generator=UNIFORM, dtype=torch.float64), torch.rand(
        count, generator=UNIFORM, dtype=torch.float64
    )


def test_early_turns_are_drawn_most_often() -> None:
    judged, branch = functional.branching_turns(*draws(200_000), torch.full((200_000,), 5))
    share = torch.bincount(branch, minlength=5) / len(branch)
    assert share.tolist() == pytest.approx([0.4567, 0.2567, 0.1567, 0.09, 0.04], abs=0.004)
    assert (torch.bincount(judged) / len(judged)).tolist() == pytest.approx([0.2] * 5, abs=0.004)
    assert bool((branch <= judged).all())


def test_choices_of_turns() -> None:
    first, second = torch.tensor([0.0, 0.999, 0.5]), torch.tensor([0.999, 0.999, 0.0])
    turns = torch.tensor([3, 3, 1])

    def found(judged: str, branch: str) -> list[list[int]]:
        return [x.tolist() for x in functional.branching_turns(first, second, turns, judged, branch)]

    assert found("random", "random") == [[0, 2, 0], [0, 2, 0]]
    assert found("last", "random") == [[2, 2, 0], [2, 2, 0]]
    assert found("random", "last") == [[0, 2, 0], [0, 2, 0]]
    assert found("last", "last") == [[2, 2, 0], [2, 2, 0]]
    with pytest.raises(ValueError, match="choose one of random, last"):
        found("first", "last")
    with pytest.raises(ValueError, match="at least one turn"):
        functional.branching_turns(first, second, torch.tensor([3, 0, 1]))
