"""Merging: one set of weights from several."""

from fairlead.merging.base import Merger
from fairlead.merging.parts import DARE, TIES, Linear, Slerp, TaskArithmetic

__all__ = ["DARE", "TIES", "Linear", "Merger", "Slerp", "TaskArithmetic"]
