"""Which figures a stage is shown by, and how each is to be read.

Metrics that no figure here asks for are drawn too, one small chart each, so that a part of your own is seen without a change.
"""

from fairlead.report.figures.base import Figure, Group
from fairlead.report.figures.curves import LEARNING, SPECS, Spec
from fairlead.report.figures.reward import frontier_chart, frontier_lines
from fairlead.report.figures.stage import glance, stage_figures

__all__ = [
    "LEARNING",
    "SPECS",
    "Figure",
    "Group",
    "Spec",
    "frontier_chart",
    "frontier_lines",
    "glance",
    "stage_figures",
]
