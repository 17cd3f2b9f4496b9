"""Shaping: what becomes of a score before it is a reward."""

from fairlead.shaping.base import Shaping
from fairlead.shaping.basic import Clip, Gated, MissingEnd, Normalise, Overlong

__all__ = ["Clip", "Gated", "MissingEnd", "Normalise", "Overlong", "Shaping"]
