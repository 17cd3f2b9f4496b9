"""One worker process of a back end with several: the models it holds, and how their gradients become one.

Knows: `ModelWorker`, torch.distributed.
Does not know: Ray, other roles, stages.

A process holds a replica of every role, so that roles share one device, one CUDA context and one communicator, and take
turns as the loop of a stage does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor, nn

from fairlead.generation import Sampling
from fairlead.runtime.dispatch import Parcel, pack, pack_tensor, unpack, unpack_tensor
from fairlead.runtime.group import GroupSpec, Lesson, exceeds_limits
from fairlead.runtime.worker import ModelWorker

__all__ = ["PeerError", "Replica", "sum_gradients"]

_store: Any = distributed.TCPStore  # type: ignore[attr-defined]
_BUCKET = 2**23  # float32 numbers in one all-reduce: large enough for bandwidth, small enough to need little memory
_PATIENCE = timedelta(minutes=30)  # ranks may finish a long micro-batch at different times


class PeerError(RuntimeError):
    """Another rank could not compute its share of the gradient, so this one has no step to take either."""


class Replica:
    """What runs in one process: rank `rank` of `world`, with a model for every role that was opened."""

    def __init__(self) -> None:
        self.rank, self.world = 0, 1
        self.backend = "nccl" if torch.cuda.is_available() else "gloo"
        self._store: Any = None
        self._models: dict[str, ModelWorker] = {}

    # -- coming together ---------------------------------------------------------------------------------------------

    def process_id(self) -> int:
        """The process, for messages about it."""
        return os.getpid()

    def meeting_point(self, host: str, world: int) -> int:
        """Open the store at which the ranks meet; returns its port. For rank 0."""
        self._store = _store(host, 0, world, is_master=True, wait_for_workers=False, timeout=_PATIENCE)
        return int(self._store.port)

    def join(self, rank: int, world: int, host: str, port: int, threads: int) -> None:
        """Become rank `rank` of `world`."""
        torch.set_num_threads(threads)
        self.rank, self.world = rank, world
        if world == 1:
            return
        if self._store is None:
            self._store = _store(host, port, world, is_master=False, timeout=_PATIENCE)
        distributed.init_process_group(self.backend, store=self._store, rank=rank, world_size=world, timeout=_PATIENCE)

    # -- models ------------------------------------------------------------------------------------------------------

    def open(self, name: str, spec: GroupSpec) -> None:
        """Load the model of a group."""
        self._models[name] = ModelWorker(spec, rank=self.rank)

    def close(self, name: str) -> None:
        """Forget the model of a group."""
        self._models.pop(name, None)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    # -- verbs -------------------------------------------------------------------------------------------------------

    def generate(
        self,
        name: str,
        parcel: Parcel,
        rows: Sequence[int],
        sampling: Sampling,
        share: float = 0.0,
        other: str | None = None,
    ) -> tuple[Parcel, list[str]]:
        """Samples for the given rows, and their texts; `other` names the model that is mixed in."""
        partner = None if other is None else self._models[other]
        samples = self._models[name].generate(unpack(parcel, rows), sampling, share=share, other=partner)
        return pack(samples), [row["response"] for row in samples.rows]

    def outputs(
        self,
        name: str,
        parcel: Parcel,
        rows: Sequence[int],
        needs: tuple[str, ...],
        temperature: float,
        reference: bool,
    ) -> dict[str, Any]:
        """Outputs of the given rows as arrays, as wide as the whole batch."""
        found = self._models[name].outputs(unpack(parcel, rows), needs, temperature, reference)
        return {need: getattr(found, need).numpy() for need in needs}

    def step(
        self,
        name: str,
        work: Sequence[tuple[Parcel, Lesson]],
        rows: Sequence[Sequence[int]],
        reference: str | None = None,
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Gradient on the given rows of every lesson, sum over all ranks, one optimiser step; metric sums, and metrics of the step.

        A rank that fails tells the others before it raises: they would wait for its gradient.
        """
        model = self._models[name]
        sums: dict[str, float] = {}
        failure: Exception | None = None
        try:
            other = None if reference is None else self._models[reference]
            for (parcel, lesson), own in zip(work, rows, strict=True):
                if len(own):
                    sums |= model.accumulate(replace(lesson, batch=unpack(parcel, own)), other)
        except Exception as error:
            failure = error
        whole = sum_gradients(model.trained(), failure is None, model.device) if self.world > 1 else failure is None
        if not whole:
            model.drop_gradient()
            raise failure or PeerError("another rank failed")
        lessons = [lesson for _, lesson in work]
        watched = {name: sums.get(name, 0.0) for lesson in lessons for name in lesson.limits}
        if watched and self.world > 1:
            watched = sum_numbers(watched, model.device)
        return sums, model.leave_step() if exceeds_limits(lessons, watched) else model.finish_step()

    def weights(self, name: str) -> dict[str, Any]:
        """Full weights as arrays."""
        return {key: pack_tensor(tensor) for key, tensor in self._models[name].weights().items()}

    def load_weights(self, name: str, weights: dict[str, Any]) -> None:
        """Replace the weights."""
        self._models[name].load_weights({key: unpack_tensor(array) for key, array in weights.items()})

    def save(self, name: str, directory: Path) -> None:
        """Write the training state, which is the same on every rank."""
        self._models[name].save(directory)

    def load(self, name: str, directory: Path) -> None:
        """Continue from `save`."""
        if not directory.is_dir():
            raise FileNotFoundError(
                f"rank {self.rank} on {os.uname().nodename} sees no {directory}: put the run directory on storage that all machines share"
            )
        self._models[name].load(directory)

    def slow_down(self, name: str, factor: float) -> None:
        """A smaller learning rate from now on."""
        self._models[name].slow_down(factor)

    def export(self, name: str, directory: Path, dtype: str | None) -> None:
        """An ordinary Hugging Face checkpoint."""
        self._models[name].export(directory, dtype)

    def checksum(self, name: str) -> str:
        """A digest of the trained weights: the same on every rank, or the replicas have drifted apart."""
        return self._models[name].checksum()


