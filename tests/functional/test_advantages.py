"""From rewards and scores to advantages."""

import pytest
import torch
from torch import Tensor

from fairlead import functional

NAN, INF = float("nan"), float("inf")
REWARDS = torch.tensor([[-0.1, 0.0, 0.05, 1.0]], dtype=torch.float64)
VALUES = torch.tensor([[0.5, 0.4, 0.6, 0.8]], dtype=torch.float64)
ONES = torch.ones(1, 4)


def close(x: Tensor, expected: list[float] | list[list[float]], tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(x, torch.tensor(expected, dtype=x.dtype), atol=tolerance, rtol=0)


def test_gae_by_hand() -> None:
    # deltas -.2, .2, .25, .2.  A_4 = .2;  A_3 = .25 + .95 * .2 = .44;  A_2 = .2 + .95 * .44 = .618;
    # A_1 = -.2 + .95 * .618 = .3871.
    advantages, returns = functional.gae(REWARDS, VALUES, ONES, gamma=1.0, lam=0.95)
    close(advantages, [[0.3871, 0.618, 0.44, 0.2]])
    close(returns, [[0.8871, 1.018, 1.04, 1.0]])


def test_gae_with_lambda_one_is_reward_to_go_minus_value() -> None:
    advantages, returns = functional.gae(REWARDS, VALUES, ONES, gamma=1.0, lam=1.0)
    close(advantages, [[0.45, 0.65, 0.45, 0.2]])
    torch.testing.assert_close(returns, functional.discounted_returns(REWARDS, ONES, 1.0))
    close(returns, [[0.95, 1.05, 1.05, 1.0]])


def test_gae_with_lambda_zero_is_the_one_step_error() -> None:
    close(functional.gae(REWARDS, VALUES, ONES, gamma=0.5, lam=0.0)[0], [[-0.4, -0.1, -0.15, 0.2]])


def test_gae_carries_through_gaps() -> None:
    generator = torch.Generator().manual_seed(0)
    mask = torch.tensor([[1, 1, 0, 0, 1, 0, 1, 1, 0], [0, 1, 1, 1, 0, 0, 1, 1, 1]], dtype=torch.bool)
    rewards, values = (torch.randn(2, 9, generator=generator, dtype=torch.float64) for _ in range(2))
    rewards[~mask] = NAN
    values[~mask] = INF
    advantages, returns = functional.gae(rewards, values, mask, 0.9, 0.8)
    goal = functional.discounted_returns(rewards, mask, 0.9)
    for row in range(2):
        keep = mask[row]
        dense = torch.ones(1, int(keep.sum()))
        packed = functional.gae(rewards[row, keep][None], values[row, keep][None], dense, 0.9, 0.8)
        torch.testing.assert_close(advantages[row, keep], packed[0][0])
        torch.testing.assert_close(returns[row, keep], packed[1][0])
        expected = functional.discounted_returns(rewards[row, keep][None], dense, 0.9)
        torch.testing.assert_close(goal[row, keep], expected[0])
    for x in (advantages, returns, goal):
        assert (x[~mask] == 0).all()


def test_gae_of_empty_rows_and_of_no_tokens() -> None:
    advantages, returns = functional.gae(torch.full((1, 3), NAN), torch.full((1, 3), NAN), torch.zeros(1, 3), 1.0, 0.95)
    assert advantages.abs().sum().item() == returns.abs().sum().item() == 0
    assert functional.gae(torch.zeros(2, 0), torch.zeros(2, 0), torch.zeros(2, 0), 1.0, 1.0)[0].shape == (2, 0)


def test_gae_is_detached_and_not_in_half_precision() -> None:
    values = VALUES.clone().requires_grad_()
    advantages, returns = functional.gae(REWARDS, values, ONES, 1.0, 0.95)
    assert not advantages.requires_grad
    assert not returns.requires_grad
    half, _ = functional.gae(REWARDS.bfloat16(), VALUES.bfloat16(), ONES, 1.0, 0.95)
    assert half.dtype == torch.float32


def test_sum_of_shaped_rewards() -> None:
    # R_t = -eta (log pi - log ref) + 1[t = T] r: the sum is r - eta * sum of log-ratios (arXiv 2307.04964).
    mask = torch.tensor([[1, 1, 1, 0]])
    log_ratio = torch.tensor([[0.2, -0.1, 0.4, NAN]])
    rewards = -0.05 * functional.kl_estimate(log_ratio, torch.zeros(1, 4), "k1", mask=mask)
    rewards = rewards + functional.place_at_last_token(torch.tensor([0.8]), mask)
    assert functional.sequence_reward(rewards, mask).item() == pytest.approx(0.8 - 0.05 * 0.5)


SCORE = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)
GROUP = torch.zeros(4, dtype=torch.int64)


