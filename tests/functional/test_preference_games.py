"""Preference games, INPO's loss and the steps of Nash-MD in them: numbers worked out by hand or to convergence."""

from __future__ import annotations

import math

import pytest
import torch

from fairlead import functional

CYCLE = torch.tensor([[0.5, 0.9, 0.2], [0.1, 0.5, 0.8], [0.8, 0.2, 0.5]], dtype=torch.float64)
REFERENCE = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
CURRENT = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)


def pairs(*rows: float) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 2)


def population_loss(policy: torch.Tensor, eta: float, tau: float) -> torch.Tensor:
    """The expected loss over two independent responses of CURRENT, ordered by a draw from CYCLE."""
    total = torch.zeros((), dtype=torch.float64)
    for i in range(3):
        for j in range(3):
            order = [i, j]
            columns = (policy.log()[order][None], REFERENCE.log()[order][None], CURRENT.log()[order][None])
            loss, _ = functional.inpo(*columns, eta, tau)
            # y = i, y' = j: i is the chosen one with probability P(i > j); the other order is the term (j, i).
            total = total + 2 * CURRENT[i] * CURRENT[j] * CYCLE[i, j] * loss[0]
    return total


def test_a_step_of_mirror_descent() -> None:
    step = functional.mirror_descent_step(CURRENT, REFERENCE, CYCLE, eta=1.0, tau=0.2)
    assert step.tolist() == pytest.approx([0.274482, 0.466732, 0.258786], abs=1e-6)


def test_the_minimiser_of_the_loss_is_that_step() -> None:
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = population_loss(torch.softmax(logits, 0), 1.0, 0.2)
        loss.backward()
        return loss

    optimiser.step(closure)
    policy = torch.softmax(logits, 0).detach()
    assert policy.tolist() == pytest.approx([0.274482, 0.466732, 0.258786], abs=1e-5)
    assert float(population_loss(policy, 1.0, 0.2)) == pytest.approx(0.240200, abs=1e-5)


def test_worked_numbers() -> None:
    policy = pairs(-50, -58).requires_grad_()
    loss, statistic = functional.inpo(policy, pairs(-52, -57), pairs(-51, -57.5), eta=7.5e-3, tau=2.5e-3)
    assert statistic.item() == pytest.approx(8 - 5 / 3 - 13 / 3)
    assert loss.item() == pytest.approx((2 - 1 / 0.015) ** 2)
    loss.sum().backward()
    assert policy.grad is not None
    assert policy.grad[0, 0].item() == pytest.approx(2 * (2 - 1 / 0.015))
    assert policy.grad[0, 1].item() == pytest.approx(-2 * (2 - 1 / 0.015))


def test_at_the_start_the_statistic_is_zero_whatever_the_pair() -> None:
    same = pairs(-3.0, -9.0, -1.0, -2.0)
    loss, statistic = functional.inpo(same, same, same, eta=7.5e-3, tau=2.5e-3)
    assert statistic.tolist() == pytest.approx([0, 0])
    assert loss.tolist() == pytest.approx([4444.4444, 4444.4444], abs=1e-3)


def test_tau_chooses_the_anchor() -> None:
    """τ = η is IPO on whole responses; τ = 0 looks at the previous policy alone. The anchors differ, so swapping them shows."""
    policy, reference, previous = pairs(-5, -8), pairs(-6, -7), pairs(-4, -9)
    assert functional.inpo(policy, reference, previous, 0.5, 0.5)[1].item() == pytest.approx(3 - 1)
    assert functional.inpo(policy, reference, previous, 0.5, 0.0)[1].item() == pytest.approx(3 - 5)
    assert functional.inpo(policy, reference, previous, 0.5, 0.1)[1].item() == pytest.approx(3 - 0.2 * 1 - 0.8 * 5)


def test_no_gradient_through_the_anchors() -> None:
    anchors = [pairs(-6, -7).requires_grad_(), pairs(-4, -9).requires_grad_()]
    functional.inpo(pairs(-5, -8).requires_grad_(), *anchors, 0.5, 0.1)[0].sum().backward()
    assert [anchor.grad for anchor in anchors] == [None, None]


@pytest.mark.parametrize("eta", [20.0, 2.0, 0.5])
def test_exact_steps_end_at_the_nash_policy(eta: float) -> None:
    reference = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    nash = functional.nash_policy(reference, CYCLE, 0.1)
    assert nash.tolist() == pytest.approx([0.492747, 0.154147, 0.353106], abs=1e-6)
    policy = reference
    for _ in range(6000):
        policy = functional.mirror_descent_step(policy, reference, CYCLE, eta, 0.1)
    assert float((nash * (nash / policy).log()).sum()) < 1e-12
    # A fixed point of every step size, and of its own definition.
    assert functional.mirror_descent_step(nash, reference, CYCLE, eta, 0.1).tolist() == pytest.approx(nash.tolist())
    assert torch.softmax(reference.log() + CYCLE @ nash / 0.1, 0).tolist() == pytest.approx(nash.tolist())


