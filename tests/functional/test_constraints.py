"""Lagrangians, multipliers, pessimistic costs and confidence bounds: numbers by hand and by enumeration."""

from __future__ import annotations

import math

import pytest
import torch

from fairlead import functional


def test_the_lagrangian_by_hand() -> None:
    reward, cost = torch.tensor([3.0, 1.0]), torch.tensor([1.0, -1.0])
    assert functional.lagrangian(reward, [cost], [2.0]).tolist() == pytest.approx([1 / 3, 1.0])
    assert functional.lagrangian(reward, [cost], [2.0], [False]).tolist() == [1.0, 3.0]
    # (3 − 1·1 − 2·4) / (1 + 1): the second constraint does not divide
    assert functional.lagrangian(reward[:1], [cost[:1], 4 * cost[:1]], [1.0, 2.0], [True, False]).tolist() == [-3.0]
    assert torch.equal(functional.lagrangian(reward, [], []), reward)
    with pytest.raises(ValueError, match="must not be negative"):
        functional.lagrangian(reward, [cost], [-1.0])


def test_gae_of_the_mixture_is_the_mixture_of_gae() -> None:
    """(A_R − λ A_C) / (1 + λ), the advantage of Safe RLHF."""
    generator = torch.Generator().manual_seed(0)
    reward, cost, values, cost_values = torch.randn(4, 3, 5, generator=generator, dtype=torch.float64)
    mask = torch.ones(3, 5, dtype=torch.bool)
    mixed = functional.gae(
        functional.lagrangian(reward, [cost], [1.7]), functional.lagrangian(values, [cost_values], [1.7]), mask, 1, 0.9
    )[0]
    ours, theirs = functional.gae(reward, values, mask, 1, 0.9)[0], functional.gae(cost, cost_values, mask, 1, 0.9)[0]
    torch.testing.assert_close(mixed, (ours - 1.7 * theirs) / 2.7)


def test_dual_ascent() -> None:
    one = torch.tensor(1.0, dtype=torch.float64)
    k = functional.pessimism(0.1, 256, 1000)
    excess = 0.2 + k
    assert excess == pytest.approx(0.320858, abs=1e-6)
    assert float(functional.dual_ascent(one, excess * one, 0.01).log()) == pytest.approx(0.00320858, abs=1e-8)
    assert float(functional.dual_ascent(2 * one, 0.5 * one, 0.1).log()) == pytest.approx(math.log(2) + 0.1)
    assert float(functional.dual_ascent(one, -3 * one, 0.1, logarithmic=False)) == pytest.approx(0.7)
    assert float(functional.dual_ascent(one, -30 * one, 0.1, logarithmic=False)) == 0.0
    assert float(functional.dual_ascent(one, 30 * one, 1.0, maximum=5.0)) == 5.0


def test_pessimism() -> None:
    assert functional.student_quantile(0.9, 99) == pytest.approx(1.290161, abs=1e-6)
    assert functional.student_quantile(0.9, 255) == pytest.approx(1.284880, abs=1e-6)
    assert functional.student_quantile(0.9, 999) == pytest.approx(1.282400, abs=1e-6)
    for count, share in ((100, 0.129016), (256, 0.080305), (1000, 0.040553)):
        assert functional.pessimism(0.1, count, 50, 1, 0) == pytest.approx(share, abs=1e-6)
        assert functional.pessimism(0.1, 50, count, 0, 1) == pytest.approx(share, abs=1e-6)


def test_pessimistic_cost_by_hand() -> None:
    cost = torch.tensor([-1.0, 2.0, 0.5])
    assert float(cost.mean()) == 0.5 and float(cost.std()) == 1.5
    found = functional.pessimistic_cost(cost, cost.mean(), cost.std(), 0.12)
    assert found.tolist() == pytest.approx([-0.92, 2.08, 0.49])
    assert torch.equal(functional.pessimistic_cost(cost, 0.5, 1.5, 0.0), cost)
    assert bool(functional.pessimistic_cost(torch.ones(3), 1.0, 0.0, 0.1).isfinite().all())


