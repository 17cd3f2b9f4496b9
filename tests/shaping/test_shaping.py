"""Shaping: running moments by hand, limits, penalties, state."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from fairlead.batch import Experience
from fairlead.shaping import BelowWorst, Clip, Gated, MissingEnd, Normalise, Overlong
from tiny_batches import experience


def scored(*score: float, **others: object) -> Experience:
    return experience([[-1.0]] * len(score), score=score, **others)


def moments(part: Normalise) -> tuple[float, float]:
    state = part.state_dict()
    return state["mean"], (state["squares"] / (state["count"] - 1)) ** 0.5


def test_running_moments_by_hand() -> None:
    part = Normalise()
    first = part(scored(1, 2, 3, 4)).score
    assert moments(part) == pytest.approx((2.5, 1.290994), abs=1e-6)
    torch.testing.assert_close(first, (torch.tensor([1.0, 2, 3, 4]) - 2.5) / 1.290994)
    second = part(scored(2, 2, 6, 6)).score
    assert moments(part) == pytest.approx((3.25, 1.908627), abs=1e-6)
    torch.testing.assert_close(second, (torch.tensor([2.0, 2, 6, 6]) - 3.25) / 1.908627)


def test_batch_moments_forget() -> None:
    part = Normalise(over="batch")
    part(scored(1, 2, 3, 4))
    made = part(scored(2, 2, 6, 6)).score
    torch.testing.assert_close(made, torch.tensor([-1.0, -1, 1, 1]) * 2 / (16 / 3) ** 0.5)


def test_only_dividing() -> None:
    made = Normalise(centre=False)(scored(1, 2, 3, 4)).score
    torch.testing.assert_close(made, torch.tensor([1.0, 2, 3, 4]) / 1.2909944)


def test_rows_that_do_not_count_are_in_no_moment() -> None:
    part = Normalise()
    part(scored(1, 2, 0, 3, 4, weight=[1.0, 1, 0, 1, 1]))
    assert moments(part) == pytest.approx((2.5, 1.290994), abs=1e-6)


def test_state_of_normalise() -> None:
    part, other = Normalise(), Normalise()
    part(scored(1, 2, 3, 4))
    other.load_state_dict(part.state_dict())
    assert torch.equal(part(scored(2, 2, 6, 6)).score, other(scored(2, 2, 6, 6)).score)
    assert part.state_dict() == other.state_dict()


@pytest.mark.parametrize("over", ["running", "batch"])
def test_nothing_and_equal_scores(over: str) -> None:
    part = Normalise(over=over)
    assert part(scored(0, 0, weight=[0.0, 0.0])).score.isfinite().all()
    assert part(scored(3, 3, 3)).score.abs().max() == 0


def test_clip_and_missing_end() -> None:
    assert Clip(limit=2)(scored(-5, 1, 5)).score.tolist() == [-2, 1, 2]
    assert Clip()(scored(-5, 1, 50)).score.tolist() == [-5, 1, 10]
    assert MissingEnd(penalty=0.5)(scored(1, 1, truncated=[True, False])).score.tolist() == [0.5, 1]
    assert MissingEnd()(scored(1, 1, truncated=[True, False])).score.tolist() == [0, 1]
    assert MissingEnd(penalty=4, replace=True)(scored(3, 1, truncated=[True, False])).score.tolist() == [-4, 1]
    assert MissingEnd(penalty=0, scale=0.5)(scored(3, 1, truncated=[True, False])).score.tolist() == [1.5, 1]
    with pytest.raises(ValueError, match="leave one out"):
        MissingEnd(replace=True, scale=0.5)
    assert Clip().state_dict() == MissingEnd().state_dict() == {}


def test_overlong() -> None:
    batch = experience([[-1.0] * length for length in (1, 3, 4, 6)], score=[1.0, 1, 1, 1])
    assert Overlong(maximum_length=4, buffer=2)(batch).score.tolist() == [1, 0.5, 0, 0]
    assert Overlong(maximum_length=4, buffer=2, factor=2.0)(batch).score.tolist() == [1, 0, -1, -1]
    assert Overlong(maximum_length=4, buffer=2, beyond="falling")(batch).score.tolist() == [1, 0.5, 0, -1]
    with pytest.raises(ValueError, match=r"buffer \(5\) exceeds maximum_length \(4\)"):
        Overlong(maximum_length=4, buffer=5)


def test_a_rule_gates_a_judge() -> None:
    channels = TensorDict(
        {"rule": torch.tensor([1.0, 1.0, 0.0, 1.0]), "taste": torch.tensor([2.0, 1.0, 0.0, -1.0])}, batch_size=[4]
    )
    batch = scored(1, 1, 0, 1, group=[0, 0, 0, 0]).replace(channels=channels)
    made = Gated(rule="rule", judge="taste")(batch)
    torch.testing.assert_close(made.score, torch.tensor([1.7928, 1.6100, 0.0, 1.2072]), atol=1e-4, rtol=0)
    swapped = Gated(rule="taste", judge="rule")(batch)  # only the second has a 1
    assert (swapped.score > 0).tolist() == [False, True, False, False]
    with pytest.raises(ValueError, match="there is no reward 'tast'; did you mean 'taste'"):
        Gated(rule="rule", judge="tast")(batch)


def test_a_row_without_a_verdict_teaches_nothing() -> None:
    channels = TensorDict({"rule": torch.ones(2), "taste": torch.tensor([1.0, torch.nan])}, batch_size=[2])
    made = Gated(rule="rule", judge="taste")(scored(1, 1, group=[0, 0]).replace(channels=channels))
    assert made.score.tolist() == [1.5, 0.0] and made.weight.tolist() == [1.0, 0.0]


def test_what_a_channel_speaks_against_falls_below_the_batch() -> None:
    channels = TensorDict({"mixed": torch.tensor([0.0, 1.0, 0.0])}, batch_size=[3])
    batch = scored(0.3, 2.0, 1.0, group=[0, 0, 1]).replace(channels=channels)
    torch.testing.assert_close(BelowWorst(channel="mixed")(batch).score, torch.tensor([0.3, -9.7, 1.0]))
    with pytest.raises(ValueError, match="shaping below-worst: there is no reward 'mixt'; did you mean 'mixed'"):
        BelowWorst(channel="mixt")(batch)
