"""Selection: which samples are learned from."""

from fairlead.selection.base import Selection
from fairlead.selection.basic import DropFlatGroups, DropTruncated, KeepBand
from fairlead.selection.filtration import PolicyFiltration

__all__ = ["DropFlatGroups", "DropTruncated", "KeepBand", "PolicyFiltration", "Selection"]
