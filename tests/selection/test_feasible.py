"""The best feasible response, the pairs of CODPO, and tasks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tensordict import TensorDict

from fairlead.batch import Experience, row_table
from fairlead.selection import (
    BestFeasible,
    BestWorst,
    DropTruncated,
    FeasiblePair,
    Pairs,
    PolicyFiltration,
    SelectionByTask,
)
from tiny_batches import experience


def judged(score: list[float], feasible: list[float], group: list[int], **others: Any) -> Experience:
    made = experience([[-1.0]] * len(score), score=score, group=group, **others)
    return made.replace(
        tokens=torch.arange(len(score))[:, None],
        channels=TensorDict({"feasible": torch.tensor(feasible)}, batch_size=[len(score)]),
    )


def test_the_best_feasible_response_and_the_baseline_in_its_place() -> None:
    """Prompt 0 has two feasible responses, prompt 1 none but a feasible baseline, prompt 2 nothing feasible."""
    rows = judged(
        [-2.0, -1.0, 9.0, 0.5, 0.9, math.nan, 0.5, 0.9, 0.5],
        [1.0, 1, 0, 1, 0, math.nan, 1, 0, 0],
        [0, 0, 0, 0, 1, 1, 1, 2, 2],
        anchor=torch.tensor([False, False, False, True, False, False, True, False, True]),
        weight=[1.0, 1, 1, 0, 1, 0, 0, 1, 0],
    )
    made = BestFeasible(channel="feasible")(rows)
    assert made.weight.tolist() == [0, 1, 0, 0, 0, 0, 1, 0, 0]  # −1 beats −2, and a violation beats nothing
    assert made.anchor.tolist() == [False, False, False, True, False, False, False, False, True]
    assert made.score[6] == 0.5  # its weight in the loss
    alone = BestFeasible(channel="feasible", fallback=False)(rows)
    assert alone.weight.tolist() == [0, 1, 0, 0, 0, 0, 0, 0, 0] and torch.equal(alone.anchor, rows.anchor)


def test_what_has_moved_too_far_is_left_out() -> None:
    rows = judged([1.0, 2.0], [1.0, 1.0], [0, 0], reference_logprobs=[[-1.0], [-6.0]])
    assert BestFeasible(channel="feasible", maximum=4)(rows).weight.tolist() == [1, 0]
    assert BestFeasible(channel="feasible")(rows).weight.tolist() == [0, 1]
    assert BestFeasible(channel="feasible", maximum=4).needs_reference
    assert not BestFeasible(channel="feasible").needs_reference


@pytest.mark.parametrize(
    ("score", "feasible", "pair"),
    [
        (
            [-1.0, -3.0, 2.0, 3.0],
            [1, 1, 0, 0],
            (0, 2),
        ),  # not row 2 and row 1, which a mask by multiplication would take
        ([-1.0, -3.0, 2.0, -4.0], [1, 1, 1, math.nan], (2, 3)),  # a judge that failed is not satisfied
        ([1.0, 3.0, 2.0, 0.0], [1, 1, 1, 1], (1, 3)),
        ([1.0, 3.0, 2.0, 0.0], [0, 0, 0, 0], None),
    ],
)
def test_the_pairs_of_codpo(score: list[float], feasible: list[float], pair: tuple[int, int] | None) -> None:
    chosen, rejected = FeasiblePair(channel="feasible")(judged(score, feasible, [0] * 4), torch.Generator())
    assert list(zip(chosen.tolist(), rejected.tolist(), strict=True)) == ([] if pair is None else [pair])


def test_one_response_makes_no_pair() -> None:
    assert not FeasiblePair(channel="feasible")(judged([1.0], [1.0], [0]), torch.Generator())[0].numel()


def test_pairs_as_a_selection() -> None:
    rows = judged([1.0, 3.0, 2.0, 5.0, 5.0], [1.0] * 5, [4, 4, 4, 9, 9], weight=[1.0, 1, 1, 1, 1])
    made = Pairs()(rows)
    assert made.weight.tolist() == [1, 1, 0, 0, 0]
    assert made.extras is not None and made.extras["side"].tolist() == [-1, 1, 0, 0, 0]
    second = Pairs(pairing=BestWorst(rejected="second"))(rows)
    assert second.extras is not None and second.extras["side"].tolist() == [0, 1, -1, 0, 0]


def test_tasks_select_apart() -> None:
    rows = judged([1.0, 3.0, 2.0, 5.0], [1.0, 0, 1, 1], [0, 0, 1, 1])
    rows = rows.replace(rows=row_table([{"kind": kind} for kind in ("m", "m", "c", "c")]))
    part = SelectionByTask(
        column="kind", tasks={"m": [BestFeasible(channel="feasible")]}, others=[Pairs(pairing=BestWorst())]
    )
    made = part(rows)
    assert made.weight.tolist() == [1, 0, 1, 1]
    assert made.extras is not None and made.extras["side"].tolist() == [0, 0, -1, 1]
    assert not part.needs_reference and not part.after_credit
    near = SelectionByTask(column="kind", tasks={"m": [BestFeasible(channel="feasible", maximum=1)]})
    assert near.needs_reference
    with pytest.raises(ValidationError, match="all before or all behind credit"):
        SelectionByTask(tasks={"a": [DropTruncated()], "b": [PolicyFiltration()]})
