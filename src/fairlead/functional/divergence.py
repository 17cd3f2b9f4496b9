"""The Kullback-Leibler divergence of two categorical distributions over the whole vocabulary, in pieces.

Knows logits of two models at the same positions, and the sampling temperature. Does not know models or masks.

As for log-probabilities, the maths runs in float32 over pieces of the logits, forwards and backwards, so that no full-size
float32 twin of a half-precision tensor [B, T, V] ever exists. Only the logits themselves are kept for the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fairlead.functional._checks import require_positive, require_same_shape
from fairlead.functional.logprobs import log_softmax, pieces
from fairlead.functional.masks import mask_out

Piece = tuple[slice, slice]


def vocabulary_kl(
    logits: Tensor, reference_logits: Tensor, temperature: float = 1.0, towards_reference: bool = True
) -> Tensor:
    """KL(pi || ref) at every position, or without `towards_reference` KL(ref || pi), exact over the vocabulary, in nats.

    With p = pi and q = ref the gradient in the logits is p (log p - log q - KL) / temperature, or (p - q) / temperature. The
    reference gets none. A token of probability 0 under the first distribution adds 0.

    Shapes: both [..., T, V]; returns [..., T], float32 (float64 for float64 logits).
    Raises: ValueError when shapes differ or the temperature is not positive.
    """
    require_positive("temperature", temperature)
    require_same_shape(logits=logits, reference_logits=reference_logits)
    shape = logits.shape[:-1]
    length = shape[-1] if shape else 1
    cubes = [x.reshape(-1, length, x.shape[-1]) for x in (logits, reference_logits.detach())]
    found: Tensor = _VocabularyKL.apply(*cubes, temperature, towards_reference)  # type: ignore[no-untyped-call]
    return found.reshape(shape)


class _VocabularyKL(torch.autograd.Function):
    """Keeps both logits, and computes everything else again in backward."""

    @staticmethod
    def forward(logits: Tensor, reference: Tensor, temperature: float, towards_reference: bool) -> Tensor:
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        result = torch.zeros(logits.shape[:-1], dtype=dtype, device=logits.device)
        for piece in pieces(logits):
            logp, logq = (log_softmax(x[piece], temperature) for x in (logits, reference))
            result[piece] = _sum(logp, logq) if towards_reference else _sum(logq, logp)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        logits, reference, ctx.temperature, ctx.towards_reference = inputs
        ctx.save_for_backward(logits, reference)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        logits, reference = ctx.saved_tensors
        result = torch.empty_like(logits)
        for piece in pieces(logits):
            logp, logq = (log_softmax(x[piece], ctx.temperature) for x in (logits, reference))
            if ctx.towards_reference:
                change = logp.exp() * (_difference(logp, logq) - _sum(logp, logq).unsqueeze(-1))
            else:
                change = logp.exp() - logq.exp()
            incoming = upstream[piece].unsqueeze(-1)
            # A position that counts nothing sends back zeros even where its logits are not finite.
            result[piece] = (change * incoming / ctx.temperature).masked_fill_(incoming == 0, 0).to(result.dtype)
        return result, None, None, None


def _difference(log_first: Tensor, log_second: Tensor) -> Tensor:
    possible = log_first > -torch.inf
    return mask_out(log_first, possible) - mask_out(log_second, possible)


def _sum(log_first: Tensor, log_second: Tensor) -> Tensor:
    return (log_first.exp() * _difference(log_first, log_second)).sum(-1)
