"""Constraints: limits on what a policy costs."""

from fairlead.constraints.base import Constraint, cost_lesson, with_lagrangian, with_lessons
from fairlead.constraints.lagrangian import HighConfidence, Lagrangian

__all__ = ["Constraint", "HighConfidence", "Lagrangian", "cost_lesson", "with_lagrangian", "with_lessons"]
