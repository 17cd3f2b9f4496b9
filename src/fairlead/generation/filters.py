"""From logits to a token: temperature, top-k, top-p, min-p, and the draw by inverse distribution function.

Knows: one row of logits at a time (a batch is many independent rows).
Does not know: models, caches, end tokens, random number generators (the caller brings the uniform numbers).

A forbidden token has the logit minus infinity; every function here takes such logits and gives them probability 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fairlead.generation.sampling import Sampling

__all__ = ["choose", "filtered_logits"]

_NEVER = float("-inf")


def filtered_logits(logits: Tensor, sampling: Sampling) -> Tensor:
    """Logits of the distribution that is sampled from: tempered, then cut by top-k, top-p and min-p in this order.

    Each filter looks at what the ones before it left, renormalised. Tokens as likely as the last one kept by top-k or
    by min-p are kept too; top-p settles ties by the lower token id. Temperature 0 leaves the likeliest token alone
    (the lowest id of several) with the logit 0.

    Shapes: logits [..., V]; returns [..., V] float32, minus infinity at dropped tokens.
    Source: top-k Fan et al. 2018 (arXiv 1805.04833); top-p Holtzman et al. 2019 (arXiv 1904.09751);
    min-p Nguyen et al. 2024 (arXiv 2407.01082).
    """
    logits = logits.float()
    if sampling.temperature == 0.0:
        alone = torch.full_like(logits, _NEVER)
        return alone.scatter(-1, logits.argmax(-1, keepdim=True), 0.0)
    if sampling.temperature != 1.0:
        # The likeliest token goes to 0 first, so that a tiny temperature cannot overflow to infinity.
        logits = (logits - logits.amax(-1, keepdim=True)) / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        weakest = logits.topk(sampling.top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < weakest, _NEVER)
    if sampling.top_p < 1.0:
        ordered, order = logits.sort(dim=-1, descending=True, stable=True)
        probabilities = ordered.softmax(-1)
        # A token stays while the probability of those before it has not reached p: the first always does.
        before = probabilities.cumsum(-1, dtype=torch.float64) - probabilities
        drop = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before >= sampling.top_p)
        logits = logits.masked_fill(drop, _NEVER)
    if sampling.min_p > 0.0:
        floor = logits.amax(-1, keepdim=True) + math.log(sampling.min_p)
        logits = logits.masked_fill(logits < floor, _NEVER)
    return logits


def choose(logprobs: Tensor, uniforms: Tensor) -> Tensor:
    """The token at which the distribution function passes the row's uniform number.

    A function of the row and its number alone, so a row's draw does not depend on its neighbours. Sums run in float64:
    in float32 a vocabulary of 10^5 tokens would shift the borders by more than the probability of its rarer tokens.

    Shapes: logprobs [B, V] (normalised, minus infinity allowed), uniforms [B] float64 in [0, 1); returns [B] int64.
    """
    distribution = logprobs.exp().cumsum(-1, dtype=torch.float64)
    # Scaled by the total, which rounding keeps from being exactly 1; a token of probability 0 is never passed.
    target = uniforms.to(distribution.dtype)[:, None] * distribution[:, -1:]
    return torch.searchsorted(distribution, target, right=True).squeeze(-1)
