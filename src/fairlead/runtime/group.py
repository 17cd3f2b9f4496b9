"""The model group: the only thing that touches a model, in six verbs.

Knows: what can be asked of a model wherever it lives, and how a batch is cut into minibatches.
Does not know: where the model lives (subclasses do), what an objective computes.

Verbs: `generate`, `token_logprobs`, `values`, `scores`, `update`, `weights` (with `load_weights`), and for keeping
`save`/`load` (training state) and `export` (an ordinary Hugging Face checkpoint). Calls carry batches and parts, never
closures over live objects, so that a back end may send them to other processes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from fairlead.batch import AnyBatch, Batch, Prompts, Samples, take
from fairlead.data import TextCodec
from fairlead.generation import Sampling, VllmSpec, Watcher
from fairlead.models import ModelKind, ModelSpec, context_of, load_config, load_tokenizer
from fairlead.runtime.forward import Outputs
from fairlead.runtime.optimiser import OptimiserSpec

__all__ = [
    "GroupSpec",
    "Lesson",
    "Mixture",
    "ModelGroup",
    "Opener",
    "Precision",
    "Trainable",
    "add_metrics",
    "exceeds_limits",
    "under",
]

T = TypeVar("T")


@runtime_checkable
class Trainable(Protocol):
    """What `update` needs of an objective.

    `prepare` sees the whole minibatch and sets its `loss_weight`, so that the sum over any micro-batches of
    `loss_weight × loss` is the loss of the minibatch. `__call__` returns that sum for a micro-batch, and metrics that
    add up in the same way. `limits` names metrics that end the update where they exceed a number.
    """

    @property
    def needs(self) -> tuple[str, ...]: ...

    @property
    def temperature(self) -> float: ...

    @property
    def limits(self) -> dict[str, float]: ...

    def prepare(self, batch: Any) -> Any: ...

    def __call__(self, outputs: Outputs, batch: Any) -> tuple[Tensor, dict[str, Tensor]]: ...


Precision = Literal["float32", "bfloat16"]


class GroupSpec(BaseModel):
    """Everything that a back end needs to open a group, in a form that travels between processes."""

    model_config = ConfigDict(extra="forbid")

    role: str = Field(description="policy, critic, reference, reward, …: the name in metrics and checkpoints")
    model: ModelSpec = Field(description="which model, and how it is opened")
    kind: ModelKind = Field("causal", description="a language model, or a model with a scalar head")
    labels: int = Field(1, ge=1, description="outputs of a scalar head")
    value_head: bool = Field(False, description="a language model that also gives values, from a head of its own")
    optimiser: OptimiserSpec | None = Field(None, description="null for a group that is never trained")
    precision: Precision = Field(
        "float32", description="arithmetic of matrix products, the same for training and reading"
    )
    vllm: VllmSpec | None = Field(None, description="sample with vLLM, set up like this; null: with the own engine")
    seed: int = Field(0, description="seed of dropout, counted on with every step")
    weights_seed: int = Field(
        0, description="seed of new weights; one for all roles, so that a reference begins as the policy does"
    )

    @property
    def exact_sampler(self) -> bool:
        """True where the sampler finds the log-probabilities of another pass, but for the rounding of single precision."""
        return self.vllm is None and self.precision == self.model.dtype == "float32"


@dataclass(frozen=True)
class Lesson:
    """A minibatch and the loss that is learned from it."""

    batch: Any
    objective: Trainable
    weight: float = 1.0
    """Of the loss in the sum; metrics are without it."""
    name: str = ""
    """Stands before the names of its metrics."""

    def named(self, metrics: dict[str, float]) -> dict[str, float]:
        """Metrics under the lesson's own names."""
        return under(self.name, metrics) if self.name else metrics

    @property
    def limits(self) -> dict[str, float]:
        """The objective's limits under the lesson's own names."""
        return self.named(self.objective.limits)

    def prepared(self) -> Lesson:
        """The lesson with the weights that its objective gives the minibatch."""
        return replace(self, batch=self.objective.prepare(self.batch))

    def shares(self, count: int) -> list[Lesson]:
        """Its rows in order, dealt out to as many steps; a step may get none, and then has no such lesson."""
        order = torch.arange(int(self.batch.batch_size[0]))
        return [replace(self, batch=take(self.batch, part)) for part in order.tensor_split(count) if len(part)]


def under(name: str, metrics: dict[str, T]) -> dict[str, T]:
    """Metrics as `name/…`; what is combined by the maximum still begins with `max/`."""
    parts = {key: key.rpartition("max/") for key in metrics}
    return {f"{parts[key][1]}{name}/{parts[key][2]}": value for key, value in metrics.items()}


def add_metrics(totals: dict[str, float], more: dict[str, float]) -> None:
    """Add the metrics of a part of a minibatch to those of the others; of `max/…` the larger stays."""
    for name, value in more.items():
        known = totals.get(name)
        if known is None:
            totals[name] = value
        else:
            totals[name] = max(known, value) if name.startswith("max/") else known + value


def exceeds_limits(lessons: Sequence[Lesson], metrics: dict[str, float]) -> bool:
    """Whether a metric of a step is above a limit of one of its lessons."""
    return any(metrics.get(name, 0.0) > limit for lesson in lessons for name, limit in lesson.limits.items())


class Opener(Protocol):
    """Who opens model groups for parts: the run of a stage."""

    def open(self, role: str, model: ModelSpec, kind: ModelKind = "causal") -> ModelGroup: ...


@dataclass(frozen=True)
class Mixture:
    """Another model that takes part in sampling: softmax((1 − share)·logits + share·its logits), token by token."""

    share: float
    """In (0, 1]."""
    other: ModelGroup | None
    """A group of the same back end; None: the sampled model itself without its adapters."""