def test_a_bold_step_goes_round_in_circles() -> None:
    reference = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    policy = reference
    for _ in range(2000):
        policy = functional.mirror_descent_step(policy, reference, CYCLE, 0.25, 0.02)
    nash = functional.nash_policy(reference, CYCLE, 0.02)
    assert float((nash * (nash / policy).log()).sum()) > 0.1


def test_exploitability() -> None:
    assert float(functional.exploitability(torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64), CYCLE)) == pytest.approx(
        0
    )
    assert float(functional.exploitability(torch.tensor([1.0, 0, 0], dtype=torch.float64), CYCLE)) == pytest.approx(0.3)


def test_win_rates() -> None:
    preference = torch.tensor([[math.nan, 0.9, 0.2], [0.1, math.nan, math.nan], [0.8, math.nan, math.nan]])
    comparable = ~torch.eye(3, dtype=torch.bool)
    assert functional.win_rates(preference, comparable).tolist() == pytest.approx([0.55, 0.1, 0.8])
    alone = torch.zeros(3, 3, dtype=torch.bool)
    assert bool(functional.win_rates(preference, alone).isnan().all())


def test_bad_input() -> None:
    row = pairs(-1, -2)
    with pytest.raises(ValueError, match=r"tau must lie between 0 and eta \(0\.1\), got 0\.2"):
        functional.inpo(row, row, row, 0.1, 0.2)
    with pytest.raises(ValueError, match="eta must be positive"):
        functional.inpo(row, row, row, 0.0, 0.0)
    with pytest.raises(ValueError, match="shapes must be equal"):
        functional.inpo(row, row[:, :1], row, 0.1, 0.1)
    with pytest.raises(ValueError, match=r"preference must be \[Y, Y\] with Y = 3"):
        functional.exploitability(CURRENT, CYCLE[:2])


# -- Nash-MD --------------------------------------------------------------------------------------------------------------


def kl(p: torch.Tensor, q: torch.Tensor) -> float:
    return float((p * (p / q).log()).sum())


