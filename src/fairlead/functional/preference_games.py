"""Preference games: two players each choose a distribution over responses, and a preference says who wins.

Knows tables: P [Y, Y] with P[i, j] = P(i > j), distributions [Y]. Does not know tokens, models or prompts.

A preference need not come from a score: a can beat b, b beat c, and c beat a. What takes the place of the best response is the
Nash policy, which no other policy beats.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fairlead.functional._checks import require_dimensions, require_positive

_ROUNDS = 100_000
_REST = 1e-13
_CAUTIOUS = 2.0  # inverse step size at which mirror descent settles for any preference


def win_rates(preference: Tensor, comparable: Tensor) -> Tensor:
    """[B]: mean probability with which each response beats those that it is compared with; NaN for one without opponents.

    preference: [B, B], P(row beats column); comparable: [B, B] bool. Entries that are not finite are left out.
    """
    counted = comparable & torch.isfinite(preference)
    return torch.where(counted, preference, 0.0).sum(1) / counted.sum(1)


def mirror_descent_step(policy: Tensor, reference: Tensor, preference: Tensor, eta: float, tau: float) -> Tensor:
    """[Y]: pi_t^(1 - tau/eta) pi_ref^(tau/eta) exp(P(y > pi_t) / eta), normalised.

    Source: Zhang et al. 2024 (INPO, arXiv 2407.00617), eq. 4; `eta` is an inverse step size.

    Shapes: policy, reference [Y]; preference [Y, Y]. Raises: ValueError on other shapes and eta not positive.
    """
    _require_game(policy, preference)
    require_positive("eta", eta)
    pull = tau / eta
    return torch.softmax((1 - pull) * policy.log() + pull * reference.log() + preference @ policy / eta, dim=0)


def nash_policy(reference: Tensor, preference: Tensor, tau: float) -> Tensor:
    """[Y]: the Nash policy of the game with payoff P(pi > pi') - tau KL(pi | ref) + tau KL(pi' | ref).

    It is the only pi with pi ~ ref exp(P(y > pi) / tau); mirror descent with a cautious step is run until it rests there.

    Source: Munos et al. 2023 (arXiv 2312.00886), section 3. Shapes as in `mirror_descent_step`.
    Raises: ValueError when it does not come to rest, which takes a tau that is tiny beside the preferences.
    """
    require_positive("tau", tau)
    policy = reference
    for _ in range(_ROUNDS):
        following = mirror_descent_step(policy, reference, preference, max(_CAUTIOUS, tau), tau)
        if float((following - policy).abs().max()) < _REST:
            return following
        policy = following
    raise ValueError(f"no rest after {_ROUNDS:,} steps of mirror descent at tau {tau:g}")


def exploitability(policy: Tensor, preference: Tensor) -> Tensor:
    """Scalar: by how much the best answer to a policy wins more often than every second time, max_y P(y > pi) - 1/2.

    Shapes: policy [Y], preference [Y, Y]. It is 0 at the Nash policy without regularisation and positive elsewhere.
    """
    _require_game(policy, preference)
    return (preference @ policy).max() - 0.5


def _require_game(policy: Tensor, preference: Tensor) -> None:
    require_dimensions("policy", policy, "Y")
    if preference.shape != (policy.shape[0], policy.shape[0]):
        raise ValueError(f"preference must be [Y, Y] with Y = {policy.shape[0]}, got {tuple(preference.shape)}")
