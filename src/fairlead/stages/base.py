"""What every stage shares."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from fairlead.data import DataSource
from fairlead.models import ModelSpec
from fairlead.parts import Part
from fairlead.runs import StageRun

__all__ = ["Model", "Sources", "Stage"]

Model = Annotated[ModelSpec, BeforeValidator(ModelSpec.coerce)]
"""A model in a recipe: its path, or a mapping."""


def _several(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


Sources = Annotated[list[DataSource], BeforeValidator(_several)]
"""Data in a recipe: one source (its path, or a mapping) or a list of them."""


class Stage(Part, slot="stage"):
    """One stage of a recipe: an ordinary loop over calls on model groups."""

    save_every: int = Field(50, ge=0, description="steps between checkpoints; 0: only when asked to stop")
    retain: int = Field(1, ge=1, description="how many checkpoints to keep")

    @abstractmethod
    def run(self, run: StageRun) -> dict[str, Any]:
        """Do the work (from the last checkpoint on) and return what `StageRun.finish` wrote."""