def test_group_advantages_by_hand() -> None:
    # mean .25, squares .5625 + 3 * .0625 = .75: deviation .5 (n - 1) or .433013 (n)
    close(functional.group_relative(SCORE, GROUP), [1.499997, -0.499999, -0.499999, -0.499999])
    close(functional.group_relative(SCORE, GROUP, epsilon=1e-4), [1.4997, -0.4999, -0.4999, -0.4999], 1e-6)
    population = functional.group_relative(SCORE, GROUP, unbiased=False, epsilon=1e-12)
    close(population, [1.732051, -0.577350, -0.577350, -0.577350])
    close(functional.group_relative(SCORE, GROUP, scale="none"), [0.75, -0.25, -0.25, -0.25])
    close(functional.leave_one_out(SCORE, GROUP), [1, -1 / 3, -1 / 3, -1 / 3])
    close(functional.group_mean(SCORE, GROUP), [0.25] * 4)


def test_batch_scale() -> None:
    score = torch.tensor([1.0, 3.0, 10.0, 10.0], dtype=torch.float64)
    group = torch.tensor([5, 5, 2, 2])
    # mean 6, squares 25 + 9 + 16 + 16 = 66: deviation sqrt(22); the group mean is still the group's
    root = 22**0.5
    close(functional.group_relative(score, group, scale="batch", epsilon=1e-12), [-1 / root, 1 / root, 0, 0])
    root = 16.5**0.5
    close(
        functional.group_relative(score, group, scale="batch", unbiased=False, epsilon=1e-12),
        [-1 / root, 1 / root, 0, 0],
    )


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("value", [0.1, 1000.1, 1e7 + 0.3])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 8])
def test_a_group_without_spread_gets_exactly_zero(scale: str, value: float, size: int) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        score = torch.cat([torch.full((size,), value), torch.tensor([0.0, 1.0])]).to(dtype)
        group = torch.tensor([1] * size + [0, 0])
        assert (functional.group_relative(score, group, scale)[:size] == 0).all()


def test_a_spread_of_rounding_noise_gets_zero_too() -> None:
    score = torch.tensor([1.0, 1.0 + 1e-9], dtype=torch.float64)
    assert functional.group_relative(score, GROUP[:2]).tolist() == [0, 0]


def test_unscored_answers_are_left_out() -> None:
    score = torch.tensor([1.0, NAN, 0.0, 0.0, NAN, 0.0, NAN, NAN, 4.0], dtype=torch.float64)
    group = torch.tensor([0, 0, 0, 0, 0, 0, 3, 3, 3])
    scored = torch.tensor([True, False, True, True, False, True, False, False, True])
    for scale in ("group", "none"):
        alone = functional.group_relative(score[[0, 2, 3, 5]], group[[0, 2, 3, 5]], scale)
        result = functional.group_relative(score, group, scale)
        torch.testing.assert_close(result[[0, 2, 3, 5]], alone)
        assert (result[~scored] == 0).all()
        assert result[8].item() == 0
    batch = functional.group_relative(score, group, "batch")
    torch.testing.assert_close(batch[scored], functional.group_relative(score[scored], group[scored], "batch"))
    result = functional.leave_one_out(score, group)
    close(result, [1, 0, -1 / 3, -1 / 3, 0, -1 / 3, 0, 0, 0])
    assert functional.group_mean(score, group).tolist() == [0.25] * 6 + [4] * 3
    assert functional.group_mean(torch.tensor([NAN, NAN]), torch.tensor([1, 1])).isnan().all()


