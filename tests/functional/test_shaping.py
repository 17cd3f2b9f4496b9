"""Functions of scores and lengths."""

import pytest
import torch

from fairlead import functional


def test_overlong_by_hand() -> None:
    length = torch.tensor([0, 16384, 17000, 18432, 20480, 22528])
    penalty = functional.overlong_penalty(length, 20480, 4096)
    torch.testing.assert_close(penalty, torch.tensor([0, 0, -0.150391, -0.5, -1, -1]), atol=1e-6, rtol=0)
    falling = functional.overlong_penalty(length, 20480, 4096, floor=None)
    assert falling[-1] == -1.5 and torch.equal(falling[:-1], penalty[:-1])


def test_overlong_refuses() -> None:
    for maximum, buffer, floor in ((4, 0, -1.0), (4, 5, -1.0), (4, 2, 1.0)):
        with pytest.raises(ValueError):
            functional.overlong_penalty(torch.ones(1), maximum, buffer, floor)


def test_a_rule_then_a_judge_by_hand() -> None:
    """Scores 2, 1, 0, −1 stand at ±1.3416 and ±0.4472 (deviation of n); the third fails the rule."""
    passed, judged = torch.tensor([1.0, 1.0, 0.0, 1.0]), torch.tensor([2.0, 1.0, 0.0, -1.0])
    reward = functional.gated_reward(passed, judged, torch.zeros(4, dtype=torch.int64))
    torch.testing.assert_close(reward, torch.tensor([1.7928, 1.6100, 0.0, 1.2072]), atol=1e-4, rtol=0)
    assert reward[2] < reward[[0, 1, 3]].min()


def test_equal_scores_failures_and_groups_of_a_gate() -> None:
    nan = float("nan")
    passed, judged = torch.tensor([1.0, 1.0, 1.0, nan, 0.0, 1.0]), torch.tensor([5.0, 5.0, nan, 1.0, 9.0, 7.0])
    reward = functional.gated_reward(passed, judged, torch.tensor([0, 0, 0, 1, 1, 2]))
    torch.testing.assert_close(reward, torch.tensor([1.5, 1.5, nan, nan, 0.0, 1.5]), equal_nan=True)


def test_what_is_flagged_falls_below_the_lowest() -> None:
    """The sheet's batch minimum of 0.3 gives −9.7."""
    score = torch.tensor([0.3, 2.0, 1.0, float("nan")])
    shaped = functional.below_worst(score, torch.tensor([False, True, False, True]), 10.0)
    torch.testing.assert_close(shaped, torch.tensor([0.3, -9.7, 1.0, float("nan")]), equal_nan=True)
    nothing = torch.tensor([float("nan")])
    assert functional.below_worst(nothing, torch.tensor([True]), 10.0).isnan().all()
