"""What becomes of a score before it is a reward.

Knows numbers of responses: scores, lengths. Does not know tokens, policies or what a score means.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fairlead.functional._checks import at_least_float32, require_positive

__all__ = ["below_worst", "gated_reward", "overlong_penalty"]


def below_worst(score: Tensor, flagged: Tensor, margin: float) -> Tensor:
    """The score, but where flagged the lowest score of the batch less a margin.

    Source: Nemotron-Cascade (arXiv 2512.13607), answers that mix languages, with a margin of 10. Scores that are no finite numbers are
    left out of the lowest, and stay.

    Shapes: score [B], flagged [B] bool; returns [B].
    """
    score = at_least_float32(score)
    finite = score[score.isfinite()]
    if finite.numel() == 0:
        return score
    return torch.where(flagged & score.isfinite(), finite.min() - margin, score)


def gated_reward(passed: Tensor, judged: Tensor, group: Tensor) -> Tensor:
    """Of a response that passes a rule 1 and the sigmoid of how a judge's score stands in its group; of any other 0.

    So what fails is always below what passes, and among what passes the judge decides. Scores are centred and divided by the standard
    deviation (of n) of all the group's finite scores, those that failed the rule included; equal scores give one half.
    Source: Nemotron-Cascade (arXiv 2512.13607), the reward of its stage for following instructions.

    Shapes: passed [B] (1 passes), judged [B] (NaN where the judge failed: so is the reward), group [B] int64; returns [B].
    """
    judged = at_least_float32(judged)
    standing = torch.full_like(judged, torch.nan)
    for number in torch.unique(group):
        rows = (group == number) & judged.isfinite()
        centred = judged[rows] - judged[rows].mean()
        standing[rows] = centred / centred.square().mean().sqrt().clamp(min=1e-8)
    return torch.where(passed == 1, 1 + torch.sigmoid(standing), 0.0) + 0.0 * (passed + standing)


def overlong_penalty(length: Tensor, maximum: int, buffer: int, floor: float | None = -1.0) -> Tensor:
    """Soft punishment of long responses: 0 up to maximum - buffer, then a straight line that reaches -1 at maximum.

    Beyond, it stays at `floor`; None lets it fall on (verl's reward manager).
    Source: DAPO (Yu et al. 2025, arXiv 2503.14476, eq. 13).

    Shapes: length [B] tokens; returns [B], at least float32.
    Raises: ValueError unless 0 < buffer <= maximum and floor is at most 0.
    """
    require_positive("buffer", buffer)
    if buffer > maximum:
        raise ValueError(f"buffer ({buffer}) must not exceed maximum ({maximum})")
    if floor is not None and floor > 0:
        raise ValueError(f"floor must not be positive, got {floor}")
    penalty = ((maximum - buffer - at_least_float32(length)) / buffer).clamp(max=0.0)
    return penalty if floor is None else penalty.clamp(min=floor)
