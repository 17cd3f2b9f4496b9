"""Constraints: what they see, how multipliers move, what they remember."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from tensordict import TensorDict

from fairlead.batch import Experience
from fairlead.constraints import Constraint, HighConfidence, Lagrangian
from tiny_batches import experience


def costing(*costs: float, **others: object) -> Experience:
    made = experience([[-1.0, -1.0]] * len(costs), score=[1.0] * len(costs), **others)
    return made.replace(channels=TensorDict({"harm": torch.tensor(costs)}, batch_size=[len(costs)]))


def test_the_multiplier_follows_the_mean_cost() -> None:
    part = Lagrangian(channel="harm", limit=0.5, rate=0.1, window=2)
    found = part.observe(costing(1.0, 3.0, math.nan))
    assert found == {"multiplier": pytest.approx(math.exp(0.15)), "excess": 1.5, "cost": 2.0}
    part.observe(costing(-4.0))  # the window holds 3 and −4
    assert part.multiplier == pytest.approx(math.exp(0.15 + 0.1 * math.exp(0.15) * -1.0))


def test_every_field_of_the_multiplier() -> None:
    linear = Lagrangian(channel="harm", parametrisation="linear", initial=0, rate=2.0, maximum=3.0, delay=1)
    assert linear.observe(costing(1.0))["multiplier"] == 0
    assert linear.observe(costing(1.0))["multiplier"] == 2
    assert linear.observe(costing(1.0))["multiplier"] == 3
    fixed = Lagrangian(channel="harm", rate=0, initial=0.7)
    assert fixed.observe(costing(9.0))["multiplier"] == pytest.approx(0.7)
    floor = Lagrangian(channel="harm", limit=2.0, side="at-least")
    assert floor.cost(costing(1.0)).tolist() == [-1.0] and floor.observe(costing(1.0))["excess"] == 1.0
    with pytest.raises(ValidationError, match="never moves"):
        Lagrangian(channel="harm", initial=0)
    with pytest.raises(ValidationError, match="exceeds maximum"):
        Lagrangian(channel="harm", initial=9)


def test_rows_left_out_count_for_the_constraint_and_anchors_do_not() -> None:
    part = Lagrangian(channel="harm")
    rows = costing(1.0, 3.0, 100.0, weight=[1.0, 0.0, 0.0], anchor=torch.tensor([False, False, True]))
    assert part.observe(rows)["cost"] == 2.0


def test_where_the_penalty_stands() -> None:
    rows = costing(2.0, rewards=[[-0.1, 0.8]])  # a score of 1 less penalties of 0.1 and 0.2
    shared, alone = (Lagrangian(channel="harm", kl=kl).in_place_of_reward(rows) for kl in ("shared", "reward"))
    torch.testing.assert_close(shared.rewards, torch.tensor([[0.1, 2.2]]))
    torch.testing.assert_close(alone.rewards, torch.tensor([[0.0, 2.0]]))


def test_the_pessimistic_cost() -> None:
    part = HighConfidence(channel="harm", window=3, test_prompts=100, rate=1.0)
    rows = costing(-1.0, 2.0, 0.5)
    k = 1.885618 / math.sqrt(3) + 0.129016
    assert part.observe(rows)["excess"] == pytest.approx(0.5 + k * 1.5, abs=1e-5)
    wanted = [c + k * (c * c - c) / 3 for c in (-1.0, 2.0, 0.5)]
    assert part.learned_cost(rows).tolist() == pytest.approx(wanted, abs=1e-5)
    plain = HighConfidence(channel="harm", train_factor=0, test_factor=0)
    assert plain.observe(rows)["excess"] == 0.5 and plain.learned_cost(rows).tolist() == [-1.0, 2.0, 0.5]
    strict = HighConfidence(channel="harm", window=3, test_prompts=100, delta=0.05)
    assert strict.observe(rows)["excess"] > 0.5 + k * 1.5


@pytest.mark.parametrize("kind", [Lagrangian, HighConfidence])
def test_it_remembers(kind: type[Lagrangian]) -> None:
    one, other = kind(channel="harm"), kind(channel="harm")
    one.observe(costing(1.0, 2.0))
    other.load_state_dict(one.state_dict())
    rows = costing(3.0, -1.0)
    assert one.observe(rows) == other.observe(rows)
    assert torch.equal(one.learned_cost(rows), other.learned_cost(rows))


def test_the_slot_is_abstract() -> None:
    with pytest.raises(TypeError):
        Constraint(channel="harm")  # type: ignore[abstract]