def test_the_pessimistic_cost_has_the_gradient_of_the_inflated_mean() -> None:
    logits = torch.randn(6, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    cost, k = torch.tensor([0.3, -1.0, 2.0, 0.5, -0.2, 1.1], dtype=torch.float64), 0.3
    p = logits.softmax(0)
    mean = (p * cost).sum()
    deviation = ((p * cost.square()).sum() - mean.square()).sqrt()
    (gradient,) = torch.autograd.grad(mean + k * deviation, logits)
    p, mean, deviation = p.detach(), mean.detach(), deviation.detach()
    inflated = functional.pessimistic_cost(cost, mean, deviation, k)
    assert float((p * (inflated - (p * inflated).sum()) - gradient).abs().max()) < 1e-10


def test_the_loss_of_a_cost_model() -> None:
    safer, worse = torch.tensor([-1.0, 0.5]), torch.tensor([2.0, 0.5])
    signs = torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 1.0])

    def log_sigmoid(x: float) -> float:
        return -math.log1p(math.exp(-x))

    plain = [-log_sigmoid(3), math.log(2)]
    assert functional.cost_model_loss(safer, worse).tolist() == pytest.approx(plain)
    signed = [plain[0] - 0.5 * (log_sigmoid(1) + log_sigmoid(2)), plain[1] - 0.5 * log_sigmoid(0.5)]
    assert functional.cost_model_loss(safer, worse, *signs, sign_coefficient=0.5).tolist() == pytest.approx(signed)
    decayed = [plain[0] + 0.1 * 2.5, plain[1] + 0.1 * 0.25]
    assert functional.cost_model_loss(safer, worse, decay=0.1).tolist() == pytest.approx(decayed)


COSTS = torch.tensor([-1.2, -0.4, 0.3, -2.0, -0.7], dtype=torch.float64)


def test_student_bounds() -> None:
    assert float(COSTS.mean()) == pytest.approx(-0.8) and float(COSTS.std()) == pytest.approx(0.863134, abs=1e-6)
    assert functional.mean_bound(COSTS, 0.05) == pytest.approx(0.022904, abs=1e-6)
    assert functional.mean_bound(COSTS, 0.1) == pytest.approx(-0.208174, abs=1e-6)


def test_bounds_of_bounded_costs() -> None:
    costs, root = torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64), math.sqrt(math.log(10) / 8)
    assert functional.mean_bound(costs, 0.1, "hoeffding", 0, 1) == pytest.approx(0.5 + root)
    bernstein = 0.5 + math.sqrt(1 / 3) * math.sqrt(2 * math.log(20) / 4) + 7 * math.log(20) / 9
    assert functional.mean_bound(costs, 0.1, "bernstein", 0, 1) == pytest.approx(bernstein)
    # A share of 0.536 is moved from the two zeros (0.5) and a bit of the ones to 1.
    assert functional.mean_bound(costs, 0.1, "anderson", high=1) == pytest.approx(1.0)
    assert functional.mean_bound(costs, 0.1, "anderson", high=2) == pytest.approx(2 * root + (1 - root))
    many = torch.arange(100, dtype=torch.float64)
    share = math.sqrt(math.log(10) / 200)  # 0.1073 of the tail 0.2 at 100; then 9.27 of the largest hundredths
    rest = (0.2 - share) * 100
    tail = share * 100 + (sum(99 - i for i in range(9)) + (rest - 9) * 90) / 100
    assert functional.tail_bound(many, 0.1, 100, 0.2) == pytest.approx(tail / 0.2)
    with pytest.raises(ValueError, match="largest possible cost"):
        functional.mean_bound(many, 0.1, "hoeffding", 0, 50)


def test_the_bound_of_a_share() -> None:
    assert functional.share_bound(0, 10, 0.1) == pytest.approx(1 - 0.1**0.1)
    assert functional.share_bound(10, 10, 0.1) == 1.0


@pytest.mark.parametrize("bound", functional.MEAN_BOUNDS)
def test_bounds_cover(bound: str) -> None:
    """Uniform costs of true mean 0.5: the bound lies below it in at most a tenth of 300 samples, and some noise."""
    generator = torch.Generator().manual_seed(2)
    samples = torch.rand(30 if bound == "bootstrap" else 300, 40, generator=generator, dtype=torch.float64)
    missed = sum(functional.mean_bound(sample, 0.1, bound, 0, 1) < 0.5 for sample in samples) / len(samples)
    assert missed <= 0.1 + 3 * math.sqrt(0.09 / len(samples))
