"""What opens model groups where a part asks for one and there is no run."""

from __future__ import annotations

from typing import Any

from fairlead.models import ModelSpec
from fairlead.runtime import GroupSpec, LocalGroup

__all__ = ["House"]


class House:
    """Opens groups as a run does."""

    def open(self, role: str, model: ModelSpec, kind: Any = "causal") -> LocalGroup:
        return LocalGroup(GroupSpec(role=role, model=model, kind=kind))
