"""What becomes of a score before it is a reward.

Knows numbers of responses: scores, lengths. Does not know tokens, policies or what a score means.
"""

from __future__ import annotations

from torch import Tensor

from fairlead.functional._checks import at_least_float32, require_positive

__all__ = ["overlong_penalty"]


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
