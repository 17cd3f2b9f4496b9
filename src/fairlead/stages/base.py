"""What every stage shares."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from fairlead.data import DataSource
from fairlead.models import ModelSpec
from fairlead.parts import Part, parts_within
from fairlead.runs import StageRun

__all__ = ["EvenSources", "Model", "Sources", "Stage"]

Model = Annotated[ModelSpec, BeforeValidator(ModelSpec.coerce)]
"""A model in a recipe: its path, or a mapping."""


def _several(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _even(sources: list[DataSource]) -> list[DataSource]:
    weighted = [source.path for source in sources if source.weight != 1]
    if weighted:
        raise ValueError(
            f"`weight` has no effect here, where every record is used once: take it out of {weighted[0]!r}"
        )
    return sources


Sources = Annotated[list[DataSource], BeforeValidator(_several)]
"""Data in a recipe: one source (its path, or a mapping) or a list of them."""

EvenSources = Annotated[Sources, AfterValidator(_even)]
"""Sources that are read through, so that a weight would mean nothing."""


class Stage(Part, slot="stage"):
    """One stage of a recipe: an ordinary loop over calls on model groups."""

    save_every: int = Field(50, ge=0, description="steps between checkpoints; 0: only when asked to stop")
    retain: int = Field(1, ge=1, description="how many checkpoints to keep")

    def keep_parts(self, run: StageRun) -> None:
        """Make the state of every part of the stage, however deep, part of its checkpoints."""
        for path, part in parts_within(self):
            run.keep(f"parts/{path}", part)

    @abstractmethod
    def run(self, run: StageRun) -> dict[str, Any]:
        """Do the work (from the last checkpoint on) and return what `StageRun.finish` wrote."""
