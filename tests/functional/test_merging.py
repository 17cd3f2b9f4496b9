"""Merging: worked out by hand, and the identities that averages keep."""

from __future__ import annotations

import math

import pytest
import torch

from fairlead import functional
from fairlead.functional import drop_and_rescale, elect_and_average, keep_largest, slerp, weighted_sum


def test_weighted_sum() -> None:
    a, b = torch.tensor([[1.0, -2.0]]), torch.tensor([[3.0, 2.0]])
    assert weighted_sum([a, b], [0.25, 0.75]).tolist() == [[2.5, 1.0]]
    assert weighted_sum([a], [1.0]).tolist() == a.tolist()
    close = torch.tensor([1.0], dtype=torch.bfloat16), torch.tensor([1.0078125], dtype=torch.bfloat16)
    assert weighted_sum(close, [0.5, 0.5]).tolist() == [1.00390625]  # bfloat16 has no number between the two
    with pytest.raises(ValueError, match="as many weights as tensors"):
        weighted_sum([a, b], [1.0])
    with pytest.raises(ValueError, match="shapes must be equal"):
        weighted_sum([a, b[0]], [0.5, 0.5])


def test_slerp() -> None:
    """A quarter circle: the middle of (1, 0) and (0, 1) lies at 45 degrees, on the circle."""
    x, y = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    half = math.sqrt(0.5)
    assert slerp(x, y, 0.5).tolist() == pytest.approx([half, half])
    assert slerp(x, y, 1 / 3).tolist() == pytest.approx([math.cos(math.pi / 6), 0.5])
    assert slerp(x, y, 0.0).tolist() == pytest.approx([1, 0]) and slerp(x, y, 1.0).tolist() == pytest.approx(
        [0, 1], abs=1e-7
    )
    # Lengths 1 and 2: sin(30°) / sin(60°) of each at the middle of 60 degrees.
    b = torch.tensor([1.0, math.sqrt(3.0)])
    share = 0.5 / math.sin(math.pi / 3)
    assert slerp(x, b, 0.5).tolist() == pytest.approx([2 * share, share * math.sqrt(3)])
    for other in (2 * x, -x, torch.zeros(2)):
        assert slerp(x, other, 0.25).tolist() == pytest.approx((0.75 * x + 0.25 * other).tolist())


def test_ties() -> None:
    """Two of four entries each are kept; the totals elect +, −, nothing and −; what disagrees is left out of the average."""
    a, b = torch.tensor([3.0, -1.0, 0.5, -4.0]), torch.tensor([-2.0, -5.0, 0.5, 1.0])
    assert keep_largest(a, 0.5).tolist() == [3, 0, 0, -4] and keep_largest(b, 0.5).tolist() == [-2, -5, 0, 0]
    kept = [keep_largest(a, 0.5), keep_largest(b, 0.5)]
    assert elect_and_average(kept, [1.0, 1.0]).tolist() == [3, -5, 0, -4]
    assert elect_and_average([a, b], [1.0, 1.0]).tolist() == [3, -3, 0.5, -4]
    assert elect_and_average([a, b], [1.0, 3.0]).tolist() == [-2, -4, 0.5, -4]
    assert elect_and_average([a, -a], [1.0, 1.0]).tolist() == [0, 0, 0, 0]
    assert keep_largest(torch.ones(4), 0.5).tolist() == [1, 1, 0, 0] and keep_largest(a, 0.01).tolist() == [0, 0, 0, -4]
    assert torch.equal(keep_largest(a, 1.0), a) and keep_largest(torch.tensor(2.0), 0.2) == 2
    with pytest.raises(ValueError, match="negative"):
        elect_and_average([a, b], [1.0, -1.0])


def test_dare() -> None:
    change = torch.arange(1.0, 100_001.0).view(100, 1000)
    thin = drop_and_rescale(change, 0.75, 3)
    kept = thin != 0
    assert float(kept.float().mean()) == pytest.approx(0.25, abs=0.006)
    torch.testing.assert_close(thin[kept], 4 * change[kept])
    assert float(thin.mean() / change.mean()) == pytest.approx(1, abs=0.02)
    assert torch.equal(thin, drop_and_rescale(change, 0.75, 3)) and not torch.equal(
        thin, drop_and_rescale(change, 0.75, 4)
    )
    assert torch.equal(drop_and_rescale(change, 0.75, 3, rescale=False), torch.where(kept, change, 0))
    assert torch.equal(drop_and_rescale(change, 0.0, 3), change)
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        drop_and_rescale(change, 1.0, 0)


def test_soups_of_soups() -> None:
    """Two steps of an average are one with the products of the weights; half of two is all the same to their order."""
    a, b, c = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
    pair = weighted_sum([a, b], [0.5, 0.5])
    torch.testing.assert_close(weighted_sum([pair, c], [2 / 3, 1 / 3]), (a + b + c) / 3)
    assert torch.equal(pair, weighted_sum([b, a], [0.5, 0.5]))
    torch.testing.assert_close(weighted_sum([a, b], [0.3, 0.7]) - a, 0.7 * (b - a))
    # Balanced initialisation at 0.1: base 0.1 and 0.45 of each of the two, in either order of the steps.
    two_steps = weighted_sum([c, pair], [0.1, 0.9])
    torch.testing.assert_close(two_steps, weighted_sum([c, a, b], [0.1, 0.45, 0.45]))
    each = [weighted_sum([c, one], [0.1, 0.9]) for one in (a, b)]
    torch.testing.assert_close(two_steps, weighted_sum(each, [0.5, 0.5]))
    torch.testing.assert_close(two_steps - c, 0.9 * ((a - c) + (b - c)) / 2)


def test_the_optimum_for_a_reference() -> None:
    """p exp(r / β) / Z of KL-regularised reward: what a reference is for."""
    p, r = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.0, 1.0, 2.0])
    optimum = torch.softmax(p.log() + r, dim=-1)
    assert optimum.tolist() == pytest.approx([0.179000, 0.291944, 0.529056], abs=1e-6)
    value = float((optimum * r).sum() - functional.exact_kl(optimum.log(), p.log()))
    assert value == pytest.approx(math.log(float((p * r.exp()).sum())), abs=1e-6)
