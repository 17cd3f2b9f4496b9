"""What a figure is, and colours that mean the same in all of them.

Knows: titles, readings, groups.
Does not know: metrics.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fairlead.report.charts import Drawing

__all__ = ["JUDGE", "PROXY", "Figure", "Group"]

PROXY, JUDGE = 1, 2
"""Colour numbers that mean the same everywhere: what was trained on, and who looked on independently."""


@dataclass(frozen=True)
class Figure:
    """A chart with its title and one sentence on how to read it."""

    title: str
    drawing: Drawing
    reading: str
    wide: bool = False


@dataclass
class Group:
    """Figures under one heading; a folded group is closed until someone wants it."""

    title: str
    figures: list[Figure] = field(default_factory=list)
    folded: bool = False
