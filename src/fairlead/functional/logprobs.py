"""Log-probabilities and entropies of a categorical distribution given by logits.

Knows logits, token ids and the sampling temperature. Does not know models, shifting by one, or masks: the caller aligns
logits[t] with the token it predicts.

The maths runs in float32 (float64 for float64 logits), forwards and backwards by compiled loops where there are any
(`fairlead.loops`), else over pieces of the logits, so a half-precision [B, T, V] tensor never has a full-size float32
twin. The backward pass recomputes the softmax. A position whose incoming gradient is exactly zero sends back exact
zeros even when its logits are NaN or infinite.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fairlead import loops
from fairlead.functional._checks import at_least_float32, require_positive

PIECE_ELEMENTS = {"cpu": 1 << 18}
"""Logits per piece by device: a piece and what is made of it should stay in a processor's cache."""
_PIECE_ELEMENTS = 1 << 24  # elsewhere: 64 MiB in float32, since every piece costs several launches


def token_logprobs(logits: Tensor, tokens: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax(logits / temperature) at the given tokens, in nats.

    Shapes: logits [..., T, V], tokens [..., T] int64 in [0, V); returns [..., T], float32 (float64 for float64 logits).
    Logits of -inf (forbidden tokens) are allowed.
    Raises: ValueError when the shapes do not fit, tokens are not integers, or temperature is not positive. A token
    outside [0, V) is a RuntimeError: use any valid id at padding, not -100.
    """
    return _compute(logits, tokens, temperature, with_entropy=False)[0]


def entropy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Entropy -sum_v p_v log p_v of softmax(logits / temperature), in nats, exact over the vocabulary.

    Shapes: logits [..., T, V]; returns [..., T], float32 (float64 for float64 logits). Logits of -inf count as p = 0.
    Raises: ValueError when logits has no dimension or temperature is not positive.
    """
    return _compute(logits, None, temperature, with_entropy=True)[1]


def token_logprobs_and_entropy(logits: Tensor, tokens: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """`token_logprobs` and `entropy` together, from one logsumexp per position.

    Shapes, units and errors: as in the two functions; returns (log-probabilities [..., T], entropies [..., T]).
    """
    return _compute(logits, tokens, temperature, with_entropy=True)


def _compute(logits: Tensor, tokens: Tensor | None, temperature: float, with_entropy: bool) -> tuple[Tensor, Tensor]:
    require_positive("temperature", temperature)
    if logits.dim() == 0:
        raise ValueError("logits must have shape [..., T, V], got a scalar")
    shape = logits.shape[:-1]
    if tokens is not None:
        if tokens.shape != shape:
            raise ValueError(
                "tokens must have the shape of logits without V: "
                f"logits {list(logits.shape)}, tokens {list(tokens.shape)}"
            )
        if tokens.is_floating_point() or tokens.dtype == torch.bool:
            raise ValueError(f"tokens must be integers, got {tokens.dtype}")
    # [R, T, V]: a slice such as logits[:, 3:-1] stays a view, whereas flattening to [R * T, V] would copy it.
    length = shape[-1] if shape else 1
    rows = logits.numel() // max(1, length * logits.shape[-1])
    cube = logits.reshape(rows, length, logits.shape[-1])
    token_rows = None if tokens is None else tokens.reshape(rows, length).long()
    logprobs, entropies, _ = _LogprobsAndEntropy.apply(cube, token_rows, temperature, with_entropy)  # type: ignore[no-untyped-call]
    return logprobs.reshape(shape), entropies.reshape(shape)


def pieces(logits: Tensor) -> Iterator[tuple[slice, slice]]:
    """Cut [rows, length] into blocks of about PIECE_ELEMENTS logits: whole rows where they fit, else parts of one."""
    rows, length, vocabulary = logits.shape
    positions = max(1, PIECE_ELEMENTS.get(logits.device.type, _PIECE_ELEMENTS) // max(1, vocabulary))
    row_step = max(1, positions // max(1, length))
    token_step = min(max(1, length), positions)
    for row in range(0, rows, row_step):
        for token in range(0, length, token_step):
            yield slice(row, row + row_step), slice(token, token + token_step)


def log_softmax(piece: Tensor, temperature: float) -> Tensor:
    """log softmax(piece / temperature) in at least float32."""
    return _tempered(piece, temperature).log_softmax(-1)


def _tempered(piece: Tensor, temperature: float) -> Tensor:
    wide = at_least_float32(piece)
    return wide if temperature == 1.0 else wide / temperature


def _entropy_terms(logp: Tensor) -> tuple[Tensor, Tensor]:
    """(p, log p with the lowest number in place of -inf): a forbidden token adds 0 and not 0 * -inf."""
    return logp.exp(), logp.clamp(min=torch.finfo(logp.dtype).min)


class _LogprobsAndEntropy(torch.autograd.Function):
    """Keeps only the logits it was given, and recomputes in backward. An output nobody asked for means nothing.

    The third output is what compiled loops keep for backward, two numbers a position; without them it is empty.
    """

    @staticmethod
    def forward(
        logits: Tensor, tokens: Tensor | None, temperature: float, with_entropy: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        shape = logits.shape[:-1]
        if logits.numel() and logits.is_contiguous() and loops.fit(logits):
            from fairlead.loops.vocabulary import logprobs_and_entropy

            logprobs, entropies, kept = logprobs_and_entropy(logits.flatten(0, 1), _flat(tokens), temperature)
            return logprobs.view(shape), entropies.view(shape), kept
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        logprobs = torch.zeros(shape, dtype=dtype, device=logits.device)
        entropies = torch.zeros_like(logprobs)
        for row, token in pieces(logits):
            logp = log_softmax(logits[row, token], temperature)
            if tokens is not None:
                logprobs[row, token] = logp.gather(-1, tokens[row, token].unsqueeze(-1)).squeeze(-1)
            if with_entropy:
                probability, finite_logp = _entropy_terms(logp)
                entropies[row, token] = -(probability * finite_logp).sum(-1)
        return logprobs, entropies, logprobs.new_empty(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        logits, tokens, ctx.temperature, with_entropy = inputs
        logprobs, entropies, kept = output
        ctx.save_for_backward(logits, tokens, entropies if len(kept) else None, kept)
        ctx.set_materialize_grads(False)  # an entropy that is only looked at then costs nothing here
        unwanted = [logprobs] if tokens is None else []
        ctx.mark_non_differentiable(kept, *unwanted, *([] if with_entropy else [entropies]))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        logits, tokens, entropies, kept = ctx.saved_tensors
        gradients = gradients[:2]
        wanted = [gradient for gradient in gradients if gradient is not None]
        if not wanted:
            return None, None, None, None
        if torch.is_grad_enabled():  # create_graph=True: keep it one differentiable expression
            everything = slice(None), slice(None)
            return _gradient(ctx.temperature, logits, tokens, gradients, everything), None, None, None
        if len(kept):
            from fairlead.loops.vocabulary import logprobs_and_entropy_backward

            found = logprobs_and_entropy_backward(
                logits.flatten(0, 1), _flat(tokens), ctx.temperature, entropies.flatten(), kept, *map(_flat, gradients)
            )
            return found.view(logits.shape), None, None, None
        result = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
        for piece in pieces(logits):
            silent = torch.stack([gradient[piece] == 0 for gradient in wanted]).all(0)
            gradient = _gradient(ctx.temperature, logits, tokens, gradients, piece)
            if silent.device.type != "cpu" or bool(silent.any()):  # a GPU fills faster than it answers
                gradient.masked_fill_(silent.unsqueeze(-1), 0)
            result[piece] = gradient
        return result, None, None, None


def _flat(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.flatten()


def _gradient(
    temperature: float,
    logits: Tensor,
    tokens: Tensor | None,
    gradients: tuple[Tensor | None, ...],
    piece: tuple[slice, slice],
) -> Tensor:
    """d log p_y / d x_v = 1[v = y] - p_v and d H / d x_v = -p_v (log p_v + H), both over the temperature."""
    tempered = _tempered(logits[piece], temperature)
    upstream, entropy_upstream = (None if gradient is None else gradient[piece].unsqueeze(-1) for gradient in gradients)
    parts: list[Tensor] = []
    if tokens is not None and upstream is not None:
        parts.append((-upstream * tempered.softmax(-1)).scatter_add(-1, tokens[piece].unsqueeze(-1), upstream))
    if entropy_upstream is not None:
        probability, finite_logp = _entropy_terms(tempered.log_softmax(-1))
        entropies = -(probability * finite_logp).sum(-1, keepdim=True)
        parts.append(-entropy_upstream * probability * (finite_logp + entropies))
    gradient = parts[0] if len(parts) == 1 else parts[0] + parts[1]
    if temperature != 1.0:
        gradient = gradient / temperature
    return gradient.to(logits.dtype)
