"""Log-probability and entropy of a token over the vocabulary, and their gradient, reading each logit once or twice.

Knows: the arithmetic (`fairlead.functional.logprobs` states it), float32 and bfloat16.
Does not know: where logits come from.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import prange
from torch import Tensor

from fairlead.loops.compiling import loop
from fairlead.loops.numbers import exponential, memory, put, use_threads, wide

__all__ = ["logprobs_and_entropy", "logprobs_and_entropy_backward"]

_LEAST = np.float32(-87.0)
"""Log-probability below which a token counts as impossible: float32 has no such numbers."""


def logprobs_and_entropy(logits: Tensor, tokens: Tensor | None, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """log p of `tokens` [N] under logits [N, V] (zeros without tokens), the entropy in nats: [N] float32; and what the gradient needs to know of each row: [2, N].

    Raises: RuntimeError at a token outside [0, V), as torch's gather does.
    """
    if tokens is not None and len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < logits.shape[1]:
        raise RuntimeError(
            f"token ids must be in [0, {logits.shape[1]}), got {int(tokens.min())} to {int(tokens.max())}"
        )
    logprobs, entropies, kept = (torch.zeros(*size, len(logits)) for size in ((), (), (2,)))
    use_threads()
    _forward(memory(logits), _given(tokens), np.float32(1 / temperature), *map(memory, (logprobs, entropies, kept)))
    return logprobs, entropies, kept


def logprobs_and_entropy_backward(
    logits: Tensor,
    tokens: Tensor | None,
    temperature: float,
    entropy: Tensor,
    kept: Tensor,
    of_logprobs: Tensor | None,
    of_entropy: Tensor | None,
) -> Tensor:
    """The gradient of the logits [N, V], in their precision, given those of the outputs [N]."""
    of_logits = torch.empty_like(logits)
    none = np.zeros(0, np.float32)
    use_threads()
    _backward(
        memory(logits),
        _given(tokens),
        np.float32(1 / temperature),
        memory(entropy),
        memory(kept),
        none if of_logprobs is None else memory(of_logprobs.float().contiguous()),
        none if of_entropy is None else memory(of_entropy.float().contiguous()),
        memory(of_logits),
    )
    return of_logits


def _given(tokens: Tensor | None) -> np.ndarray[Any, Any]:
    return np.zeros(0, np.int64) if tokens is None else tokens.contiguous().numpy()


# ---------------------------------------------------------------------------------------------------------------------
# The loops
# ---------------------------------------------------------------------------------------------------------------------


@loop
def _forward(logits: Any, tokens: Any, sharpness: float, logprobs: Any, entropies: Any, kept: Any) -> None:
    """`tokens` may have no rows; H = log Z − Σ e^x x / Z. kept: the largest logit, which x is counted from, and log Z."""
    for row in prange(logits.shape[0]):
        largest = np.float32(-np.inf)
        for i in range(logits.shape[1]):
            largest = max(largest, wide(logits[row, i]))
        total = moment = np.float32(0.0)
        for i in range(logits.shape[1]):
            x = (wide(logits[row, i]) - largest) * sharpness
            e = exponential(x) if x > _LEAST else np.float32(0.0)
            total += e
            moment += e * max(x, _LEAST)
        kept[0, row], kept[1, row] = largest, np.log(total)
        entropies[row] = np.log(total) - moment / total
        if tokens.shape[0]:
            logprobs[row] = (wide(logits[row, tokens[row]]) - largest) * sharpness - np.log(total)


@loop
def _backward(
    logits: Any,
    tokens: Any,
    sharpness: float,
    entropies: Any,
    kept: Any,
    of_logprobs: Any,
    of_entropies: Any,
    of_logits: Any,
) -> None:
    """d log p_y / d x_v = 1[v = y] − p_v and d H / d x_v = −p_v (log p_v + H); either gradient may have no rows."""
    for row in prange(logits.shape[0]):
        up = of_logprobs[row] * sharpness if of_logprobs.shape[0] else np.float32(0.0)
        towards = of_entropies[row] * sharpness if of_entropies.shape[0] else np.float32(0.0)
        if up == 0.0 and towards == 0.0:
            for i in range(logits.shape[1]):
                put(of_logits[row], i, np.float32(0.0))
            continue
        largest, log_total = kept[0, row], kept[1, row]
        shift = up + towards * entropies[row]
        for i in range(logits.shape[1]):
            x = (wide(logits[row, i]) - largest) * sharpness - log_total
            p = exponential(x) if x > _LEAST else np.float32(0.0)
            put(of_logits[row], i, -p * (shift + towards * max(x, _LEAST)))
        if of_logprobs.shape[0]:
            token = tokens[row]
            x = (wide(logits[row, token]) - largest) * sharpness - log_total
            put(of_logits[row], token, up - exponential(x) * (shift + towards * max(x, _LEAST)))
