"""Shaping: what becomes of a score before it is a reward."""

from fairlead.shaping.base import Shaping
from fairlead.shaping.basic import BelowWorst, Clip, Gated, MissingEnd, Normalise, Overlong
from fairlead.shaping.calibrated import Calibrated, Constrained, KLFactor
from fairlead.shaping.tasks import ShapingByTask

__all__ = [
    "BelowWorst",
    "Calibrated",
    "Clip",
    "Constrained",
    "Gated",
    "KLFactor",
    "MissingEnd",
    "Normalise",
    "Overlong",
    "Shaping",
    "ShapingByTask",
]
