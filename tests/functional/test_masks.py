"""Sums, means and weights under a mask."""

import pytest
import torch

from fairlead import functional

NAN, INF = float("nan"), float("inf")


def test_masked_sum_and_mean_by_hand() -> None:
    x = torch.tensor([[1.0, 2.0, NAN], [4.0, INF, 6.0]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 1]])
    assert functional.masked_sum(x, mask).item() == 13
    assert functional.masked_sum(x, mask, dim=1).tolist() == [3, 10]
    assert functional.masked_mean(x, mask).item() == 3.25
    assert functional.masked_mean(x, mask, dim=1).tolist() == [1.5, 5]
    assert functional.masked_mean(x, mask, dim=0).tolist() == [2.5, 2, 6]


def test_mean_of_an_empty_mask_is_zero() -> None:
    x = torch.tensor([[NAN, NAN], [1.0, 3.0]])
    mask = torch.tensor([[0, 0], [1, 1]])
    assert functional.masked_mean(x, mask, dim=1).tolist() == [0, 2]
    assert functional.masked_mean(x, torch.zeros_like(mask)).item() == 0
    assert functional.masked_variance(x, torch.zeros_like(mask)).item() == 0


def test_means_of_half_precision_and_integers_are_float32() -> None:
    x = torch.full((1, 4096), 1.0009765625, dtype=torch.float16)
    assert functional.masked_mean(x, torch.ones_like(x)).item() == 1.0009765625
    assert functional.masked_mean(torch.tensor([1, 2]), torch.tensor([1, 1])).item() == 1.5


def test_variance_equals_the_pooled_moments_of_ppo_max() -> None:
    # Batches [1,2,3,4] and [2,2,6,6] (Secrets of RLHF, arXiv 2307.04964): running (mean, deviation) is (2.5, 1.290994),
    # then (3.25, 1.908627):
    # squares about 3.25 are 5.0625 + 3 * 1.5625 + .0625 + .5625 + 2 * 7.5625 = 25.5, sqrt(25.5 / 7).
    x = torch.tensor([1.0, 2, 3, 4, 2, 2, 6, 6])
    first = torch.tensor([1, 1, 1, 1, 0, 0, 0, 0])
    assert functional.masked_variance(x, first).sqrt().item() == pytest.approx(1.290994, abs=1e-6)
    everything = torch.ones_like(x)
    deviation = functional.masked_variance(x, everything).sqrt()
    assert deviation.item() == pytest.approx(1.908627, abs=1e-6)
    shaped = (x[4:] - functional.masked_mean(x, everything)) / deviation
    torch.testing.assert_close(shaped, torch.tensor([-0.654921, -0.654921, 1.440826, 1.440826]), atol=1e-6, rtol=0)
    assert functional.masked_variance(x, first, unbiased=False).item() == pytest.approx(1.25)
    assert functional.masked_variance(x, torch.tensor([1, 0, 0, 0, 0, 0, 0, 0])).item() == 0


def test_whiten_by_hand() -> None:
    # mean .4113, squares .00058 + .04275 + .00082 + .04464; / 3 unbiased, / 4 biased.
    x = torch.tensor([[0.387072, 0.618023, 0.44, 0.2, NAN]], dtype=torch.float64)
    x[0, :4] = functional.gae(
        torch.tensor([[-0.1, 0, 0.05, 1]], dtype=torch.float64),
        torch.tensor([[0.5, 0.4, 0.6, 0.8]], dtype=torch.float64),
        torch.ones(1, 4),
        1.0,
        0.95,
    )[0]
    mask = torch.tensor([[1, 1, 1, 1, 0]])
    unbiased = torch.tensor([[-0.140529, 1.201687, 0.166978, -1.228136, 0]], dtype=torch.float64)
    biased = torch.tensor([[-0.162269, 1.387589, 0.192809, -1.418129, 0]], dtype=torch.float64)
    torch.testing.assert_close(functional.whiten(x, mask), unbiased, atol=1e-6, rtol=0)
    torch.testing.assert_close(functional.whiten(x, mask, unbiased=False), biased, atol=1e-6, rtol=0)


def test_whiten_without_shift_keeps_the_mean() -> None:
    x = torch.tensor([1.0, 2.0, 6.0, NAN])
    mask = torch.tensor([1, 1, 1, 0])
    white = functional.whiten(x, mask, shift_mean=False)
    assert functional.masked_mean(white, mask).item() == pytest.approx(3)
    assert functional.masked_variance(white, mask).item() == pytest.approx(1)
    assert white[3].item() == 0


def test_whiten_is_idempotent_and_gives_zero_for_a_constant() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 7, generator=generator) * 3 + 2
    mask = torch.rand(5, 7, generator=generator) < 0.7
    once = functional.whiten(x, mask)
    torch.testing.assert_close(functional.whiten(once, mask), once, atol=1e-5, rtol=0)
    assert functional.masked_mean(once, mask).abs().item() < 1e-6
    assert functional.whiten(torch.full((2, 2), 5.0), torch.ones(2, 2)).abs().max().item() == 0