def random_game(seed: int, size: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A preference, a policy and a reference."""
    generator = torch.Generator().manual_seed(seed)
    raw = torch.rand(size, size, generator=generator, dtype=torch.float64)
    logits = torch.randn(2, size, generator=generator, dtype=torch.float64)
    return (raw - raw.T + 1) / 2, torch.softmax(logits[0], 0), torch.softmax(logits[1], 0)


def test_a_step_of_nash_md() -> None:
    mixture = functional.geometric_mixture(CURRENT, REFERENCE, 0.2)
    assert mixture.tolist() == pytest.approx([0.248090, 0.466221, 0.285689], abs=1e-6)
    step = functional.nash_md_step(CURRENT, REFERENCE, CYCLE, eta=1.0, tau=0.2)
    assert step.tolist() == pytest.approx([0.273864, 0.459063, 0.267073], abs=1e-6)


def test_the_ends_of_the_mixture() -> None:
    torch.testing.assert_close(functional.geometric_mixture(CURRENT, REFERENCE, 0.0), CURRENT)
    torch.testing.assert_close(functional.geometric_mixture(CURRENT, REFERENCE, 1.0), REFERENCE)


def test_nash_md_comes_to_rest_with_a_falling_step() -> None:
    reference = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    nash = functional.nash_policy(reference, CYCLE, 0.1)
    policy, found = reference, {}
    for t in range(1000):
        policy = functional.nash_md_step(policy, reference, CYCLE, 2 / (0.1 * (t + 2)), 0.1)
        found[t + 1] = kl(nash, policy)
        assert found[t + 1] <= 8 / (0.1**2 * (t + 2))
    assert found[10] == pytest.approx(1.8e-2, rel=0.05)
    assert found[100] == pytest.approx(1.0e-4, rel=0.1)
    assert found[1000] == pytest.approx(1.1e-6, rel=0.1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("eta", [0.05, 0.5, 2.0])
def test_the_bound_holds_at_every_step(seed: int, eta: float) -> None:
    preference, policy, reference = random_game(seed)
    tau = 0.3
    nash = functional.nash_policy(reference, preference, tau)
    for _ in range(30):
        following = functional.nash_md_step(policy, reference, preference, eta, tau)
        assert kl(nash, following) <= (1 - eta * tau) * kl(nash, policy) + 2 * eta**2
        policy = following


def test_the_expected_coefficient_is_the_gradient() -> None:
    """E[∇ log π(y) · c(y)] over the policy's responses, with the opponent's averaged out, against autograd of the regularised game."""
    theta = torch.tensor([0.2, -0.1, 0.3], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    policy = torch.softmax(theta, 0)
    opponent = functional.geometric_mixture(policy.detach(), reference, 0.25)
    value = policy @ CYCLE @ opponent - 0.1 * (policy * (policy / reference).log()).sum()
    (exact,) = torch.autograd.grad(value, theta)
    policy = policy.detach()
    coefficients = functional.nash_coefficients(
        CYCLE @ opponent, 0.1 * (policy / reference).log()[:, None], torch.ones(3, 1, dtype=torch.bool)
    )
    expected = policy * (coefficients[:, 0] - policy @ coefficients[:, 0])
    assert expected.tolist() == pytest.approx([0.037189, -0.010847, -0.026342], abs=1e-6)
    assert exact.tolist() == pytest.approx(expected.tolist())


def test_the_pull_of_the_mixture_is_a_share_of_that_of_the_reference() -> None:
    theta = torch.tensor([0.2, -0.1, 0.3], dtype=torch.float64, requires_grad=True)
    policy = torch.softmax(theta, 0)
    mixture = functional.geometric_mixture(policy.detach(), REFERENCE, 0.25)
    gradients = [
        torch.autograd.grad((policy * (policy / other).log()).sum(), theta, retain_graph=True)[0]
        for other in (mixture, REFERENCE)
    ]
    torch.testing.assert_close(gradients[0], 0.25 * gradients[1])


def test_coefficients_of_tokens() -> None:
    mask = torch.tensor([[True, True, True], [True, False, False]])
    penalties = torch.tensor([[0.1, -0.2, 0.4], [0.25, 9.0, 9.0]])
    wins = torch.tensor([0.9, 0.25])
    whole = functional.nash_coefficients(wins, penalties, mask)
    torch.testing.assert_close(whole, torch.tensor([[0.1, 0.1, 0.1], [-0.5, 0, 0]]))
    to_go = functional.nash_coefficients(wins, penalties, mask, to_go=True)
    torch.testing.assert_close(to_go, torch.tensor([[0.1, 0.2, 0.0], [-0.5, 0, 0]]))


def test_the_equilibrium_of_a_cycle() -> None:
    """P(1 > 2) = ½ + a, P(2 > 3) = ½ + b, P(3 > 1) = ½ + c: in proportion to (b, c, a) nothing wins more often than it loses."""
    nash = torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64)  # a, b, c = 0.4, 0.3, 0.3
    assert (CYCLE @ nash).tolist() == pytest.approx([0.5, 0.5, 0.5])
    assert float(CURRENT @ CYCLE @ CURRENT) == pytest.approx(0.5)
    weakly = functional.nash_policy(torch.ones(3, dtype=torch.float64) / 3, CYCLE, 0.02)
    assert weakly.tolist() == pytest.approx(nash.tolist(), abs=1e-2)


def test_a_constant_on_all_scores_changes_no_game() -> None:
    scores = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    games = [torch.sigmoid(s[:, None] - s[None, :]) for s in (scores, scores + 7)]
    torch.testing.assert_close(*(functional.nash_policy(REFERENCE, game, 0.1) for game in games))


def test_scores_of_a_preference() -> None:
    scores = torch.tensor([0.5, -1.5, 1.0], dtype=torch.float64)
    preference = torch.sigmoid(scores[:, None] - scores[None, :])
    for frequency in (None, torch.rand(3, 3, dtype=torch.float64) + 0.1):
        torch.testing.assert_close(functional.bradley_terry_scores(preference, frequency), scores)


def test_scores_of_a_cycle_depend_on_the_pairs() -> None:
    """The policies that such scores make are all easier to beat than the regularised Nash policy."""
    reference, tau = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64), 0.05
    found = []
    for frequency in (None, reference[:, None] * reference[None, :]):
        scores = functional.bradley_terry_scores(CYCLE, frequency)
        policy = torch.softmax(reference.log() + scores / tau, 0)
        found.append(float(functional.exploitability(policy, CYCLE)))
    assert found == pytest.approx([0.295, 0.257], abs=1e-3)
    nash = functional.nash_policy(reference, CYCLE, tau)
    assert float(functional.exploitability(nash, CYCLE)) == pytest.approx(0.054, abs=1e-3)


def test_bad_games() -> None:
    with pytest.raises(ValueError, match=r"share must lie in \[0, 1\], got 1.5"):
        functional.nash_md_step(CURRENT, REFERENCE, CYCLE, 3.0, 0.5)
    with pytest.raises(ValueError, match="eta must be positive"):
        functional.nash_md_step(CURRENT, REFERENCE, CYCLE, 0.0, 0.5)
    with pytest.raises(ValueError, match="some response always wins"):
        functional.bradley_terry_scores(torch.tensor([[0.5, 1.0], [0.0, 0.5]], dtype=torch.float64))
