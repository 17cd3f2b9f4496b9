"""Series made ready to be drawn: smoothed, thinned, freed of spikes.

Knows: arrays.
Does not know: pixels.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Vector", "envelope", "smooth", "thin", "without_spikes"]

Vector: TypeAlias = "NDArray[np.float64]"

_SMOOTH_FROM = 16  # points; fewer are drawn as they are


def smooth(values: Vector) -> Vector:
    """Gaussian smoothing without lag, a twenty-fifth of the series wide; short series come back as they are (the same array)."""
    if values.size < _SMOOTH_FROM:
        return values
    width = max(1.0, values.size / 25)
    reach = math.ceil(3 * width)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    total = np.convolve(values, kernel, mode="full")[reach : reach + values.size]
    weight = np.convolve(np.ones_like(values), kernel, mode="full")[reach : reach + values.size]
    return np.asarray(total / weight, dtype=np.float64)


def without_spikes(values: Vector) -> Vector:
    """The middle 98 %: one wild step must not flatten the rest (it is clipped at the edge instead)."""
    if values.size < 50:
        return values
    low, high = np.quantile(values, [0.01, 0.99])
    return values[(values >= low) & (values <= high)]


def thin(x: Vector, y: Vector, points: int) -> tuple[Vector, Vector]:
    """At most `points` of them, evenly spread, the first and the last among them."""
    if x.size <= points:
        return x, y
    keep = np.unique(np.linspace(0, x.size - 1, max(points, 2)).round().astype(np.int64))
    return x[keep], y[keep]


def envelope(x: Vector, y: Vector, points: int) -> tuple[Vector, Vector]:
    """The lowest and the highest point of each stretch, so that thinning does not hide the noise."""
    if x.size <= points:
        return x, y
    keep: list[int] = []
    for part in np.array_split(np.arange(x.size), points // 2):
        keep += sorted({int(part[y[part].argmin()]), int(part[y[part].argmax()])})
    return x[keep], y[keep]