@pytest.mark.parametrize("poison", [NAN, INF, -INF])
def test_nothing_leaks_from_masked_positions(poison: float) -> None:
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    base = torch.tensor([[1.0, 2.0, poison], [4.0, poison, poison]], requires_grad=True)
    for function in (
        functional.masked_sum,
        functional.masked_mean,
        functional.masked_variance,
        functional.sequence_reward,
        functional.whiten,
        functional.mask_out,
    ):
        result = function(base, mask)
        (gradient,) = torch.autograd.grad(result.square().sum(), base)
        assert torch.isfinite(result).all()
        assert torch.isfinite(gradient).all()
        assert (gradient[mask == 0] == 0).all()


def test_last_token_index_and_placing() -> None:
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0], [1, 1, 1, 1]])
    assert functional.last_token_index(mask).tolist() == [1, -1, 2, 3]
    placed = functional.place_at_last_token(torch.tensor([5.0, NAN, 7.0, 8.0]), mask)
    assert placed.tolist() == [[0, 5, 0, 0], [0, 0, 0, 0], [0, 0, 7, 0], [0, 0, 0, 8]]
    assert functional.sequence_reward(placed, mask).tolist() == [5, 0, 7, 8]
    assert functional.last_token_index(torch.zeros(2, 0)).tolist() == [-1, -1]


def test_aggregation_by_hand() -> None:
    # A = (+1, -1), lengths (2, 4), rho = 1: per-token losses are -1 and +1.
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    loss = torch.tensor([[-1.0, -1.0, NAN, NAN], [1.0, 1.0, 1.0, 1.0]])

    def total(mode: str, maximum_length: int | None = None) -> float:
        weights = functional.aggregation_weights(mask, mode, maximum_length=maximum_length)
        return functional.masked_sum(loss * weights, mask).item()

    assert total("token-mean") == pytest.approx(2 / 6)
    assert total("sequence-mean-token-mean") == pytest.approx(0)
    assert total("sequence-mean-token-sum") == pytest.approx(1)  # (-2 + 4) / 2
    assert total("constant-length", 8) == pytest.approx(0.125)  # 2 / (2 * 8)


def test_long_wrong_answers_weigh_less_under_sequence_means() -> None:
    mask = torch.zeros(2, 8)
    mask[0, :2], mask[1] = 1, 1
    weights = functional.aggregation_weights(mask, "sequence-mean-token-mean")
    assert (weights[1, 0] / weights[0, 0]).item() == pytest.approx(0.25)
    weights = functional.aggregation_weights(mask, "constant-length", maximum_length=8)
    assert (weights[1, 0] / weights[0, 0]).item() == 1


MODES = ["token-mean", "sequence-mean-token-mean", "sequence-mean-token-sum", "constant-length"]


@pytest.mark.parametrize("mode", MODES[:2])
@pytest.mark.parametrize("weighted", [False, True])
def test_means_have_weights_that_sum_to_one(mode: str, weighted: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(20, 9, generator=generator) < 0.4
    mask[3] = False
    row_weight = torch.rand(20, generator=generator) if weighted else None
    weights = functional.aggregation_weights(mask, mode, row_weight)
    assert weights.sum().item() == pytest.approx(1, abs=1e-6)
    assert (weights[~mask] == 0).all()


@pytest.mark.parametrize("mode", MODES)
def test_row_weights_remove_and_repeat_rows(mode: str) -> None:
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 0, 0]])
    x = torch.arange(16.0).reshape(4, 4)

    def total(rows: list[int], row_weight: list[float] | None) -> float:
        weight = None if row_weight is None else torch.tensor(row_weight)
        weights = functional.aggregation_weights(mask[rows], mode, weight, maximum_length=4)
        return (weights * x[rows]).sum().item()

    assert total([0, 1, 2, 3], [1, 0, 2, NAN]) == pytest.approx(total([0, 2, 2], None))
    assert total([0, 1, 2, 3], [3, 0, 6, 1]) == pytest.approx(total([0, 2, 2], None))
    assert total([0, 1, 3], None) == pytest.approx(total([0, 1], None)), "an empty row is left out of the row count"


@pytest.mark.parametrize("mode", MODES)
def test_weights_of_nothing_are_zero(mode: str) -> None:
    mask = torch.zeros(2, 3)
    assert functional.aggregation_weights(mask, mode, maximum_length=3).abs().sum().item() == 0
    no_weight = functional.aggregation_weights(torch.ones(2, 3), mode, torch.zeros(2), maximum_length=3)
    assert no_weight.abs().sum().item() == 0


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"x \[2\], mask \[3\]"):
        functional.masked_mean(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="token-mean, sequence-mean-token-mean"):
        functional.aggregation_weights(torch.ones(1, 1), "tokenmean")
    with pytest.raises(ValueError, match="needs maximum_length"):
        functional.aggregation_weights(torch.ones(1, 1), "constant-length")
    with pytest.raises(ValueError, match="not negative"):
        functional.aggregation_weights(torch.ones(2, 1), "token-mean", torch.tensor([1.0, -1.0]))
    with pytest.raises(ValueError, match="rows"):
        functional.aggregation_weights(torch.ones(2, 1), "token-mean", torch.ones(3))
    with pytest.raises(ValueError, match=r"\[B, T\]"):
        functional.last_token_index(torch.ones(3))
    with pytest.raises(ValueError, match="score has 3 rows but mask has 2"):
        functional.place_at_last_token(torch.ones(3), torch.ones(2, 2))
    with pytest.raises(ValueError, match="epsilon"):
        functional.whiten(torch.ones(2), torch.ones(2), epsilon=0.0)
