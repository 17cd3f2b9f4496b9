"""Preference games: two players each choose a distribution over responses, and a preference says who wins.

Knows tables: P [Y, Y] with P[i, j] = P(i > j), distributions [Y]; and the policy gradient of sampled responses. Does not know
models or prompts.

A preference need not come from a score: a can beat b, b beat c, and c beat a. What takes the place of the best response is the
Nash policy, which no other policy beats.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fairlead.functional._checks import require_dimensions, require_positive, require_range, require_same_shape
from fairlead.functional.advantages import broadcast_to_tokens, discounted_returns
from fairlead.functional.masks import masked_sum

_ROUNDS = 100_000
_REST = 1e-13
_NEWTON_STEPS = 100
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


def geometric_mixture(policy: Tensor, reference: Tensor, share: float) -> Tensor:
    """[Y]: pi^(1 - share) ref^share, normalised: 0 gives the policy, 1 the reference.

    Source: the mixture of Nash-MD (Munos et al. 2023, arXiv 2312.00886).

    Shapes: policy, reference [Y]. Raises: ValueError on other shapes and a share outside [0, 1].
    """
    require_range("share", share, 0.0, 1.0)
    require_same_shape(policy=policy, reference=reference)
    return torch.softmax((1 - share) * policy.log() + share * reference.log(), dim=0)


def nash_md_step(policy: Tensor, reference: Tensor, preference: Tensor, eta: float, tau: float) -> Tensor:
    """[Y]: mix exp(eta P(y > mix)), normalised, with mix = geometric_mixture(policy, reference, eta tau).

    With pi* the Nash policy, KL(pi* | next) <= (1 - eta tau) KL(pi* | policy) + 2 eta^2, so that the step size 2 / (tau (t + 2))
    comes to rest at it.

    Source: Nash-MD and its bound, Munos et al. 2023 (arXiv 2312.00886); `eta` is a step size (INPO's is an inverse one).
    Shapes as in `mirror_descent_step`. Raises: ValueError on other shapes, eta not positive, eta tau above 1.
    """
    _require_game(policy, preference)
    require_positive("eta", eta)
    mixture = geometric_mixture(policy, reference, eta * tau)
    return torch.softmax(mixture.log() + eta * (preference @ mixture), dim=0)


def nash_coefficients(wins: Tensor, penalties: Tensor, mask: Tensor, to_go: bool = False) -> Tensor:
    """Weight of log pi(y_t): wins - 1/2 - the penalties of the whole response, or with `to_go` of this token and later ones.

    With penalties tau log(pi / ref) its expectation is the gradient of P(pi > opponent) - tau KL(pi | ref), the opponent fixed.
    Source: Nash-MD-PG and Nash-EMA-PG, Munos et al. 2023 (arXiv 2312.00886).

    Shapes: wins [B], the probability of beating the opponent; penalties and mask [B, T]. Returns [B, T] without gradient,
    exactly 0 where masked. Raises: ValueError on other shapes.
    """
    require_same_shape(penalties=penalties, mask=mask)
    excess = broadcast_to_tokens(wins - 0.5, mask)
    if to_go:
        return excess - discounted_returns(penalties, mask, 1.0)
    return excess - broadcast_to_tokens(masked_sum(penalties, mask, dim=1), mask)


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


def bradley_terry_scores(preference: Tensor, frequency: Tensor | None = None) -> Tensor:
    """[Y]: the scores r, of mean 0, whose sigmoid(r_i - r_j) is likeliest when pairs are judged by P.

    What endless data would teach a reward model. Where no score explains P they depend on `frequency`, [Y, Y], how often each
    pair is compared (default: all as often).

    Source: Bradley and Terry 1952; Newton's method.
    Shapes: preference [Y, Y]. Raises: ValueError on other shapes, and when no finite scores are likeliest.
    """
    often = torch.ones_like(preference) if frequency is None else frequency
    require_same_shape(preference=preference, frequency=often)
    scores = torch.zeros(preference.shape[0], dtype=preference.dtype)
    for _ in range(_NEWTON_STEPS):
        predicted = torch.sigmoid(scores[:, None] - scores[None, :])
        slope = often * (preference - predicted) - (often * (preference - predicted)).T
        weight = often * predicted * (1 - predicted)
        weight = weight + weight.T
        curvature = torch.diag(weight.sum(1)) - weight
        step = torch.linalg.pinv(curvature, hermitian=True) @ slope.sum(1)
        scores = scores + step
        if float(step.abs().max()) < _REST:
            return scores - scores.mean()
    raise ValueError(f"no rest after {_NEWTON_STEPS} steps: some response always wins, so that its score has no limit")


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
