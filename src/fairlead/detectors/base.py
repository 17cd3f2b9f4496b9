"""The detector slot: `(step, metrics, experience) → alarm or nothing`.

Knows: that an alarm is raised once and not at every step, and what a detector remembers.
Does not know: which metrics mean what, what becomes of an alarm.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from pydantic import Field, PrivateAttr

from fairlead.batch import Experience
from fairlead.parts import Part

__all__ = ["Alarm", "Detector", "raised"]


@dataclass(frozen=True)
class Alarm:
    """Something that a person should know while the run goes on."""

    title: str
    what: str
    """What was measured, with its numbers."""
    remedy: str


class Detector(Part, slot="detector"):
    """Looks at every step of online learning and raises an alarm. It changes nothing that is learned."""

    window: int = Field(5, ge=1, description="steps over which means are taken")
    repeat: int = Field(100, ge=1, description="steps after an alarm before it may be raised again")

    _raised: int | None = PrivateAttr(None)
    _memory: dict[str, list[float]] = PrivateAttr(default_factory=dict)

    def __call__(self, step: int, metrics: dict[str, float], experience: Experience) -> Alarm | None:
        """The alarm of this step; None when there is none, or when it was raised less than `repeat` steps ago."""
        found = self.look(metrics, experience)
        if found is None or (self._raised is not None and step - self._raised < self.repeat):
            return None
        self._raised = step
        return found

    @abstractmethod
    def look(self, metrics: dict[str, float], experience: Experience) -> Alarm | None:
        """What this step shows; called once a step, in order."""

    def state_dict(self) -> dict[str, Any]:
        return {"raised": self._raised, "memory": {name: list(values) for name, values in self._memory.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._raised = state["raised"]
        self._memory = {name: list(values) for name, values in state["memory"].items()}

    # -- what parts remember with ------------------------------------------------------------------------------------

    def recent(self, name: str, value: float, count: int | None = None) -> list[float]:
        """The last `count` (`window`) values of `name`, this one included; fewer at the beginning."""
        values = self._memory.setdefault(name, [])
        values.append(value)
        del values[: -(count or self.window)]
        return values

    def mean(self, name: str, value: float) -> float | None:
        """Mean of `name` over the window; None until that is full."""
        values = self.recent(name, value)
        return fmean(values) if len(values) == self.window else None

    def at_first(self, name: str, value: float) -> float:
        """The first value of `name`. A mean over some steps would hide what goes wrong at once."""
        return self._memory.setdefault(f"{name} at first", [value])[0]


def raised(
    detectors: Mapping[str, Detector | None], step: int, metrics: dict[str, float], experience: Experience
) -> dict[str, Alarm]:
    """The alarms of a step by the detectors' names."""
    found = {name: detector(step, metrics, experience) for name, detector in detectors.items() if detector is not None}
    return {name: alarm for name, alarm in found.items() if alarm is not None}
