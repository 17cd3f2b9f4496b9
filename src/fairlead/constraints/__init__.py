"""Constraints: limits on what a policy costs, and bounds by which they are tested."""

from fairlead.constraints.base import Constraint, cost_lesson, with_lagrangian, with_lessons
from fairlead.constraints.bounds import Bound, MeanBound, ShareBound, TailBound
from fairlead.constraints.lagrangian import HighConfidence, Lagrangian

__all__ = [
    "Bound",
    "Constraint",
    "HighConfidence",
    "Lagrangian",
    "MeanBound",
    "ShareBound",
    "TailBound",
    "cost_lesson",
    "with_lagrangian",
    "with_lessons",
]
