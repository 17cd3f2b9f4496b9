"""Every detector on numbers made by hand: when it fires, when it does not, what it remembers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from pydantic import BaseModel, Field, ValidationError
from tensordict import TensorDict

from fairlead.batch import Experience
from fairlead.detectors import (
    DEFAULTS,
    DeadGradients,
    Detector,
    Detectors,
    EntropyCollapse,
    KLBlowUp,
    LengthHacking,
    Repetition,
    RewardSpike,
    Rollback,
    Threshold,
    ValueDrift,
    default_detectors,
    raised,
)
from tiny_batches import experience


def rollout(
    lengths: Sequence[int] = (3, 3, 3, 3),
    score: list[float] | None = None,
    channel: list[float] | None = None,
    **fields: Any,
) -> Experience:
    """Four responses of the given lengths; other fields as they are named."""
    made = experience([[0.0] * length for length in lengths], score)
    channels = {} if channel is None else {"judge": torch.tensor(channel)}
    return made.replace(channels=TensorDict(channels, batch_size=made.batch_size), **fields)


def course(detector: Detector, steps: list[Any]) -> list[int]:
    """The steps at which a detector fires; each step is its metrics or its experience."""
    found = []
    for step, given in enumerate(steps, 1):
        metrics, experience = (given, rollout()) if isinstance(given, dict) else ({}, given)
        if detector(step, metrics, experience) is not None:
            found.append(step)
    return found


def series(name: str, values: list[float]) -> list[Any]:
    return [{name: value} for value in values]


def test_entropy_collapse() -> None:
    falling = series("policy/entropy", [1.0, 0.5, 0.2, 0.2, 0.1])
    # Means of two: .75, .35, .2, .15; the first below 0.2 is that of step 5.
    assert course(EntropyCollapse(window=2, left=0.2), falling) == [5]
    assert course(EntropyCollapse(window=2, left=0.14), falling) == []
    assert course(EntropyCollapse(), [{}, {"policy/entropy": float("nan")}] * 9) == []


def test_kl_limit_leap_and_update() -> None:
    assert course(KLBlowUp(window=2, limit=3), series("kl/k1", [1, 2, 3, 4])) == [4]
    assert course(KLBlowUp(window=2, limit=None, growth=4, least=3), series("kl/k1", [1, 1, 4, 5])) == [4]
    assert course(KLBlowUp(window=2, limit=None, growth=5, least=3), series("kl/k1", [1, 1, 4, 5])) == []
    assert course(KLBlowUp(window=2, limit=None, growth=4, least=6), series("kl/k1", [1, 1, 4, 5])) == []
    assert course(KLBlowUp(window=2, update_limit=0.2), series("policy/old_kl", [0.3, 0.05, 0.4])) == [3]


def test_length_counts_only_where_it_is_rewarded() -> None:
    def growing(paid: bool) -> list[Any]:
        lengths = [[2, 3, 3, 4], [3, 4, 4, 5], [4, 5, 5, 6], [5, 6, 6, 7]]
        return [rollout(row, [float(n) for n in (row if paid else reversed(row))]) for row in lengths]

    # Means of two rollouts 3.5, 4.5, 5.5 against the first of 3: more than half longer at the fourth.
    assert course(LengthHacking(window=2), growing(True)) == [4]
    assert course(LengthHacking(window=2, growth=0.9), growing(True)) == []
    assert course(LengthHacking(window=2), growing(False)) == []
    flat = [rollout([2] * 4, [1.0] * 4), *[rollout([8] * 4, [1.0] * 4)] * 4]
    assert course(LengthHacking(window=2), flat) == []  # no correlation is known


def test_rows_that_count_nothing_have_no_length() -> None:
    assert course(LengthHacking(window=1), [rollout(weight=torch.zeros(4))] * 3) == []


def test_repetition() -> None:
    new, said = torch.arange(6).repeat(4, 1), torch.zeros(4, 6, dtype=torch.int64)
    steps = [rollout([6] * 4, tokens=tokens) for tokens in (new, said, said)]
    assert course(Repetition(window=2, n=2, share=0.5), steps) == [3]  # four of five pairs are old: 0.8
    assert course(Repetition(window=2, n=2, share=0.9), steps) == []
    assert course(Repetition(window=2, n=2, share=0.5, growth=0.1), steps[1:]) == []  # it was so from the first


def test_a_reward_leaps() -> None:
    calm = [rollout(channel=[0.0, 1.0, 2.0, 3.0 + shift]) for shift in (0, 0.4, 0, 0.4)]
    up, down, little = ([value + leap for value in (0.0, 1.0, 2.0, 3.0)] for leap in (9.0, -9.0, 1.2))
    for leap, fires in ((up, [5]), (down, [5]), (little, [])):
        assert course(RewardSpike(window=3), [*calm, rollout(channel=leap)]) == fires
    assert course(RewardSpike(window=3, deviations=99), [*calm, rollout(channel=up)]) == []
    assert course(RewardSpike(window=3, spreads=9), [*calm, rollout(channel=up)]) == []
    # Where all responses have become equal a small step is no leap: the first rollout says how far they were apart.
    equal = [rollout(channel=[3.0] * 4)] * 3
    assert course(RewardSpike(window=3), [calm[0], *equal, rollout(channel=[3.1] * 4)]) == []
    assert course(RewardSpike(window=3), [rollout(channel=[float("nan")] * 4)] * 9) == []


def test_dead_gradients() -> None:
    def step(norm: float, flat: float = 0.0, skipped: float = 0.0) -> dict[str, float]:
        return {"policy/gradient_norm": norm, "zero_advantages": flat, "policy/skipped_steps": skipped}

    detector = {"window": 2, "share": 0.01, "flat": 0.9}
    assert course(DeadGradients(**detector), [step(2), step(0.02), step(0.01)]) == [3]
    assert course(DeadGradients(**detector), [step(2), step(0.03), step(0.01)]) == []
    assert course(DeadGradients(**detector), [step(2, 0.95), step(2, 0.8), step(2, 1), step(2, 1)]) == [4]
    assert course(DeadGradients(**detector), [{}, {}, {}]) == []  # only the critic is trained
    assert course(DeadGradients(**detector), [step(2), *[step(0, skipped=1)] * 5]) == []


def test_value_drift() -> None:
    returns = torch.tensor([[0.0, 0.0, 4.0]] * 4)  # variance 32/9
    good, off = (rollout(values=returns + offset, returns=returns) for offset in (0.1, 4.0))
    detector = {"window": 2, "fit": -1.0, "after": 3}
    # The fit is 1 − 16 / (32/9) = −3.5; the mean with a good step is −1.25.
    assert course(ValueDrift(**detector), [good, off, off, off]) == [4]
    assert course(ValueDrift(**detector), [good, good, good, off]) == [4]
    assert course(ValueDrift(**(detector | {"fit": -2.0})), [good, good, good, off]) == []
    assert course(ValueDrift(**(detector | {"after": 4})), [good, off, off, off]) == []
    assert course(ValueDrift(**detector), [rollout()] * 9) == []


def test_threshold() -> None:
    values = [{"failed/a": 0.0, "failed/b": share, "other": 9.0} for share in (0.0, 0.3, 0.3)]
    assert course(Threshold(metric="failed/*", above=0.2, window=2), values) == [3]
    assert course(Threshold(metric="failed/a", below=0.1), [*values] * 2) == [5]
    alarm = Threshold(metric="failed/b", above=0.1, window=1, title="T", remedy="R")(1, values[1], rollout())
    assert alarm is not None and (alarm.title, alarm.what, alarm.remedy) == ("T", "failed/b is 0.3, above 0.1.", "R")
    with pytest.raises(ValidationError, match="needs `above`, `below`, or both"):
        Threshold(metric="score")


def test_an_alarm_is_raised_once_in_a_while() -> None:
    steps = series("score", [1.0] * 9)
    assert course(Threshold(metric="score", above=0, window=1, repeat=4), steps) == [1, 5, 9]


@pytest.mark.parametrize("cut", range(1, 6))
def test_what_is_remembered_survives(cut: int) -> None:
    """A detector that was saved and loaded at any step fires where the other one does."""
    steps = series("policy/entropy", [1.0, 0.5, 0.2, 0.1, 0.1, 0.1, 0.1])
    made = {"window": 2, "repeat": 2}
    first, second = EntropyCollapse(**made), EntropyCollapse(**made)
    found = course(first, steps[:cut])
    second.load_state_dict(first.state_dict())
    for step, metrics in enumerate(steps[cut:], cut + 1):
        if second(step, metrics, rollout()) is not None:
            found.append(step)
    assert found == course(EntropyCollapse(**made), steps) == [4, 6]


class Watched(BaseModel):
    """Stands for the stage."""

    detectors: Detectors = Field(default_factory=default_detectors)


def test_settings_are_laid_over_the_defaults() -> None:
    assert set(Watched().detectors) == set(DEFAULTS) and None not in Watched().detectors.values()
    own = {"part": "threshold", "metric": "score", "below": 0.0}
    watched = Watched.model_validate(
        {"detectors": {"truncation": {"above": 0.5}, "repetition": None, "own": own, "reward-spike": own}}
    ).detectors
    assert watched["truncation"].above == 0.5 and watched["truncation"].metric == "truncated"  # type: ignore[union-attr]
    assert watched["repetition"] is None and isinstance(watched["own"], Threshold)
    assert isinstance(watched["reward-spike"], Threshold) and isinstance(watched["kl-blow-up"], KLBlowUp)
    assert (
        Watched.model_validate({"detectors": Watched(detectors=watched).model_dump()["detectors"]}).detectors == watched
    )
    off = Watched.model_validate({"detectors": None}).detectors
    assert set(off.values()) == {None} and raised(off, 1, {}, rollout()) == {}


def test_when_a_rollback_is_wanted() -> None:
    rollback = Rollback(on=["a", "b"], most=2)
    assert [rollback.wanted(["c", "b"], before) for before in range(4)] == [True, True, False, False]
    assert not rollback.wanted(["c"], 0) and not rollback.wanted([], 0)
