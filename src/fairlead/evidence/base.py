"""The experiment slot: what a method claims, how it is measured, and by which rule the claim held.

Knows: figures of a method and of its baseline over seeds.
Does not know: worlds, stages, files.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import ClassVar

from fairlead.parts import Part

__all__ = ["AtMost", "Better", "EvidenceError", "Experiment", "Measurement", "Rule"]


class EvidenceError(ValueError):
    """An experiment or a ledger cannot be used; the message says what to write instead."""


@dataclass(frozen=True)
class Measurement:
    """What one seed gave."""

    method: dict[str, float]
    baseline: dict[str, float] = field(default_factory=dict)
    courses: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """For a picture: what is drawn → its quantities as they went on, lists of one length."""


class Rule(ABC):
    """A condition on the figures of all seeds, fixed in the code of the experiment before it runs."""

    figure: str

    @abstractmethod
    def held(self, measurements: Sequence[Measurement]) -> bool:
        """Whether the condition is met."""

    @abstractmethod
    def sentence(self) -> str:
        """The condition in words."""


@dataclass(frozen=True)
class Better(Rule):
    """The method's mean figure is at most `share` of the baseline's, and it is lower for every seed but at most `except_for`."""

    figure: str
    share: float = 1.0
    except_for: int = 0

    def held(self, measurements: Sequence[Measurement]) -> bool:
        ours = [m.method[self.figure] for m in measurements]
        theirs = [m.baseline[self.figure] for m in measurements]
        lost = sum(a >= b for a, b in zip(ours, theirs, strict=True))
        return fmean(ours) <= self.share * fmean(theirs) and lost <= self.except_for

    def sentence(self) -> str:
        times = "" if self.share == 1 else f"{self.share:g} times "
        seeds = "for every seed" if not self.except_for else f"for all seeds but {self.except_for}"
        return f"{self.figure}: the mean is at most {times}the baseline's, and it is lower {seeds}"


@dataclass(frozen=True)
class AtMost(Rule):
    """The method's figure is at most `limit` for every seed."""

    figure: str
    limit: float

    def held(self, measurements: Sequence[Measurement]) -> bool:
        return all(m.method[self.figure] <= self.limit for m in measurements)

    def sentence(self) -> str:
        return f"{self.figure}: at most {self.limit:g} for every seed"


class Experiment(Part, slot="experiment"):
    """The experiment of the method whose name it bears. All figures that rules speak of are better when lower."""

    claim: ClassVar[str]
    """What the paper says, in a sentence."""
    experiment: ClassVar[str]
    """What is done, in words, with its sizes."""
    baseline: ClassVar[str]
    """What the method is compared with."""
    rules: ClassVar[tuple[Rule, ...]]
    """The claim held when all of them did."""
    remarks: ClassVar[str] = ""
    """What a reader of the figures should know, above all where a claim does not hold."""

    @abstractmethod
    def measure(self, seed: int, folder: Path) -> Measurement:
        """Run method and baseline with one seed; `folder` is empty and is thrown away afterwards."""
