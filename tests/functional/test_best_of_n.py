"""Best of n, what imitating it with a prior leads to, and the inverse loss: numbers by hand."""

from __future__ import annotations

import math

import pytest
import torch

from fairlead import functional

KEPT = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
PRIOR = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)


def test_best_of_four() -> None:
    probability = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    found = functional.best_of_n(probability, torch.tensor([0.0, 1.0, 2.0]), 4)
    # F⁴: 0.5⁴, 0.8⁴, 1
    assert found.tolist() == pytest.approx([0.0625, 0.3471, 0.5904])
    shuffled = functional.best_of_n(probability[[2, 0, 1]], torch.tensor([2.0, 0.0, 1.0]), 4)
    assert shuffled.tolist() == pytest.approx([0.5904, 0.0625, 0.3471])
    torch.testing.assert_close(functional.best_of_n(probability, torch.tensor([5.0, 3.0, 4.0]), 1), probability)


def test_among_equals_every_draw_is_as_likely() -> None:
    probability = torch.tensor([0.5, 0.3, 0.2, 0.0], dtype=torch.float64)
    found = functional.best_of_n(probability, torch.tensor([0.0, 1.0, 1.0, 9.0]), 2)
    assert found.tolist() == pytest.approx([0.25, 0.75 * 0.6, 0.75 * 0.4, 0.0])


@pytest.mark.parametrize(("n", "bound"), [(16, 1.835), (32, 2.497)])
def test_best_of_n_goes_no_further_than_a_bound(n: int, bound: float) -> None:
    assert math.log(n) - (n - 1) / n == pytest.approx(bound, abs=1e-3)
    many = torch.full((4000,), 1 / 4000, dtype=torch.float64)
    fine = functional.best_of_n(many, torch.arange(4000), n)
    assert bound - 0.01 < float((fine * (fine / many).log()).sum()) <= bound + 1e-3
    coarse = functional.best_of_n(PRIOR, torch.arange(3), n)
    assert float((coarse * (coarse / PRIOR).log()).sum()) < bound


def test_where_imitation_with_a_prior_comes_to_rest() -> None:
    found = functional.imitation_with_prior(KEPT, PRIOR, 0.35)
    assert found.tolist() == pytest.approx([0.5704, 0.2259, 0.2037], abs=1e-4)
    torch.testing.assert_close(functional.imitation_with_prior(KEPT, PRIOR, 0.0), KEPT)
    torch.testing.assert_close(functional.imitation_with_prior(KEPT, PRIOR, 1e9), PRIOR)
    logits = found.log().requires_grad_()
    loss = -(KEPT * torch.log_softmax(logits, 0)).sum()
    loss = loss + 0.35 * functional.vocabulary_kl(logits[None], PRIOR.log()[None], towards_reference=False).sum()
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, torch.zeros(3, dtype=torch.float64))
    # With the other divergence it is no place of rest.
    other = -(KEPT * torch.log_softmax(logits, 0)).sum()
    other = other + 0.35 * functional.vocabulary_kl(logits[None], PRIOR.log()[None]).sum()
    assert float(torch.autograd.grad(other, logits)[0].abs().max()) > 0.01


def test_the_inverse_loss() -> None:
    """L + C / L is least at √C, where it is 2 √C."""
    assert functional.inverse_loss_factor(0.5, 0.25) == 0 and 0.5 + 0.25 / 0.5 == 1.0
    for loss in (0.3, 0.8, 2.0):
        x = torch.tensor(loss, requires_grad=True)
        (x + 0.25 / x).backward()
        assert functional.inverse_loss_factor(loss, 0.25) == pytest.approx(float(x.grad or 0.0), abs=1e-6)
    with pytest.raises(ValueError, match="loss must be positive"):
        functional.inverse_loss_factor(0.0, 0.25)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="n must be positive"):
        functional.best_of_n(KEPT, KEPT, 0)
    with pytest.raises(ValueError, match="shapes must be equal"):
        functional.imitation_with_prior(KEPT, PRIOR[:2], 1.0)
