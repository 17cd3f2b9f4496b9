"""The loops over the vocabulary against torch's own operations in double precision."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("numba", reason="the extra `fast`")
from fairlead.functional import token_logprobs, token_logprobs_and_entropy
from fairlead.loops import vocabulary


def numbers(precision: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(30, 131, generator=generator)).to(precision)
    logits[3, :60] = -torch.inf
    logits[4, 7] = 90.0  # all the others are impossible in float32
    tokens = torch.randint(61, 131, (30,), generator=generator)
    return logits, tokens


@pytest.mark.parametrize("wanted", ["log-probability", "entropy", "both"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_against_double_precision(precision: torch.dtype, temperature: float, wanted: str) -> None:
    logits, tokens = numbers(precision)
    results = []
    for x in (logits, logits.double()):  # loops do not know double precision
        x = x.clone().requires_grad_()
        outputs = list(token_logprobs_and_entropy(x, tokens, temperature))
        chosen = {"log-probability": outputs[:1], "entropy": outputs[1:], "both": outputs}[wanted]
        upstream = [torch.linspace(-1, 1, 30, dtype=output.dtype) for output in chosen]
        results.append([*outputs, *torch.autograd.grad(chosen, x, upstream)])
    for one, two in zip(results[0][:2], results[1][:2], strict=True):
        torch.testing.assert_close(one.double(), two, rtol=1e-5, atol=1e-5)
    rtol = 2**-8 + 1e-4 if precision == torch.bfloat16 else 1e-4
    torch.testing.assert_close(results[0][2].double(), results[1][2], rtol=rtol, atol=1e-6)
    assert (results[0][2][3, :60] == 0).all()


def test_it_is_used() -> None:
    logits, tokens = numbers(torch.float32)
    by_hand = vocabulary.logprobs_and_entropy(logits, tokens, 1.0)
    assert torch.equal(by_hand[0], token_logprobs(logits, tokens))
    torch.testing.assert_close(by_hand[2].sum(0), logits.logsumexp(-1))


def test_where_nothing_is_learned_the_gradient_is_zero_whatever_the_logits() -> None:
    logits, tokens = numbers(torch.float32)
    logits[0] = torch.nan
    logits.requires_grad_()
    logprobs = token_logprobs(logits, tokens)
    assert logprobs[0].isnan()
    (gradient,) = torch.autograd.grad(logprobs, logits, torch.arange(30.0))
    assert (gradient[0] == 0).all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("token", [-1, 131])
def test_a_token_outside_the_vocabulary(token: int) -> None:
    logits, tokens = numbers(torch.float32)
    tokens[5] = token
    with pytest.raises(RuntimeError):
        token_logprobs(logits, tokens)
