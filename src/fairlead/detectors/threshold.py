"""A limit on any metric."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Self

from pydantic import Field, model_validator

from fairlead.batch import Experience
from fairlead.detectors.base import Alarm, Detector

__all__ = ["Threshold"]


class Threshold(Detector, name="threshold"):
    """A metric lies above or below a limit, in the mean over the window.

    Source: none; what a limit means is its user's to say.
    """

    metric: str = Field(description="name of the metric; `*` stands for anything, and each that fits is looked at")
    above: float | None = Field(None, description="the mean must not exceed this")
    below: float | None = Field(None, description="the mean must not fall below this")
    title: str = Field("A metric has left its limits", description="what the warning says first")
    remedy: str = Field("Look at the metric's course in the report.", description="what the warning says last")

    @model_validator(mode="after")
    def _a_limit(self) -> Self:
        if self.above is None and self.below is None:
            raise ValueError("a threshold needs `above`, `below`, or both")
        return self

    def look(self, metrics: dict[str, float], experience: Experience) -> Alarm | None:
        found = []
        for name in sorted(metrics):
            if not fnmatchcase(name, self.metric):
                continue
            mean = self.mean(name, metrics[name])
            if mean is not None and self.above is not None and mean > self.above:
                found.append(f"{name} is {mean:.3g}, above {self.above:g}")
            if mean is not None and self.below is not None and mean < self.below:
                found.append(f"{name} is {mean:.3g}, below {self.below:g}")
        return Alarm(self.title, "; ".join(found) + ".", self.remedy) if found else None
