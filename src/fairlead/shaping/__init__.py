"""Shaping: what becomes of a score before it is a reward."""

from fairlead.shaping.base import Shaping
from fairlead.shaping.basic import Clip, MissingEnd, Normalise

__all__ = ["Clip", "MissingEnd", "Normalise", "Shaping"]
