"""Losses of the policy and of the critic, one number per token.

Knows log-probabilities under the current policy (gradient), under the policy at rollout time (`old_logprobs`), and
under the generator that really sampled (`behaviour_logprobs`). Does not know how tokens are aggregated
(`aggregation_weights`) nor where advantages come from.

All functions are elementwise unless said, so [B] works where [B, T] is written. Only `logprobs` and `values` receive
gradients; everything else is detached inside. Where an optional `mask` is given, inputs at masked positions are ignored
even when they are NaN, and outputs there are exactly 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fairlead.functional._checks import (
    require_choice,
    require_dimensions,
    require_positive,
    require_range,
    require_same_shape,
)
from fairlead.functional.masks import mask_out, masked_mean

LOG_RATIO_LIMIT = 20.0
MISMATCH_LEVELS = ("token", "sequence", "geometric")
MISMATCH_MODES = ("truncate", "mask")


def importance_ratio(
    logprobs: Tensor, old_logprobs: Tensor, clamp: float | None = LOG_RATIO_LIMIT, *, mask: Tensor | None = None
) -> Tensor:
    """rho = exp(logprobs - old_logprobs), the exponent limited to [-clamp, clamp] (gradient 0 outside).

    Shapes: equal, any; returns that shape. `clamp` in nats, None for no limit.
    Raises: ValueError when shapes differ or clamp is not positive.
    """
    require_same_shape(logprobs=logprobs, old_logprobs=old_logprobs, mask=mask)
    old_logprobs = old_logprobs.detach()
    if mask is not None:
        logprobs, old_logprobs = mask_out(logprobs, mask), mask_out(old_logprobs, mask)
    ratio = _limit(logprobs - old_logprobs, clamp).exp()
    return ratio if mask is None else mask_out(ratio, mask)


def ppo_clip(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    *,
    mask: Tensor | None = None,
) -> Tensor:
    """max(-A rho, -A clip(rho, 1 - clip_low, 1 + clip_high)).

    `dual_clip` = c > 1 also caps the loss at -A c where A < 0 (Ye et al. 2020, arXiv 1912.09729).
    Source: Schulman et al. 2017 (arXiv 1707.06347, eq. 7); clip_high > clip_low is DAPO's clip-higher (arXiv
    2503.14476).

    Shapes: all [B, T]; returns [B, T].
    Raises: ValueError when shapes differ, a clip range is negative or clip_low exceeds 1, or dual_clip is not above 1.
    """
    require_same_shape(logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages, mask=mask)
    if dual_clip is not None and not dual_clip > 1:
        raise ValueError(f"dual_clip must be above 1, got {dual_clip}")
    ratio = importance_ratio(logprobs, old_logprobs, mask=mask)
    return _clipped_surrogate(ratio, advantages, clip_low, clip_high, dual_clip, mask)


def clipped_tokens(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip_low: float = 0.2, clip_high: float = 0.2
) -> Tensor:
    """Which tokens' gradient `ppo_clip` cuts off: rho > 1 + clip_high and A > 0, or rho < 1 - clip_low and A < 0.

    (|rho - 1| > clip would also count tokens that still learn.)

    Shapes: all [B, T]; returns [B, T] bool.
    Raises: ValueError when shapes differ or a clip range is out of bounds.
    """
    _require_clip_range(clip_low, clip_high)
    require_same_shape(logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages)
    ratio = importance_ratio(logprobs.detach(), old_logprobs)
    return ((ratio > 1 + clip_high) & (advantages > 0)) | ((ratio < 1 - clip_low) & (advantages < 0))


def clip_fraction(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> Tensor:
    """Share of the tokens under `mask` whose gradient `ppo_clip` cuts off (`clipped_tokens`).

    Shapes: all [B, T]; returns a scalar in [0, 1] without gradient, 0 for an empty mask.
    Raises: ValueError when shapes differ or a clip range is out of bounds.
    """
    return masked_mean(clipped_tokens(logprobs, old_logprobs, advantages, clip_low, clip_high), mask)


def reinforce(logprobs: Tensor, advantages: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """-A log pi: its gradient is the policy gradient when the samples come from pi (Williams 1992).

    Shapes: both [B, T]; returns [B, T].
    Raises: ValueError when shapes differ.
    """
    require_same_shape(logprobs=logprobs, advantages=advantages, mask=mask)
    advantages = advantages.detach()
    if mask is not None:
        logprobs, advantages = mask_out(logprobs, mask), mask_out(advantages, mask)
    return -advantages * logprobs


def sequence_ratio(
    logprobs: Tensor, old_logprobs: Tensor, mask: Tensor, mean: bool = True, clamp: float | None = LOG_RATIO_LIMIT
) -> Tensor:
    """Importance ratio of whole answers, with gradient.

    `mean`: exp of the mean log-ratio, (pi(y) / pi_old(y))^(1 / T_i), as in GSPO (Zheng et al. 2025, arXiv 2507.18071).
    Otherwise exp of the sum, the true ratio, as in RLOO (arXiv 2402.14740). An empty row has ratio 1.

    Shapes: all [B, T]; returns [B]. `clamp` (nats) limits the exponent.
    Raises: ValueError when shapes differ or are not two-dimensional, or clamp is not positive.
    """
    require_dimensions("logprobs", logprobs, "BT")
    require_same_shape(logprobs=logprobs, old_logprobs=old_logprobs, mask=mask)
    log_ratio = mask_out(logprobs, mask) - mask_out(old_logprobs.detach(), mask)
    total = log_ratio.sum(dim=1)
    if mean:
        total = total / mask.bool().sum(dim=1).clamp(min=1)
    return _limit(total, clamp).exp()


def gspo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
) -> Tensor:
    """GSPO's clipped loss with the sequence ratio s_i, spread over tokens.

    The ratio of token t has the value s_i and the gradient s_i grad log pi(y_t): sg(s_i) exp(l - sg(l)) (GSPO-token,
    arXiv 2507.18071). Aggregate with "sequence-mean-token-mean"; then loss and gradient are those of
    mean_i max(-A s_i, -A clip(s_i)) when a row's advantages are equal. Clip ranges are a thousandth of PPO's.

    Shapes: all [B, T]; returns [B, T], exactly 0 at masked positions.
    Raises: ValueError when shapes differ or a clip range is out of bounds.
    """
    require_same_shape(logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages, mask=mask)
    ratio = sequence_ratio(logprobs.detach(), old_logprobs, mask)
    kept = mask_out(logprobs, mask)
    token_ratio = ratio[:, None] * (kept - kept.detach()).exp()
    return _clipped_surrogate(token_ratio, advantages, clip_low, clip_high, None, mask)


def cispo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    minimum_ratio: float = 0.0,
    maximum_ratio: float = 5.0,
    *,
    mask: Tensor | None = None,
) -> Tensor:
    """-sg(clip(rho, minimum_ratio, maximum_ratio)) A log pi: every token keeps a gradient, only its weight is bounded.

    The bounds are absolute values of rho. The paper's 1 - eps_low and 1 + eps_high (verl's setting) are
    minimum_ratio = 1 - eps_low, maximum_ratio = 1 + eps_high; TRL's `epsilon_high` is maximum_ratio itself.
    Source: MiniMax-M1 (arXiv 2506.13585).

    Shapes: all [B, T]; returns [B, T].
    Raises: ValueError when shapes differ or not 0 <= minimum_ratio <= maximum_ratio.
    """
    require_same_shape(logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages, mask=mask)
    if not 0 <= minimum_ratio <= maximum_ratio:
        raise ValueError(f"need 0 <= minimum_ratio <= maximum_ratio, got {minimum_ratio} and {maximum_ratio}")
    ratio = importance_ratio(logprobs.detach(), old_logprobs, mask=mask)
    weight = ratio.clamp(min=minimum_ratio, max=maximum_ratio)
    return reinforce(logprobs, weight * advantages, mask=mask)


def truncated_importance_weight(
    old_logprobs: Tensor, behaviour_logprobs: Tensor, cap: float = 2.0, *, mask: Tensor | None = None
) -> Tensor:
    """min(exp(old_logprobs - behaviour_logprobs), cap): corrects for a generator that differs from the trainer.

    Multiplies the per-token loss after clipping. The exponent is limited to [-20, 20] first.
    Source: truncated importance sampling (Ionides 2008), for rollout mismatch in Yao et al. 2025.

    Shapes: both [B, T]; returns [B, T] without gradient.
    Raises: ValueError when shapes differ or cap is not positive.
    """
    require_positive("cap", cap)
    require_same_shape(old_logprobs=old_logprobs, behaviour_logprobs=behaviour_logprobs, mask=mask)
    return importance_ratio(old_logprobs.detach(), behaviour_logprobs, mask=mask).clamp(max=cap)


def mismatch_weight(
    old_logprobs: Tensor,
    behaviour_logprobs: Tensor,
    mask: Tensor,
    level: str = "token",
    mode: str = "truncate",
    low: float = 0.0,
    high: float = 2.0,
    token_weight: bool = False,
) -> Tensor:
    """Weight that corrects for a generator which differs from the trainer, of tokens or of whole responses.

    w = exp(old_logprobs - behaviour_logprobs) of each token, or of the response ("sequence": the product over its tokens,
    "geometric": their geometric mean). "truncate" limits w to [low, high], "mask" makes it 0 outside. `token_weight`: what is
    kept is weighed by the token's own w, not limited; the mask alone looks at the response.

    - token, truncate:                   truncated importance sampling (Ionides 2008; TRL, verl, OpenRLHF's "tis")
    - token, mask:                       IcePop (Ling team 2025, arXiv 2510.18855)
    - sequence, mask, high 3:            TRL's default
    - geometric, mask, token_weight:     OpenRLHF's "seq-mask-tis"

    Shapes: all [B, T]; returns [B, T] without gradient, exactly 0 where masked.
    Raises: ValueError on other shapes, an unknown level or mode, or not 0 <= low < high.
    """
    require_choice("level", level, MISMATCH_LEVELS)
    require_choice("mode", mode, MISMATCH_MODES)
    if not 0 <= low < high:
        raise ValueError(f"need 0 <= low < high, got {low} and {high}")
    token = importance_ratio(old_logprobs.detach(), behaviour_logprobs, mask=mask)
    weight = token
    if level != "token":
        ratio = sequence_ratio(old_logprobs.detach(), behaviour_logprobs, mask, mean=level == "geometric")
        weight = ratio[:, None].expand_as(token)
    inside = (weight >= low) & (weight <= high)
    if token_weight:
        weight = token
    elif mode == "truncate":
        weight = weight.clamp(min=low, max=high)
    return mask_out(torch.where(inside, weight, 0.0) if mode == "mask" else weight, mask)


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, clip: float | None = None, *, mask: Tensor | None = None
) -> Tensor:
    """1/2 (V - G)^2, or with `clip` = e the larger of that and 1/2 (clip(V, V_old - e, V_old + e) - G)^2.

    Source: the PPO reference implementation; Secrets of RLHF (arXiv 2307.04964). `clip` in units of reward.

    Shapes: all [B, T]; returns [B, T].
    Raises: ValueError when shapes differ or clip is not positive.
    """
    require_same_shape(values=values, old_values=old_values, returns=returns, mask=mask)
    old_values, returns = old_values.detach(), returns.detach()
    if mask is not None:
        values, old_values, returns = mask_out(values, mask), mask_out(old_values, mask), mask_out(returns, mask)
    squares = (values - returns).square()
    if clip is not None:
        require_positive("clip", clip)
        clipped = values.clamp(min=old_values - clip, max=old_values + clip)
        squares = torch.maximum(squares, (clipped - returns).square())
    return 0.5 * squares


def value_huber(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    delta: float | None = 0.5,
    clip: float | None = 0.2,
    combine: str = "sum",
    *,
    mask: Tensor | None = None,
) -> Tensor:
    """Huber loss to the return, of the value and of the value kept within `clip` of the old one: half their sum, or the larger.

    H(e) = e^2 / 2 up to |e| = delta and delta (|e| - delta / 2) beyond; `delta` None is e^2 / 2 everywhere. With "max" and no delta
    this is `value_loss`; without `clip` there is one term.
    Source: released code of SAFE (arXiv 2602.04651), which sums; PPO takes the larger.

    Shapes: all [B, T]; returns [B, T].
    Raises: ValueError when shapes differ, on another `combine`, or when delta or clip is not positive.
    """
    require_same_shape(values=values, old_values=old_values, returns=returns, mask=mask)
    require_choice("combine", combine, ("sum", "max"))
    old_values, returns = old_values.detach(), returns.detach()
    if mask is not None:
        values, old_values, returns = mask_out(values, mask), mask_out(old_values, mask), mask_out(returns, mask)

    def huber(error: Tensor) -> Tensor:
        if delta is None:
            return 0.5 * error.square()
        require_positive("delta", delta)
        return torch.where(error.abs() <= delta, 0.5 * error.square(), delta * (error.abs() - 0.5 * delta))

    plain = huber(values - returns)
    if clip is None:
        return plain
    require_positive("clip", clip)
    limited = huber(values.clamp(min=old_values - clip, max=old_values + clip) - returns)
    return 0.5 * (plain + limited) if combine == "sum" else torch.maximum(plain, limited)


def soft_minimum(values: Tensor, alpha: float) -> Tensor:
    """-alpha log mean exp(-v / alpha) over the last dimension: the minimum for alpha -> 0 (and at 0), the mean for alpha -> infinity.

    Source: SAFE (arXiv 2602.04651), the critic.

    Shapes: [..., K]; returns [...].
    Raises: ValueError when alpha is negative.
    """
    if alpha < 0:
        raise ValueError(f"alpha must not be negative, got {alpha}")
    if alpha == 0:
        return values.min(dim=-1).values
    return -alpha * (torch.logsumexp(-values / alpha, dim=-1) - math.log(values.shape[-1]))


def _limit(exponent: Tensor, clamp: float | None) -> Tensor:
    if clamp is None:
        return exponent
    require_positive("clamp", clamp)
    return exponent.clamp(min=-clamp, max=clamp)


def _require_clip_range(clip_low: float, clip_high: float) -> None:
    require_range("clip_low", clip_low, 0.0, 1.0)
    require_range("clip_high", clip_high, 0.0, float("inf"))


def _clipped_surrogate(
    ratio: Tensor,
    advantages: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None,
    mask: Tensor | None,
) -> Tensor:
    _require_clip_range(clip_low, clip_high)
    advantages = advantages.detach()
    if mask is not None:
        ratio, advantages = mask_out(ratio, mask), mask_out(advantages, mask)
    loss = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(min=1 - clip_low, max=1 + clip_high))
    if dual_clip is not None:
        loss = torch.where(advantages < 0, torch.minimum(loss, -advantages * dual_clip), loss)
    return loss if mask is None else mask_out(loss, mask)
