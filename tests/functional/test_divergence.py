"""The KL over the whole vocabulary: its direction, its gradient, and that pieces change nothing."""

from __future__ import annotations

import importlib

import pytest
import torch

from fairlead import functional

POLICY = torch.tensor([[1.0, 0.0, -1.0], [0.0, 0.5, 0.0]], dtype=torch.float64)
BASE = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)


def test_the_direction() -> None:
    """Means over the two tokens of one response; the two directions are told apart."""
    forward = functional.vocabulary_kl(POLICY, BASE, towards_reference=False)
    reverse = functional.vocabulary_kl(POLICY, BASE)
    assert float(forward.mean()) == pytest.approx(0.261036, abs=1e-6)
    assert float(reverse.mean()) == pytest.approx(0.237574, abs=1e-6)
    torch.testing.assert_close(reverse, functional.exact_kl(POLICY, BASE))
    torch.testing.assert_close(forward, functional.exact_kl(BASE, POLICY))


@pytest.mark.parametrize("towards", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_gradient(towards: bool, temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, reference = torch.randn(2, 3, 4, 7, generator=generator, dtype=torch.float64)
    weight = torch.rand(3, 4, generator=generator, dtype=torch.float64)
    found = []
    for kl in ("pieces", "autograd"):
        x, other = logits.clone().requires_grad_(), reference.clone().requires_grad_()
        if kl == "pieces":
            value = functional.vocabulary_kl(x, other, temperature, towards)
        else:
            first, second = x / temperature, other.detach() / temperature
            value = functional.exact_kl(first, second) if towards else functional.exact_kl(second, first)
        (weight * value).sum().backward()
        assert other.grad is None
        found.append((value.detach(), x.grad))
    torch.testing.assert_close(found[0], found[1])


def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, reference = torch.randn(2, 5, 7, 3, generator=generator).bfloat16()
    results = []
    for size in (1 << 24, 12):
        monkeypatch.setitem(importlib.import_module("fairlead.functional.logprobs").PIECE_ELEMENTS, "cpu", size)
        x = logits.clone().requires_grad_()
        value = functional.vocabulary_kl(x, reference)
        value.sum().backward()
        assert value.dtype == torch.float32 and x.grad is not None and x.grad.dtype == torch.bfloat16
        results.append((value.detach(), x.grad))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_positions_that_do_not_count_and_tokens_that_are_forbidden() -> None:
    never = float("-inf")
    logits = torch.tensor([[0.0, never, 1.0], [float("nan"), 0.0, 0.0]], requires_grad=True)
    reference = torch.tensor([[0.5, never, 0.0], [0.0, 0.0, 0.0]])
    for towards in (True, False):
        logits.grad = None
        value = functional.vocabulary_kl(logits, reference, towards_reference=towards)
        (torch.tensor([1.0, 0.0]) * value.nan_to_num()).sum().backward()
        assert logits.grad is not None and logits.grad.isfinite().all() and not logits.grad[1].any()
        assert value[0].item() > 0


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="shapes must be equal"):
        functional.vocabulary_kl(POLICY, BASE[:, :2])
    with pytest.raises(ValueError, match="temperature must be positive"):
        functional.vocabulary_kl(POLICY, BASE, 0.0)
