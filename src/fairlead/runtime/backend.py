"""Where model groups live: the one place that chooses a back end.

Knows: the names of the back ends.
Does not know: models, methods.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from fairlead.generation import VllmSpec
from fairlead.runtime.group import GroupSpec, ModelGroup, Precision
from fairlead.runtime.local import LocalGroup
from fairlead.runtime.machine import fast_bfloat16

__all__ = ["RuntimeSpec", "open_group"]


class RuntimeSpec(BaseModel):
    """Where and how model groups run."""

    model_config = ConfigDict(extra="forbid")

    backend: Literal["local", "ray"] = Field("local", description="this process, or data-parallel Ray workers")
    workers: int = Field(1, ge=1, description="replicas of each model on the Ray back end; the local one has one")
    precision: Precision | Literal["auto"] = Field(
        "float32",
        description="arithmetic of matrix products (bfloat16: autocast; auto: bfloat16 where the machine that starts the run does it in hardware, else float32); weights are kept in each model's `dtype`",
    )
    sampler: Literal["own", "vllm"] = Field(
        "own", description="what draws responses: the engine of this package, or vLLM (a GPU and the package vllm)"
    )
    vllm: VllmSpec = Field(
        default_factory=VllmSpec, description="how vLLM is set up; the own engine needs nothing of it"
    )
    threads: int | None = Field(
        None,
        ge=1,
        description="CPU threads of torch in each process; null: torch's choice, on Ray an equal share of the cores",
    )

    def settled(self) -> RuntimeSpec:
        """The same with `auto` decided for this machine; what a run writes down, so that it goes on as it began."""
        if self.precision != "auto":
            return self
        return self.model_copy(update={"precision": "bfloat16" if fast_bfloat16() else "float32"})


def open_group(spec: GroupSpec, runtime: RuntimeSpec) -> ModelGroup:
    """Open a model group on the chosen back end."""
    if runtime.backend == "local":
        return LocalGroup(spec)
    from fairlead.runtime.ray_group import RayGroup  # Ray is optional and slow to import

    return RayGroup(spec, workers=runtime.workers, threads=runtime.threads)
