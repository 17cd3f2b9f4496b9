"""Where a critic comes from: a model of its own, or a head on the policy.

Knows: how a recipe says it.
Does not know: what values are used for.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from fairlead.models import ModelSpec

__all__ = ["Critic", "Trunk"]


class Trunk(BaseModel):
    """A critic that is a head on the policy's own trunk: one forward pass, one backward pass and one optimiser for both."""

    model_config = ConfigDict(extra="forbid")

    trunk: Literal["policy"] = Field(description="the model that the head sits on")
    coefficient: float = Field(0.1, gt=0, description="weight of the critic's loss beside the policy's")


def _model_or_trunk(value: Any) -> Any:
    """Decided by the key `trunk`, so that a mistake in one is not reported as two."""
    if isinstance(value, dict):
        return (Trunk if "trunk" in value else ModelSpec).model_validate(value)
    return ModelSpec(path=value) if isinstance(value, str) else value


Critic = Annotated[ModelSpec | Trunk, BeforeValidator(_model_or_trunk)]
"""A critic in a recipe: a model (its path, or a mapping), or a head on the policy's trunk."""