@pytest.mark.parametrize("seed", range(5))
def test_group_functions_follow_permutations_and_relabelling(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    group = torch.cat([torch.arange(6).repeat_interleave(2), torch.randint(6, (18,), generator=generator)])
    score = torch.randn(30, generator=generator)
    score[::7] = NAN
    order = torch.randperm(30, generator=generator)
    names = torch.tensor([17, -4, 900, 3, 2**40, 0])
    for function in (
        functional.group_mean,
        functional.leave_one_out,
        functional.group_relative,
        lambda s, g: functional.group_relative(s, g, "batch"),
        lambda s, g: functional.group_relative(s, g, "none", unbiased=False),
    ):
        plain = function(score, group)
        torch.testing.assert_close(function(score[order], names[group[order]]), plain[order], equal_nan=True)


@pytest.mark.parametrize("seed", range(5))
def test_advantages_of_a_group_sum_to_zero_and_ignore_a_constant(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    group = torch.arange(4).repeat_interleave(5)
    score = torch.randn(20, generator=generator, dtype=torch.float64)
    for function in (functional.group_relative, functional.leave_one_out):
        advantage = function(score, group)
        assert advantage.reshape(4, 5).sum(1).abs().max().item() < 1e-9
        torch.testing.assert_close(function(score + group * 3.0, group), advantage)
    torch.testing.assert_close(
        functional.group_relative(score * 7, group, epsilon=1e-12),
        functional.group_relative(score, group, epsilon=1e-12),
    )


def test_leave_one_out_is_the_mean_of_the_others() -> None:
    score = torch.tensor([3.0, 1.0, 8.0, 2.0, 6.0])
    group = torch.tensor([0, 1, 0, 1, 0])
    close(functional.leave_one_out(score, group), [3 - 7, 1 - 2, 8 - 4.5, 2 - 1, 6 - 5.5])


def test_dtypes() -> None:
    assert functional.group_relative(torch.tensor([1, 0]), torch.tensor([0, 0])).dtype == torch.float32
    assert functional.leave_one_out(torch.tensor([1.0, 0.0]).bfloat16(), torch.tensor([0, 0])).dtype == torch.float32
    assert functional.group_mean(SCORE, GROUP).dtype == torch.float64
    empty = torch.zeros(0)
    assert functional.group_relative(empty, empty.long()).shape == (0,)


def test_broadcast_to_tokens() -> None:
    mask = torch.tensor([[1, 0, 1], [0, 0, 0]])
    assert functional.broadcast_to_tokens(torch.tensor([2.0, NAN]), mask).tolist() == [[2, 0, 2], [0, 0, 0]]


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"at least two samples per group; 1 group.s. have one, e.g. group 7"):
        functional.leave_one_out(torch.ones(3), torch.tensor([1, 1, 7]))
    with pytest.raises(ValueError, match="choose one of group, batch, none"):
        functional.group_relative(SCORE, GROUP, scale="std")
    with pytest.raises(ValueError, match="infinite"):
        functional.group_mean(torch.tensor([INF, 1.0]), torch.tensor([0, 0]))
    with pytest.raises(ValueError, match="integers"):
        functional.group_mean(SCORE, SCORE)
    with pytest.raises(ValueError, match="shapes must be equal"):
        functional.group_mean(SCORE, GROUP[:2])
    with pytest.raises(ValueError, match=r"score must have shape \[B\]"):
        functional.group_mean(SCORE[None], GROUP[None])
    with pytest.raises(ValueError, match="gamma must lie in"):
        functional.gae(REWARDS, VALUES, ONES, 1.1, 1.0)
    with pytest.raises(ValueError, match="shapes must be equal"):
        functional.gae(REWARDS, VALUES[:, :3], ONES, 1.0, 1.0)


def test_remax_by_hand() -> None:
    """β = 0.05, γ = 0.99, difference 2, log-ratios (0.1, −0.2, 0.4): the released form, and its loss."""
    penalty = -0.05 * torch.tensor([[0.1, -0.2, 0.4, 9.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, True, False]])
    two = torch.tensor([2.0], dtype=torch.float64)
    made = functional.remax(two, penalty, mask, 0.99, to_go=False)
    expected = torch.tensor([[1.935598, 1.970200, 1.960000, 0]], dtype=torch.float64)
    torch.testing.assert_close(made, expected, atol=1e-6, rtol=0)
    logprobs = torch.tensor([[-1.0, -2.0, -0.5, 0.0]], dtype=torch.float64)
    loss = functional.masked_mean(functional.reinforce(logprobs, made), mask)
    assert float(loss) == pytest.approx(2.285333, abs=1e-6)
    whole = functional.remax(two, penalty, mask)
    torch.testing.assert_close(whole, torch.tensor([[1.985, 1.99, 1.98, 0]], dtype=torch.float64))


def test_the_anchor_of_a_group() -> None:
    score = torch.tensor([1.0, 5.0, 2.0, 3.0, float("nan")])
    group = torch.tensor([7, 7, 9, 9, 11])
    found = functional.anchor_score(score, group, torch.tensor([True, False, False, False, True]))
    torch.testing.assert_close(found, torch.tensor([1.0, 1, torch.nan, torch.nan, torch.nan]), equal_nan=True)


@pytest.mark.parametrize(
    ("p", "high", "low", "without", "greedy"),
    [(0.7, 1.0, 0.5, 0.17745, 0.05145), (0.7, 1.0, 0.0, 0.0378, 0.2058), (0.9, 1.0, 0.2, 0.014112, 0.093312)],
)
def test_variance_of_the_greedy_baseline_for_two_answers(
    p: float, high: float, low: float, without: float, greedy: float
) -> None:
    """It is smaller than without baseline if and only if p < ½ + ½ r₂ / (r₁ − r₂), and the mean is the exact gradient."""
    probability, reward = torch.tensor([[p, 1 - p], [high, low]], dtype=torch.float64)
    score_function = torch.eye(2).double() - probability  # ∇ log π of each answer in both logits
    exact = (probability * reward) @ score_function
    for anchor, variance in (([], without), ([high], greedy)):
        scores = torch.cat((reward, torch.tensor(anchor, dtype=torch.float64)))
        marked = torch.arange(len(scores)) >= 2
        baseline = functional.anchor_score(scores, torch.zeros(len(scores), dtype=torch.int64), marked)[:2]
        weight = functional.remax(reward - baseline.nan_to_num(), torch.zeros(2, 1).double(), torch.ones(2, 1))
        sample = weight * score_function
        torch.testing.assert_close(probability @ sample, exact)
        assert float(probability @ sample.square().sum(1) - exact.square().sum()) == pytest.approx(variance, abs=1e-9)
    assert (greedy < without) == (p < 0.5 + 0.5 * low / (high - low))
