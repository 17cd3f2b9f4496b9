"""Best of n: the distribution it makes, what imitating it with a prior leads to, and how far it goes.

Knows distributions over responses that can be listed. Does not know tokens or models.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fairlead.functional._checks import require_dimensions, require_positive, require_same_shape


def best_of_n(probability: Tensor, score: Tensor, n: int) -> Tensor:
    """[Y]: how often each response is the best of n independent draws; among equal scores each draw is as likely.

    With F the distribution function in the order of scores, a score's share is F(score)^n - F(below)^n.

    Shapes: probability and score [Y]. Raises: ValueError on other shapes or n below 1.
    """
    require_dimensions("probability", probability, "Y")
    require_same_shape(probability=probability, score=score)
    require_positive("n", n)
    levels, level = torch.unique(score, return_inverse=True)
    mass = torch.zeros(len(levels), dtype=probability.dtype).index_add(0, level, probability)
    upper = mass.cumsum(0)
    won = upper**n - (upper - mass).clamp(min=0) ** n
    return torch.where(probability > 0, won[level] * probability / mass[level], 0.0)


def imitation_with_prior(kept: Tensor, prior: Tensor, weight: float) -> Tensor:
    """[Y]: where -sum kept log p + weight KL(prior || p) is least, (kept + weight prior) / (1 + weight).

    Source: the supervised loss of SuperHF (Mukobi et al. 2023, arXiv 2310.16763), solved for a single distribution.

    Shapes: kept, prior [Y]. Raises: ValueError when shapes differ.
    """
    require_same_shape(kept=kept, prior=prior)
    return (kept + weight * prior) / (1 + weight)


def inverse_loss_factor(loss: float, weight: float) -> float:
    """1 - weight / loss^2: what the gradient of the loss is multiplied with to be that of loss + weight / loss.

    It is 0 at loss = sqrt(weight), the minimum, and negative below. Source: the released code of SuperHF (arXiv 2310.16763).
    Raises: ValueError when the loss is not positive.
    """
    require_positive("loss", loss)
    return 1.0 - weight / loss**2