class ModelGroup(ABC):
    """One model, or one set of model replicas, behind the verbs."""

    spec: GroupSpec
    watcher: Watcher | None = None

    @cached_property
    def codec(self) -> TextCodec:
        """The tokenizer of the model with its chat template."""
        return TextCodec(load_tokenizer(self.spec.model))

    @cached_property
    def context(self) -> int | None:
        """Tokens that prompt and response may have together; None where the model does not say."""
        own = self.spec.vllm.context if self.spec.vllm is not None else None
        return own or context_of(load_config(self.spec.model))

    @abstractmethod
    def generate(self, prompts: Prompts, sampling: Sampling, mixture: Mixture | None = None) -> Samples:
        """One response for each row of `prompts`; row i depends on its own prompt and seed only.

        With a `mixture` it is drawn from the mixture of two models. Raises ValueError where a sampler or back end cannot do that.
        """

    @abstractmethod
    def outputs(
        self, batch: Batch, needs: tuple[str, ...], temperature: float = 1.0, reference: bool = False
    ) -> Outputs:
        """Outputs without gradient for every row of `batch`; `reference=True` switches adapters off."""

    @abstractmethod
    def step(self, lessons: Sequence[Lesson], reference: ModelGroup | None = None) -> dict[str, float]:
        """One optimiser step on the sum of the losses of prepared minibatches; `reference` as in `update`.

        Where a metric exceeds a limit of its lesson no step is taken, and `stopped` is among the metrics.
        """

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """The full weights on the CPU, adapters merged, under the names of the plain model."""

    @abstractmethod
    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Replace the weights in place; names and shapes must be those of `weights`."""

    @abstractmethod
    def save(self, directory: Path) -> None:
        """Write weights, optimiser and step count, enough to continue bit for bit."""

    @abstractmethod
    def load(self, directory: Path) -> None:
        """Continue from what `save` wrote."""

    @abstractmethod
    def slow_down(self, factor: float) -> None:
        """Multiply the learning rate of every later step by `factor`; `save` and `load` carry the product of all factors."""

    @abstractmethod
    def export(self, directory: Path, dtype: str | None = None) -> None:
        """Write an ordinary Hugging Face checkpoint with its tokenizer."""

    @contextmanager
    def watched(self, watcher: Watcher | None) -> Iterator[None]:
        """While this is open, `watcher` is told rows as `generate` finishes them, on back ends that know before the end."""
        before, self.watcher = self.watcher, watcher
        try:
            yield
        finally:
            self.watcher = before

    def close(self) -> None:  # noqa: B027 - a group in this process has nothing to give back
        """Give back processes and memory; the group cannot be used afterwards."""

    # -- verbs that are the same everywhere --------------------------------------------------------------------------

    def token_logprobs(self, batch: Batch, temperature: float = 1.0, reference: bool = False) -> Tensor:
        """[B, T] (or [B, 2, T]) log-probability of each response token; 0 outside the mask."""
        return self.outputs(batch, ("logprobs",), temperature, reference).logprobs

    def values(self, batch: Batch) -> Tensor:
        """[B, T] value of the state before each response token; 0 outside the mask."""
        return self.outputs(batch, ("values",)).values

    def scores(self, batch: Batch) -> Tensor:
        """[B] (or [B, 2]) scalar at the last token of each response."""
        return self.outputs(batch, ("scores",)).scores

    def update(
        self,
        batch: AnyBatch,
        objective: Trainable,
        epochs: int = 1,
        minibatches: int = 1,
        seed: int = 0,
        reference: ModelGroup | None = None,
        beside: Lesson | None = None,
    ) -> dict[str, float]:
        """Train on `batch`: `epochs` passes, each cut into `minibatches` random parts with one optimiser step each.

        Every step also learns from its share of the rows of `beside`, which are dealt out once. The first step whose metrics exceed
        a limit of the objective is not taken and is the last; `optimiser_steps` then says how many were.
        Returns the mean of each metric over the steps (`max/…`: the maximum). Rows are dealt out by `seed`, so that every
        back end takes the same steps. `reference` is what an objective that needs `kl` or `forward_kl` compares with: a group of the
        same back end, or None for this model without its adapters.
        """
        rows = int(batch.batch_size[0])
        if rows == 0:
            raise ValueError("cannot update on an empty batch")
        generator = torch.Generator().manual_seed(seed)
        minibatches = min(minibatches, rows)
        others: Iterator[Lesson] = iter([] if beside is None else beside.shares(epochs * minibatches))
        history: list[dict[str, float]] = []
        taken = 0.0
        for part in _minibatches(batch, epochs, minibatches, generator):
            lessons = [Lesson(part, objective), *islice(others, 1)]
            history.append(self.step([lesson.prepared() for lesson in lessons], reference))
            if history[-1].pop("stopped", False):
                break
            taken += 1
        names = dict.fromkeys(name for metrics in history for name in metrics)
        found = {name: [metrics[name] for metrics in history if name in metrics] for name in names}
        means = {name: max(v) if name.startswith("max/") else sum(v) / len(v) for name, v in found.items()}
        return means | ({"optimiser_steps": taken} if objective.limits else {})


def _minibatches(batch: AnyBatch, epochs: int, count: int, generator: torch.Generator) -> Iterator[AnyBatch]:
    """`count` random parts of the batch, `epochs` times."""
    for _ in range(epochs):
        if count == 1:
            yield batch
        else:
            order = torch.randperm(int(batch.batch_size[0]), generator=generator)
            yield from (take(batch, part) for part in order.tensor_split(count))
