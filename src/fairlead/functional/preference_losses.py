"""Losses on pairs (chosen, rejected), one number per pair.

Knows scores or sequence log-probabilities of both answers. Does not know tokens, models or averaging over the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from fairlead.functional._checks import require_choice, require_dimensions, require_positive, require_same_shape

DPO_LOSSES = ("sigmoid", "hinge", "ipo")


def bradley_terry(
    score_chosen: Tensor,
    score_rejected: Tensor,
    margin: Tensor | float | None = None,
    centring: float = 0.0,
) -> Tensor:
    """-log sigmoid(s_w - s_l - margin) + centring (s_w + s_l)^2, for training a reward model.

    Source: Bradley & Terry 1952; margin in Llama 2 (arXiv 2307.09288, eq. 2); centring, which keeps the free constant
    of the scores near 0, in Eisenstein et al. 2023 (arXiv 2312.09244).

    Shapes: scores [B], margin a number or [B]; returns [B]. Gradient in the scores.
    Raises: ValueError on other shapes or negative centring.
    """
    require_dimensions("score_chosen", score_chosen, "B")
    require_same_shape(
        score_chosen=score_chosen,
        score_rejected=score_rejected,
        margin=margin if isinstance(margin, Tensor) and margin.dim() else None,
    )
    if not centring >= 0:
        raise ValueError(f"centring must not be negative, got {centring}")
    difference = score_chosen - score_rejected
    if margin is not None:
        difference = difference - (margin.detach() if isinstance(margin, Tensor) else margin)
    loss = -logsigmoid(difference)
    if centring:
        loss = loss + centring * (score_chosen + score_rejected).square()
    return loss


def dpo(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
    loss: str = "sigmoid",
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Direct preference optimisation and two relatives.

    With h = (log pi(y_w) - log ref(y_w)) - (log pi(y_l) - log ref(y_l)):

    - "sigmoid"  -(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h), e = label_smoothing: DPO (arXiv 2305.18290,
                 eq. 7) and, for e > 0, conservative DPO
    - "hinge"    max(0, 1 - beta h): SLiC (arXiv 2305.10425) on log-ratios (arXiv 2309.06657)
    - "ipo"      (h - 1 / (2 beta))^2: IPO (arXiv 2310.12036, eq. 17)

    Inputs are log-probabilities of whole answers in nats: sums over tokens. For "ipo" the caller passes them divided by
    the answer's length, as public implementations do; this function does not know lengths.

    Shapes: the four inputs [B]; returns (loss, reward_chosen, reward_rejected), each [B]. The rewards are
    beta (log pi - log ref), detached. Gradient flows into the policy's log-probabilities only.
    Raises: ValueError on other shapes, an unknown loss, a non-positive beta, label_smoothing outside [0, 0.5), or
    label_smoothing with a loss other than "sigmoid".
    """
    require_choice("DPO loss", loss, DPO_LOSSES)
    require_positive("beta", beta)
    if not 0.0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing must lie in [0, 0.5), got {label_smoothing}")
    if label_smoothing and loss != "sigmoid":
        raise ValueError(f"label_smoothing is defined for loss 'sigmoid' only, not for {loss!r}")
    require_dimensions("policy_chosen", policy_chosen, "B")
    require_same_shape(
        policy_chosen=policy_chosen,
        policy_rejected=policy_rejected,
        reference_chosen=reference_chosen,
        reference_rejected=reference_rejected,
    )
    chosen = policy_chosen - reference_chosen.detach()
    rejected = policy_rejected - reference_rejected.detach()
    difference = chosen - rejected
    if loss == "sigmoid":
        values = -(1 - label_smoothing) * logsigmoid(beta * difference)
        if label_smoothing:
            values = values - label_smoothing * logsigmoid(-beta * difference)
    elif loss == "hinge":
        values = torch.relu(1 - beta * difference)
    else:
        values = (difference - 1 / (2 * beta)).square()
    return values, beta * chosen.detach(), beta * rejected.detach()


def inpo(policy: Tensor, reference: Tensor, previous: Tensor, eta: float, tau: float) -> tuple[Tensor, Tensor]:
    """Squared distance of a pair statistic from 1 / (2 eta), whose minimiser is a step of online mirror descent.

    With D = log pi(y_w) - log pi(y_l), and D_ref, D_t the same of the reference and of the policy that sampled the pair:

        h = D - (tau / eta) D_ref - (1 - tau / eta) D_t,    loss = (h - 1 / (2 eta))^2

    Over random pairs of pi_t, ordered by a preference P, the loss is smallest at
    pi ~ pi_t^(1 - tau/eta) pi_ref^(tau/eta) exp(P(y > pi_t) / eta), a step towards the Nash policy of the game with payoff
    P - tau KL. `eta` is an inverse step size: a larger one is more cautious.

    Source: Zhang et al. 2024 (INPO, arXiv 2407.00617), eqs. 6 to 8.

    Shapes: log-probabilities of whole responses [B, 2], chosen and rejected; returns loss [B] and h [B]. Gradient in the
    policy's only.
    Raises: ValueError on other shapes, eta not positive, or tau outside [0, eta].
    """
    require_dimensions("policy", policy, "B2")
    require_same_shape(policy=policy, reference=reference, previous=previous)
    require_positive("eta", eta)
    if not 0 <= tau <= eta:
        raise ValueError(f"tau must lie between 0 and eta ({eta:g}), got {tau}")
    pull = tau / eta
    anchor = (pull * reference + (1 - pull) * previous).detach()
    chosen, rejected = (policy - anchor).unbind(1)
    statistic = chosen - rejected
    return (statistic - 1 / (2 * eta)).square(), statistic


def rebel(policy: Tensor, previous: Tensor, reward_difference: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """(D - eta (r - r'))^2, which regresses the difference of two log-ratios on the difference of their rewards.

    With D = (log pi(y) - log pi_t(y)) - (log pi(y') - log pi_t(y')). Over pairs of pi_t, and with rewards without noise, the loss is
    smallest at pi ~ pi_t exp(eta r), a step of mirror descent; with rewards of a dialogue's end at the value of the turn,
    pi ~ pi_t exp(eta Q). Exchanging the two responses changes nothing. `eta` has the inverse unit of the reward.
    Source: REBEL (Gao et al. 2024, arXiv 2404.16767), algorithm 1; REFUEL (Gao et al. 2024, arXiv 2410.04612), eq. 4, times eta^2.

    Shapes: log-probabilities [B, 2], reward_difference [B]; returns loss [B] and D [B]. Gradient in the policy's only.
    Raises: ValueError on other shapes, or eta not positive.
    """
    require_dimensions("policy", policy, "B2")
    require_same_shape(policy=policy, previous=previous)
    require_dimensions("reward_difference", reward_difference, "B")
    require_positive("eta", eta)
    one, other = (policy - previous.detach()).unbind(1)
    statistic = one - other
    return (statistic - eta * reward_difference.detach()).square(), statistic
