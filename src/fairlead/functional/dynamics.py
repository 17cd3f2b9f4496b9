"""How training curves go wrong: lengths that collapse, rewards that dip before they rise, domains that are forgotten.

Knows curves of numbers, one a step. Does not know where they come from.

Source: the phenomena are those of Balanced Actor Initialization (arXiv 2509.00309); the definitions are this project's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fairlead.functional._checks import require_positive

__all__ = ["dip_depth", "forgetting", "growth", "length_collapsed", "length_retention", "recovery_step", "running_mean"]

KEPT, CLOSE = 0.7, 0.9
EARLY, LATER = 0.1, 0.3


def running_mean(curve: Sequence[float], window: int) -> list[float]:
    """Mean of each value and those before it, `window` in all (fewer at the beginning).

    Raises: ValueError when window is not positive.
    """
    require_positive("window", window)
    return [math.fsum(curve[max(0, i + 1 - window) : i + 1]) / min(window, i + 1) for i in range(len(curve))]


def length_retention(lengths: Sequence[float], window: int = 5) -> float:
    """Smallest share of the first length that the (smoothed) lengths fall to: 1 for lengths that never fall.

    Raises: ValueError when there is no length or the first is not positive.
    """
    smooth = _smooth(lengths, window)
    require_positive("the first length", smooth[0])
    return min(smooth) / smooth[0]


def length_collapsed(lengths: Sequence[float], window: int = 5) -> bool:
    """Below 0.7 of the first length within the first tenth of the steps, and below 0.9 of it still after three tenths.

    Raises: ValueError as `length_retention` does.
    """
    smooth = _smooth(lengths, window)
    early, later = (max(1, round(share * (len(smooth) - 1))) for share in (EARLY, LATER))
    return (
        length_retention(lengths[: early + 1], window) < KEPT
        and smooth[min(later, len(smooth) - 1)] < CLOSE * smooth[0]
    )


def dip_depth(rewards: Sequence[float], window: int = 5) -> float:
    """(first − lowest) / (last − lowest): 0 for rewards that never fall below the first, infinite for those that end lowest.

    Raises: ValueError when there is no reward.
    """
    smooth = _smooth(rewards, window)
    lowest = min(smooth)
    if smooth[0] == lowest:
        return 0.0
    return math.inf if smooth[-1] == lowest else (smooth[0] - lowest) / (smooth[-1] - lowest)


def recovery_step(rewards: Sequence[float], window: int = 5) -> int | None:
    """The first step (counted from 0) after the lowest reward at which the first reward is reached again; None: never.

    Raises: ValueError when there is no reward.
    """
    smooth = _smooth(rewards, window)
    lowest = smooth.index(min(smooth))
    return next((step for step in range(lowest, len(smooth)) if smooth[step] >= smooth[0]), None)


def growth(curve: Sequence[float], window: int = 5) -> float:
    """(last − first) / first.

    Raises: ValueError when there is no value or the first is not positive.
    """
    smooth = _smooth(curve, window)
    require_positive("the first value", smooth[0])
    return (smooth[-1] - smooth[0]) / smooth[0]


def forgetting(table: Sequence[Sequence[float]]) -> list[float]:
    """By how much each domain is behind its best at the end: the largest value of each column less its last.

    `table`: a row of values for every stage, a column for every domain.
    Source: average forgetting of continual learning (Chaudhry et al. 2018, arXiv 1801.10112), for each task by itself.
    Raises: ValueError when there is no row or rows differ in length.
    """
    if not table or len({len(row) for row in table}) != 1:
        raise ValueError("need a row for every stage, all with the same domains")
    return [max(column) - column[-1] for column in zip(*table, strict=True)]


def _smooth(curve: Sequence[float], window: int) -> list[float]:
    if not curve:
        raise ValueError("a curve needs at least one value")
    return running_mean(curve, window)
