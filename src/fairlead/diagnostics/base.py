"""The diagnostic slot: `(policy, experience) → metrics`."""

from __future__ import annotations

from abc import abstractmethod

from fairlead.batch import Experience
from fairlead.parts import Part
from fairlead.runtime import ModelGroup, Opener

__all__ = ["Diagnostic"]


class Diagnostic(Part, slot="diagnostic"):
    """Something measured while a policy learns, which it never learns from."""

    def open(self, run: Opener, name: str) -> None:
        """Open whatever is needed; called once before the first step."""

    @abstractmethod
    def __call__(self, policy: ModelGroup, experience: Experience) -> dict[str, float]:
        """Metrics, logged as `diagnostic/NAME`."""
