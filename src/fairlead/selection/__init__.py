"""Selection: which samples are learned from."""

from fairlead.selection.base import Selection
from fairlead.selection.basic import BestOfN, DropFlatGroups, DropTruncated, KeepBand
from fairlead.selection.filtration import PolicyFiltration
from fairlead.selection.pairing import BestWorst, Pairing, RandomPair

__all__ = [
    "BestOfN",
    "BestWorst",
    "DropFlatGroups",
    "DropTruncated",
    "KeepBand",
    "Pairing",
    "PolicyFiltration",
    "RandomPair",
    "Selection",
]
