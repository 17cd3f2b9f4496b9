"""Rewards relative to a baseline answer, and what CGPO's three optimisers make of them.

Knows numbers of responses: scores, log-probabilities, which prompt they answer. Does not know judges, tokens, policies.
Source of all: The Perfect Blend (Xu et al. 2024, arXiv 2409.20370).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from fairlead.functional._checks import require_dimensions, require_positive, require_same_shape

__all__ = ["best_of_group", "calibrated_reward", "dpo_advantages", "kl_factor"]


def calibrated_reward(score: Tensor, group: Tensor, anchor: Tensor) -> Tensor:
    """σ(r(x, y) − r(x, ȳ)): the modelled probability that a response beats the baseline answer ȳ of its prompt.

    Shapes: score, group (which prompt) and anchor (true at ȳ, one a prompt) [B]; returns [B], ½ at ȳ itself, NaN for all responses of a
    prompt whose ȳ has the score NaN.
    Raises: ValueError where a prompt has no baseline answer, or several.
    """
    require_dimensions("score", score, "B")
    require_same_shape(score=score, group=group, anchor=anchor)
    groups, row_group = torch.unique(group, return_inverse=True)
    counts = torch.bincount(row_group[anchor], minlength=len(groups))
    if bool((counts != 1).any()):
        raise ValueError(f"every prompt needs one baseline answer; prompts have {sorted(set(counts.tolist()))}")
    baseline = torch.zeros(len(groups), dtype=score.dtype)
    baseline[row_group[anchor]] = score[anchor]
    return torch.sigmoid(score - baseline[row_group])


def kl_factor(log_ratio: Tensor, maximum: float, clamp: bool = False) -> Tensor:
    """max(1 − log-ratio / maximum, 0), and 1 at most with `clamp`.

    Shapes: any; returns the same. Raises: ValueError for a maximum that is not positive.
    """
    require_positive("maximum", maximum)
    factor = (1 - log_ratio / maximum).clamp(min=0.0)
    return factor.clamp(max=1.0) if clamp else factor


def best_of_group(score: Tensor, group: Tensor, candidate: Tensor) -> Tensor:
    """[B] bool: the candidate with the largest score of each group, the first among equals; none in a group without candidates.

    Shapes: score, group and candidate (bool) [B].
    """
    require_same_shape(score=score, group=group, candidate=candidate)
    best = torch.zeros_like(candidate)
    for number in torch.unique(group[candidate]):
        rows = (candidate & (group == number)).nonzero().squeeze(1)
        best[rows[score[rows].argmax()]] = True
    return best


def dpo_advantages(
    logprobs: Tensor,
    reference_logprobs: Tensor,
    lengths: Tensor,
    group: Tensor,
    side: Tensor,
    beta: float,
    likelihood: float = 0.0,
) -> Tensor:
    """Advantages A with which −½ A log π, mean over the two responses of all pairs, has the gradient of online DPO.

    The loss of a pair is −log σ(β h⁺ − β h⁻) − (λ / |y⁺|) log π(y⁺) with h the log-ratio of policy and reference, so that
    A⁺ = 2 (β σ(β h⁻ − β h⁺) + λ / |y⁺|) and A⁻ = −2 β σ(β h⁻ − β h⁺). The factor 2 turns the mean over responses into that over pairs.

    Shapes: all [B]; logprobs and reference_logprobs of whole responses, lengths in tokens, side 1 for a group's chosen response, −1 for
    its rejected one and 0 for all others. Returns [B], 0 where side is.
    Raises: ValueError on other shapes, a beta that is not positive, or a group without exactly one response on each side or none.
    """
    require_dimensions("logprobs", logprobs, "B")
    require_same_shape(
        logprobs=logprobs, reference_logprobs=reference_logprobs, lengths=lengths, group=group, side=side
    )
    require_positive("beta", beta)
    chosen, rejected = ((side == sign).nonzero().squeeze(1) for sign in (1, -1))
    chosen, rejected = chosen[group[chosen].argsort()], rejected[group[rejected].argsort()]
    if group[chosen].tolist() != group[rejected].tolist() or len(set(group[chosen].tolist())) != len(chosen):
        raise ValueError("every pair needs one chosen and one rejected response to the same prompt")
    log_ratio = logprobs - reference_logprobs
    push = 2 * beta * logsigmoid(beta * (log_ratio[rejected] - log_ratio[chosen])).exp()
    advantage = torch.zeros_like(logprobs)
    advantage[chosen] = push + 2 * likelihood / lengths[chosen].clamp(min=1)
    advantage[rejected] = -push
    return advantage
