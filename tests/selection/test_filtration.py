"""Policy filtration: weights by rank inside a prompt, drawn or kept, before or after credit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from fairlead.batch import by_task, row_table
from fairlead.diagnostics import FilterAgreement
from fairlead.selection import PolicyFiltration
from tiny_batches import experience

SCORES = [3.0, 1.0, 2.0, 0.0, 5.0, 5.0]
"""A prompt of four responses, one of two with equal scores."""


def batch(weight: list[float] | None = None) -> Any:
    return experience([[-1.0]] * 6, score=SCORES, group=[0, 0, 0, 0, 1, 1], weight=weight)


@pytest.mark.parametrize(
    ("fields", "weight"),
    [
        ({}, [2, 0, 0, 2, 0, 0]),
        ({"filter": "best"}, [4, 0, 0, 0, 0, 0]),
        ({"filter": "none"}, [1, 1, 1, 1, 0, 0]),
        ({"filter": "extremes", "extremes": 2}, [1, 1, 1, 1, 0, 0]),
        ({"filter": "best-worst", "mode": "filter"}, [1, 0, 0, 1, 0, 0]),
        ({"filter": "best", "mode": "filter"}, [1, 0, 0, 0, 0, 0]),
        ({"power": 1.0}, [2, 2 / 3, 4 / 3, 0, 0, 0]),
    ],
    ids=str,
)
def test_weights(fields: dict[str, Any], weight: list[float]) -> None:
    assert PolicyFiltration(**fields)(batch()).weight.tolist() == pytest.approx(weight)


def test_ranks_and_rows_that_failed() -> None:
    four = experience([[-1.0]] * 4, score=SCORES[:4], group=[0] * 4)
    assert PolicyFiltration(ranks=[3.0, 1, 0, 0])(four).weight.tolist() == [3, 0, 1, 0]
    assert PolicyFiltration()(batch([0.0, 1, 1, 1, 1, 1])).weight.tolist() == [0, 0, 1.5, 1.5, 0, 0]
    assert PolicyFiltration()(batch([0.0] * 6)).weight.sum() == 0


def test_the_critic_may_learn_from_all() -> None:
    rows = batch([0.0, 1, 1, 1, 1, 1])
    assert PolicyFiltration()(rows).critic_weight is None
    made = PolicyFiltration(critic="all")(rows)
    assert made.critic_weight.tolist() == [0, 1, 1, 1, 1, 1] and made.weight.tolist() == [0, 0, 1.5, 1.5, 0, 0]
    again = PolicyFiltration(critic="all", filter="best")(made)
    assert again.critic_weight.tolist() == [0, 1, 1, 1, 1, 1]


def test_drawing() -> None:
    torch.manual_seed(0)
    counts = torch.stack([PolicyFiltration(filter="best-random", mode="draw")(batch()).weight for _ in range(400)])
    assert (counts.sum(1) == 6).all()  # as many as there are, of the prompt that has ranks
    expected = torch.tensor([3, 1, 1, 1, 0, 0.0])
    torch.testing.assert_close(counts.mean(0), expected, atol=0.2, rtol=0)
    kept = torch.stack([PolicyFiltration(filter="best-random", mode="filter")(batch()).weight for _ in range(60)])
    assert (kept[:, 0] == 1).all() and (kept.sum(1) == 2).all() and (kept[:, 1:4].sum(0) > 5).all()


def test_adaptive_takes_the_filter_that_explains_the_truth() -> None:
    rows = experience([[-1.0]] * 8, score=[3.0, 2, 1, 0] * 2, group=[0] * 4 + [1] * 4)
    rows.channels["tests"] = torch.tensor([1.0, 0, 1, 0] * 2)
    assert PolicyFiltration(filter="adaptive", truth="tests")(rows).weight.tolist() == [2, 0, 0, 2] * 2
    found = FilterAgreement(truth="tests")(None, rows)
    assert found["best-worst"] == pytest.approx(1) and found["none"] == pytest.approx(0.2) and found["best"] == 0
    with pytest.raises(ValueError, match="no judge 'test' among the rewards; did you mean 'tests'"):
        FilterAgreement(truth="test")(None, rows)


def test_moment_and_refusals() -> None:
    assert PolicyFiltration().after_credit and not PolicyFiltration(moment="before-credit").after_credit
    for fields in (
        {"filter": "adaptive"},
        {"truth": "tests"},
        {"ranks": [0.0, 0.0]},
        {"ranks": [1.0], "power": 2.0},
        {"filter": "none", "mode": "filter"},
    ):
        with pytest.raises(ValidationError):
            PolicyFiltration(**fields)


def test_a_critic_that_learns_from_all_of_one_task_alone() -> None:
    rows = batch().replace(rows=row_table([{"task": task} for task in "aaaabb"]))
    parts = {"a": [PolicyFiltration(critic="all")], "b": [PolicyFiltration(filter="best")]}
    made = by_task(rows, "task", parts, None, lambda part, own: part[0](own))
    assert made.critic_weight.tolist() == [1, 1, 1, 1, 0, 0] and made.weight.tolist() == [2, 0, 0, 2, 0, 0]
