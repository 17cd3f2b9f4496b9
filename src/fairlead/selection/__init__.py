"""Selection: which samples are learned from."""

from fairlead.selection.base import Selection
from fairlead.selection.basic import BestOfN, DropFlatGroups, DropTruncated, KeepBand
from fairlead.selection.feasible import BestFeasible, FeasiblePair
from fairlead.selection.filtration import PolicyFiltration
from fairlead.selection.pairing import BestWorst, Pairing, RandomPair
from fairlead.selection.pairs import Pairs
from fairlead.selection.tasks import SelectionByTask

__all__ = [
    "BestFeasible",
    "BestOfN",
    "BestWorst",
    "DropFlatGroups",
    "DropTruncated",
    "FeasiblePair",
    "KeepBand",
    "Pairing",
    "Pairs",
    "PolicyFiltration",
    "RandomPair",
    "Selection",
    "SelectionByTask",
]
