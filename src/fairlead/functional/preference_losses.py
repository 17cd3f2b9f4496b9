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
