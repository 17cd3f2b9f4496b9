"""The local back end: the model lives in this process and a verb is a direct call.

Knows: one worker.
Does not know: anything that the worker does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from fairlead.batch import Batch, Prompts, Samples
from fairlead.generation import Sampling
from fairlead.runtime.forward import Outputs
from fairlead.runtime.group import GroupSpec, Lesson, Mixture, ModelGroup
from fairlead.runtime.worker import ModelWorker

__all__ = ["LocalGroup"]


class LocalGroup(ModelGroup):
    """A model group in this process."""

    def __init__(self, spec: GroupSpec) -> None:
        self.spec = spec
        self.worker = ModelWorker(spec)

    def generate(self, prompts: Prompts, sampling: Sampling, mixture: Mixture | None = None) -> Samples:
        if mixture is None:
            return self.worker.generate(prompts, sampling, self.watcher)
        return self.worker.generate(prompts, sampling, self.watcher, mixture.share, _worker(mixture.other))

    def outputs(
        self, batch: Batch, needs: tuple[str, ...], temperature: float = 1.0, reference: bool = False
    ) -> Outputs:
        return self.worker.outputs(batch, needs, temperature, reference)

    def step(self, lessons: Sequence[Lesson], reference: ModelGroup | None = None) -> dict[str, float]:
        return self.worker.step(lessons, _worker(reference))

    def weights(self) -> dict[str, Tensor]:
        return self.worker.weights()

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        self.worker.load_weights(weights)

    def save(self, directory: Path) -> None:
        self.worker.save(directory)

    def load(self, directory: Path) -> None:
        self.worker.load(directory)

    def slow_down(self, factor: float) -> None:
        self.worker.slow_down(factor)

    def export(self, directory: Path, dtype: str | None = None) -> None:
        self.worker.export(directory, dtype)


def _worker(other: ModelGroup | None) -> ModelWorker | None:
    """The worker of another group that takes part in a call."""
    if other is not None and not isinstance(other, LocalGroup):
        raise ValueError(f"the group {other.spec.role} does not live in this process: open both with the same runtime")
    return None if other is None else other.worker
