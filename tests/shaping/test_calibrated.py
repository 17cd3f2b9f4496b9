"""Calibration by a baseline answer, constraints and the KL factor as parts; tasks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tensordict import TensorDict

from fairlead.batch import Experience, row_table
from fairlead.shaping import Calibrated, Clip, Constrained, KLFactor, Normalise, ShapingByTask
from tiny_batches import experience


def judged(score: list[float], feasible: list[float], **others: Any) -> Experience:
    made = experience([[-1.0]] * len(score), score=score, **others)
    return made.replace(channels=TensorDict({"feasible": torch.tensor(feasible)}, batch_size=[len(score)]))


def test_calibrated() -> None:
    anchor = torch.tensor([False, True, False, True])
    rows = judged([2.0, 1.0, 7.0, math.nan], [1.0] * 4, group=[0, 0, 1, 1], anchor=anchor, weight=[1.0, 0, 1, 0])
    made = Calibrated()(rows)
    assert made.score[:3].tolist() == pytest.approx([0.731059, 0.5, 0.0], abs=1e-6) and bool(made.score[3].isnan())
    assert made.weight.tolist() == [1, 0, 0, 0]  # a prompt whose baseline could not be judged is left out
    with pytest.raises(ValueError, match="with-baseline"):
        Calibrated()(judged([1.0], [1.0]))


def test_a_violation_and_a_judge_that_failed_score_nothing() -> None:
    rows = judged([0.7, 0.7, 0.7], [1.0, 0.0, math.nan])
    assert Constrained(channel="feasible")(rows).score.tolist() == pytest.approx([0.7, 0, 0])
    assert Constrained(channel="feasible", penalty=1.0)(rows).score.tolist() == pytest.approx([0.7, -0.3, -0.3])
    with pytest.raises(ValueError, match=r"no judge 'feasable'.*did you mean 'feasible'"):
        Constrained(channel="feasable")(rows)


def test_the_kl_factor() -> None:
    rows = experience([[-1.0, -1.0], [-1.0]], score=[1.0, 1.0], reference_logprobs=[[-2.0, -2.0], [0.0]])
    assert KLFactor(maximum=4)(rows).score.tolist() == pytest.approx([0.5, 1.25])
    assert KLFactor(maximum=4, per="token")(rows).score.tolist() == pytest.approx([0.75, 1.25])
    assert KLFactor(maximum=4, clamp=True)(rows).score.tolist() == pytest.approx([0.5, 1.0])


def test_tasks_are_shaped_apart() -> None:
    rows = experience([[-1.0]] * 4, score=[5.0, 1.0, -5.0, 3.0])
    rows = rows.replace(rows=row_table([{"task": task} for task in ("a", "b", "a", "b")]))
    part = ShapingByTask(tasks={"a": [Clip(limit=2)], "b": [Normalise(over="batch")]})
    assert part(rows).score.tolist() == pytest.approx([2, -(0.5**0.5), -2, 0.5**0.5])
    rest = ShapingByTask(tasks={"a": []}, others=[Clip(limit=2)])
    assert rest(rows).score.tolist() == [5, 1, -5, 2]
    with pytest.raises(ValueError, match="the task 'b' is not named"):
        ShapingByTask(tasks={"a": []})(rows)
    with pytest.raises(ValueError, match="called 'others'"):
        ShapingByTask(tasks={"others": []}, others=[])(rows)
    with pytest.raises(ValueError, match="no column 'kind'"):
        ShapingByTask(column="kind", tasks={"a": []})(rows)


def test_what_tasks_need_the_whole_needs() -> None:
    assert ShapingByTask(tasks={"a": [Calibrated()]}).anchor_rollout
    assert ShapingByTask(tasks={"a": []}, others=[KLFactor(maximum=1)]).needs_reference
    plain = ShapingByTask(tasks={"a": [Clip()]})
    assert not plain.anchor_rollout and not plain.needs_reference