def sum_gradients(parameters: Sequence[nn.Parameter], well: bool, device: torch.device, bucket: int = _BUCKET) -> bool:
    """Sum the gradients over all ranks, in buckets; False, and nothing summed, when a rank is not `well`.

    A parameter that has a gradient on no rank keeps none: the optimiser would otherwise decay it, and one process alone
    would not. Sums are taken in float32 whatever the precision of the weights.
    """
    state = torch.tensor([not well, *(p.grad is not None for p in parameters)], dtype=torch.int32, device=device)
    distributed.all_reduce(state, distributed.ReduceOp.MAX)
    failed, *present = (bool(flag) for flag in state.tolist())
    if failed:
        return False
    taking_part = [parameter for parameter, flag in zip(parameters, present, strict=True) if flag]
    for part in _buckets(taking_part, bucket):
        gradients = [_gradient(parameter) for parameter in part]
        flat = torch.cat([gradient.flatten().float() for gradient in gradients])
        distributed.all_reduce(flat)
        totals: Any = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, total in zip(gradients, totals, strict=True):
            gradient.copy_(total.view_as(gradient))
    return True


def sum_numbers(numbers: dict[str, float], device: torch.device) -> dict[str, float]:
    """Each number summed over all ranks, which have them in the same order."""
    totals = torch.tensor(list(numbers.values()), dtype=torch.float32, device=device)
    distributed.all_reduce(totals)
    return dict(zip(numbers, totals.tolist(), strict=True))


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _buckets(parameters: Sequence[nn.Parameter], size: int) -> Iterator[list[nn.Parameter]]:
    """Consecutive parameters of at most `size` numbers together; a larger one is alone."""
    part: list[nn.Parameter] = []
    filled = 0
    for parameter in parameters:
        if part and filled + parameter.numel() > size:
            yield part
            part, filled = [], 0
        part.append(parameter)
        filled += parameter.numel()
    if part:
        yield part
