"""Kullback-Leibler divergences: estimators from single samples, the exact sum, and the adaptive coefficient.

Knows log-probabilities in nats. Does not know where the KL is used: as a reward (`kl_estimate` on detached
log-probabilities) or as a loss (`kl_loss`), and how tokens are aggregated.

Throughout, delta = log pi(y) - log pi_ref(y) for y drawn from pi.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fairlead.functional._checks import require_choice, require_positive, require_same_shape
from fairlead.functional.masks import mask_out
from fairlead.functional.policy_losses import importance_ratio

KL_ESTIMATORS = ("k1", "k2", "k3", "abs")
KL_LOSS_ESTIMATORS = (*KL_ESTIMATORS, "k3-ratio")


def kl_estimate(
    logprobs: Tensor,
    reference_logprobs: Tensor,
    estimator: str,
    clamp: float | None = None,
    *,
    mask: Tensor | None = None,
) -> Tensor:
    """Estimate of KL(pi || pi_ref) from one sampled token each, elementwise, in nats.

    - "k1"   delta                      unbiased, can be negative
    - "k2"   delta^2 / 2                biased, not negative
    - "k3"   exp(-delta) - 1 + delta    unbiased, not negative
    - "abs"  |delta|

    `clamp` = c limits the value to [-c, c] (gradient 0 outside) and keeps k3 from overflowing. No argument is detached.
    Source: Schulman 2020, "Approximating KL divergence"; k3 in GRPO (arXiv 2402.03300, eq. 4).

    Shapes: all equal, any; returns that shape. With a mask, masked positions are exactly 0.
    Raises: ValueError when shapes differ, on an unknown estimator, or when `clamp` is not positive.
    """
    require_choice("KL estimator", estimator, KL_ESTIMATORS)
    require_same_shape(logprobs=logprobs, reference_logprobs=reference_logprobs, mask=mask)
    if clamp is not None:
        require_positive("clamp", clamp)
    if mask is not None:
        logprobs, reference_logprobs = mask_out(logprobs, mask), mask_out(reference_logprobs, mask)
    delta = logprobs - reference_logprobs
    if estimator == "k1":
        estimate = delta
    elif estimator == "k2":
        estimate = 0.5 * delta.square()
    elif estimator == "abs":
        estimate = delta.abs()
    else:
        limited = delta
        if clamp is not None:
            # exp(u) - 1 - u exceeds c at u = log(max(c, 1)) + 2, so this limit changes no clamped value or gradient;
            # without it exp overflows and its gradient becomes 0 * inf = NaN.
            limited = delta.clamp(min=-math.log(max(clamp, 1.0)) - 2.0)
        estimate = torch.expm1(-limited) + limited
    if clamp is not None:
        estimate = estimate.clamp(min=-clamp, max=clamp)
    return estimate


def kl_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    reference_logprobs: Tensor,
    estimator: str,
    clamp: float | None = None,
    *,
    mask: Tensor | None = None,
) -> Tensor:
    """Per-token KL term to be added to a loss, with gradient in `logprobs` only.

    What its gradient is, in expectation over tokens sampled from pi = pi_old:

    - "k1"        0: does nothing as a loss
    - "k2"        grad KL(pi || pi_ref): the divergence that is meant
    - "k3"        grad KL(pi_ref || pi): the other divergence, although the value estimates KL(pi || pi_ref)
    - "abs"       grad of E_pi'[sign(delta)] at pi' = pi: no divergence
    - "k3-ratio"  rho * k3 with rho = pi / pi_old: grad KL(pi || pi_ref), and stays right when pi moves off pi_old

    Source: GRPO (arXiv 2402.03300, eq. 4) for k3; the ratio-weighted form is in DeepSeek-V3.2 (arXiv 2512.02556).
    The ratio's exponent is limited to [-20, 20]; `old_logprobs` is read by "k3-ratio" only. `clamp` limits the estimate as in
    `kl_estimate`, before the ratio.

    Shapes: all equal, [B, T] or any; returns that shape, not aggregated. With a mask, masked positions are exactly 0.
    Raises: ValueError when shapes differ or on an unknown estimator.
    """
    require_choice("KL loss estimator", estimator, KL_LOSS_ESTIMATORS)
    require_same_shape(logprobs=logprobs, old_logprobs=old_logprobs, reference_logprobs=reference_logprobs, mask=mask)
    if estimator != "k3-ratio":
        return kl_estimate(logprobs, reference_logprobs.detach(), estimator, clamp, mask=mask)
    ratio = importance_ratio(logprobs, old_logprobs, mask=mask)
    return ratio * kl_estimate(logprobs, reference_logprobs.detach(), "k3", clamp, mask=mask)


def exact_kl(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    """KL(p || q) = sum_v p_v (log p_v - log q_v) with p = softmax(logits_p), q = softmax(logits_q), in nats.

    A token with p_v = 0 (logit -inf) adds 0; one with q_v = 0 < p_v makes the divergence infinite
    and its gradient undefined (NaN).

    Shapes: both [..., V]; returns [...], at least float32.
    Raises: ValueError when shapes differ.
    """
    require_same_shape(logits_p=logits_p, logits_q=logits_q)
    dtype = torch.float64 if torch.float64 in (logits_p.dtype, logits_q.dtype) else torch.float32
    logp = torch.log_softmax(logits_p.to(dtype), dim=-1)
    logq = torch.log_softmax(logits_q.to(dtype), dim=-1)
    possible = logp > -torch.inf
    difference = mask_out(logp, possible) - mask_out(logq, possible)
    return (logp.exp() * difference).sum(dim=-1)


def adaptive_coefficient(
    coefficient: float, observed: float, target: float, horizon: float, batch: float, clip: float = 0.2
) -> float:
    """Next KL coefficient: coefficient * (1 + clip(observed / target - 1, -clip, clip) * batch / horizon).

    `observed` and `target` are KL in nats in the same unit (per token or per sequence); `batch` is the number of
    episodes since the last call, `horizon` the number over which the coefficient changes by the factor 1 + clip or so.
    Source: Ziegler et al. 2019 (arXiv 1909.08593, section 2.2).

    Raises: ValueError when target or horizon is not positive, batch or clip is negative, or observed is NaN.
    """
    require_positive("target", target)
    require_positive("horizon", horizon)
    if math.isnan(observed):
        raise ValueError("observed KL is NaN")
    if batch < 0 or clip < 0:
        raise ValueError(f"batch and clip must not be negative, got batch {batch}, clip {clip}")
    error = min(max(observed / target - 1.0, -clip), clip)
    return coefficient * (1.0 + error * batch / horizon)
