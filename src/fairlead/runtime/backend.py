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
from fairlead.runtime.machine import fast_bfloat16, usable_cores

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
    samplers: int = Field(
        0,
        ge=0,
        description="worker processes of Ray that only sample, for `online`, which then trains meanwhile if it draws `ahead`; "
        "0: the policy samples where it is trained",
    )
    threads: int | None = Field(
        None,
        ge=1,
        description="CPU threads of torch in each process; null: torch's choice, on Ray and with samplers an equal share of the cores",
    )

    @property
    def threads_each(self) -> int | None:
        """Threads of each process; None leaves them to it."""
        if self.threads is None and self.samplers:
            return max(1, usable_cores() // (self.workers + self.samplers))
        return self.threads

    def settled(self) -> RuntimeSpec:
        """The same with `auto` decided for this machine; what a run writes down, so that it goes on as it began."""
        if self.precision != "auto":
            return self
        return self.model_copy(update={"precision": "bfloat16" if fast_bfloat16() else "float32"})


def open_group(spec: GroupSpec, runtime: RuntimeSpec, apart: bool = False) -> ModelGroup:
    """Open a model group on the chosen back end, or `apart` in the processes that only sample."""
    if runtime.backend == "local" and not apart:
        return LocalGroup(spec)
    from fairlead.runtime.ray_group import RayGroup  # Ray is optional and slow to import

    workers = runtime.samplers if apart else runtime.workers
    return RayGroup(spec, workers=workers, threads=runtime.threads_each, place="samplers" if apart else "workers")
