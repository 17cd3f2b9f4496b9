"""What a recipe is.

Knows: the keys of a recipe outside its stages.
Does not know: what the stages do; each is a part that validates itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fairlead.parts import nearest
from fairlead.runtime import RuntimeSpec
from fairlead.stages import Stage

__all__ = ["DataSpec", "Recipe", "stage_references"]


class DataSpec(BaseModel):
    """Where data sets lie."""

    model_config = ConfigDict(extra="forbid")

    root: str | None = Field(
        None, description="folder below which relative data paths are looked up; null: FAIRLEAD_DATA"
    )


class Recipe(BaseModel):
    """A named list of stages, and where and how they run.

    `stages` maps an identifier to a stage. `part` may be left out where the identifier is the name of the stage part. Where a
    model is asked for, `stage:ID` is what an earlier stage made.
    """

    model_config = ConfigDict(extra="forbid")

    name: str = Field("run", description="name of the run and of its directory")
    about: str = Field("", description="what the recipe shows, in a sentence or two")
    seed: int = Field(0, ge=0, description="every random number of the run follows from it")
    data: DataSpec = Field(default_factory=DataSpec, description="where data sets lie")
    runtime: RuntimeSpec = Field(default_factory=RuntimeSpec, description="where models run")
    plugins: list[str] = Field(
        default_factory=list, description="modules to import first, which define parts of your own"
    )
    trackers: list[str] = Field(
        default_factory=list, description="wandb, trackio: experiment trackers that are installed"
    )
    stages: dict[str, Stage] = Field(min_length=1, description="identifier → stage, run in this order")

    @model_validator(mode="before")
    @classmethod
    def _name_parts(cls, value: Any) -> Any:
        """A stage without `part` is the part of its identifier."""
        if not isinstance(value, dict) or not isinstance(value.get("stages"), dict):
            return value
        stages = {
            key: {"part": key, **stage} if isinstance(stage, dict) else ({"part": key} if stage is None else stage)
            for key, stage in value["stages"].items()
        }
        return value | {"stages": stages}

    @model_validator(mode="after")
    def _identifiers(self) -> Recipe:
        for identifier in self.stages:
            if not identifier.replace("-", "").replace("_", "").isalnum():
                raise ValueError(f"stage identifier {identifier!r} must be made of letters, digits, - and _")
        return self

    @model_validator(mode="after")
    def _stages_that_are_named(self) -> Recipe:
        """`stage:ID` must name an earlier stage; better said now than after an hour."""
        earlier: list[str] = []
        for identifier, stage in self.stages.items():
            for path, name in stage_references(stage.model_dump(), f"stages.{identifier}"):
                if name not in earlier:
                    raise ValueError(f"{path}: 'stage:{name}' names no earlier stage; {nearest(name, earlier)}")
            earlier.append(identifier)
        return self


def stage_references(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Path and identifier of every `stage:ID` in a tree."""
    if isinstance(value, str) and value.startswith("stage:"):
        yield path, value.removeprefix("stage:")
    elif isinstance(value, dict | list):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from stage_references(child, f"{path}.{key}")
