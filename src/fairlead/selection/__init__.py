"""Selection: which samples are learned from."""

from fairlead.selection.base import Selection
from fairlead.selection.basic import DropFlatGroups, DropTruncated, KeepBand
from fairlead.selection.feasible import BestFeasible, FeasiblePair
from fairlead.selection.filtration import PolicyFiltration
from fairlead.selection.pairing import BestWorst, Pairing, RandomPair
from fairlead.selection.pairs import Pairs
from fairlead.selection.tasks import SelectionByTask

__all__ = [
    "BestFeasible",
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
