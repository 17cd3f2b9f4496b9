"""The Ray back end: data-parallel replicas of each model in worker processes, one device each.

Knows: Ray, how rows are dealt out and results put together again.
Does not know: what the workers do with their rows (`replica.py`), methods.

The first group starts `workers` processes; later groups with the same number of workers in the same place move in with them, and
the last one to close ends them. Each verb puts its batch into Ray's object store once, and every worker takes its rows from there.

Without RAY_ADDRESS a Ray instance of this machine alone is started. With it (`auto`, or HOST:PORT) that cluster is used; its
machines must have Fairlead installed and see the run directory and the models under the same paths.
"""

from __future__ import annotations

import importlib
import itertools
import logging
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fairlead.batch import Batch, Prompts, Samples, concatenate, row_table
from fairlead.generation import Sampling, TreeSampling
from fairlead.models import ModelSpec
from fairlead.runtime.dispatch import deal_prompts, deal_rows, pack, pack_tensor, unpack, unpack_tensor
from fairlead.runtime.forward import Outputs
from fairlead.runtime.group import GroupSpec, Lesson, Mixture, ModelGroup, add_metrics
from fairlead.runtime.machine import usable_cores
from fairlead.runtime.replica import PeerError, Replica

__all__ = ["RayGroup"]

_START_SECONDS = 300.0
_GRACE_SECONDS = 10.0  # a rank that loses its peer may report before Ray knows that the peer has died
_numbers = itertools.count()


class RayGroup(ModelGroup):
    """A model group of `workers` replicas, each trained on its share of every minibatch.

    Gradients are sums over a minibatch that was normalised as a whole, so they are added up over the replicas; all then
    take the same optimiser step and stay equal. Rank 0 writes checkpoints.
    """

    def __init__(self, spec: GroupSpec, workers: int, threads: int | None = None, place: str = "workers") -> None:
        self.spec = spec
        self._ray = _start_ray()
        self._processes: _Processes | None = None
        self._name = f"{spec.role}-{next(_numbers)}"
        self._processes = _Processes.share(self._ray, workers, threads, place)
        try:
            self._everywhere("open", spec.model_copy(update={"model": _findable(spec.model)}))
        except BaseException:
            self.close()
            raise

    # -- verbs -------------------------------------------------------------------------------------------------------

    def generate(self, prompts: Prompts, sampling: Sampling, mixture: Mixture | None = None) -> Samples:
        mixed = () if mixture is None else (mixture.share, self._beside(mixture.other))
        together = isinstance(sampling, TreeSampling)  # a tree grows on one worker
        dealt = deal_prompts(prompts, sampling.maximum_tokens, self._workers, whole=together)
        # The vLLM engines of the ranks start together, so a rank without rows is asked too.
        shares = dict(enumerate(dealt)) if self.spec.vllm is not None else _not_all_empty(dealt)
        parcel = self._put(pack(prompts))
        answers = self._call("generate", {rank: (parcel, rows, sampling, *mixed) for rank, rows in shares.items()})
        parts = [unpack(answers[rank][0]).replace(rows=None) for rank in shares]
        found = concatenate(parts)[_back_in_order(shares)]
        texts = {row: text for rank, rows in shares.items() for row, text in zip(rows, answers[rank][1], strict=True)}
        return found.replace(  # type: ignore[no-any-return]
            prompt_ids=prompts.prompt_ids,
            prompt_mask=prompts.prompt_mask,
            tokens=torch.where(found.mask, found.tokens, self.codec.padding_id),  # each worker padded to its own width
            rows=row_table([{**row, "response": texts[index]} for index, row in enumerate(prompts.rows)]),
        )

    def outputs(
        self, batch: Batch, needs: tuple[str, ...], temperature: float = 1.0, reference: bool = False
    ) -> Outputs:
        shares = _not_all_empty(deal_rows(batch, self._workers))
        parcel = self._put(pack(batch))
        answers = self._call(
            "outputs", {r: (parcel, rows, needs, temperature, reference) for r, rows in shares.items()}
        )
        found = Outputs()
        for name in needs:
            parts = {rank: answer[name] for rank, answer in answers.items()}
            some = next(iter(parts.values()))
            whole = np.empty((int(batch.batch_size[0]), *some.shape[1:]), dtype=some.dtype)
            for rank, rows in shares.items():
                whole[rows] = parts[rank]
            setattr(found, name, torch.from_numpy(whole))
        return found

    def step(self, lessons: Sequence[Lesson], reference: ModelGroup | None = None) -> dict[str, float]:
        beside = self._beside(reference)
        work = self._put([(pack(lesson.batch), replace(lesson, batch=None)) for lesson in lessons])
        shares = zip(*(deal_rows(lesson.batch, self._workers) for lesson in lessons), strict=True)
        answers = self._call("step", {rank: (work, rows, beside) for rank, rows in enumerate(shares)})
        totals: dict[str, float] = {}
        for rank in sorted(answers):
            add_metrics(totals, answers[rank][0])
        return totals | answers[0][1]

    def weights(self) -> dict[str, Tensor]:
        return {name: unpack_tensor(array) for name, array in self._first("weights").items()}

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        self._everywhere("load_weights", self._put({name: pack_tensor(tensor) for name, tensor in weights.items()}))

    def save(self, directory: Path) -> None:
        self._first("save", directory.absolute())

    def load(self, directory: Path) -> None:
        self._everywhere("load", directory.absolute())

    def slow_down(self, factor: float) -> None:
        self._everywhere("slow_down", factor)

    def export(self, directory: Path, dtype: str | None = None) -> None:
        self._first("export", directory.absolute(), dtype)

    def close(self) -> None:
        processes, self._processes = self._processes, None
        if processes is not None:
            processes.leave(self._name)

    def checksums(self) -> list[str]:
        """A digest of each replica's trained weights; they are all the same, or the replicas have drifted apart."""
        return list(self._everywhere("checksum").values())

    # -- calls -------------------------------------------------------------------------------------------------------

    @property
    def _workers(self) -> int:
        return len(self._open_processes().actors)

    def _open_processes(self) -> _Processes:
        if self._processes is None:
            raise RuntimeError(f"the {self.spec.role} group is closed")
        return self._processes

    def _beside(self, other: ModelGroup | None) -> str | None:
        """The name of another group that lives in the same processes, so that one worker has both models."""
        if other is None:
            return None
        if not isinstance(other, RayGroup) or other._processes is not self._open_processes():
            raise ValueError(
                f"the groups {self.spec.role} and {other.spec.role} do not share their processes: open both with the same runtime"
            )
        return other._name

    def _put(self, thing: Any) -> Any:
        self._open_processes()
        return self._ray.put(thing)

    def _first(self, verb: str, *arguments: Any) -> Any:
        return self._call(verb, {0: arguments})[0]

    def _everywhere(self, verb: str, *arguments: Any) -> dict[int, Any]:
        return self._call(verb, dict.fromkeys(range(self._workers), arguments))

    def _call(self, verb: str, arguments: dict[int, tuple[Any, ...]]) -> dict[int, Any]:
        """Ask the given ranks at the same time; what each returned, by rank."""
        processes = self._open_processes()
        actors = processes.actors
        asked = {getattr(actors[rank], verb).remote(self._name, *given): rank for rank, given in arguments.items()}
        return processes.collect(asked, self.spec.role, verb)


# ---------------------------------------------------------------------------------------------------------------------
# Rows
# ---------------------------------------------------------------------------------------------------------------------


def _not_all_empty(shares: list[list[int]]) -> dict[int, list[int]]:
    """Who has rows; an empty batch goes to rank 0, which knows what becomes of it."""
    return {rank: rows for rank, rows in enumerate(shares) if rows} or {0: []}


def _back_in_order(shares: dict[int, list[int]]) -> Tensor:
    """Where each row of the batch stands among the concatenated shares."""
    return torch.tensor([row for rows in shares.values() for row in rows], dtype=torch.int64).argsort()


def _findable(model: ModelSpec) -> ModelSpec:
    """Paths that mean the same in a process that was started elsewhere."""

    def absolute(path: str | None) -> str | None:
        return str(Path(path).absolute()) if path and Path(path).exists() else path

    return model.model_copy(update={"path": absolute(model.path), "tokenizer": absolute(model.tokenizer)})


# ---------------------------------------------------------------------------------------------------------------------
# Ray and its processes
# ---------------------------------------------------------------------------------------------------------------------


def _start_ray() -> Any:
    """Ray, started or joined."""
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError as error:
        raise RuntimeError(
            'runtime.backend is ray, but Ray is not installed: pip install "fairlead[ray]", or set runtime.backend=local'
        ) from error
    if ray.is_initialized():
        return ray
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        address = "local"
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # Ray keeps this many processes in reserve; our workers ask for no CPU of their own, so any number of them fits.
        options |= {"num_cpus": usable_cores(), "include_dashboard": False}
    main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise RuntimeError(f"no Ray at {address!r} (RAY_ADDRESS): {error}") from error
    finally:
        if main:  # Ray takes SIGTERM for itself, but a run that is asked to stop must be able to save first
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return ray


class _Key(NamedTuple):
    """What processes have in common."""

    node: str
    workers: int
    threads: int | None
    place: str


class _Processes:
    """Worker processes in which the groups of this driver live together."""

    _running: ClassVar[dict[_Key, _Processes]] = {}

    @classmethod
    def share(cls, ray: Any, workers: int, threads: int | None, place: str) -> _Processes:
        """The processes for groups of so many workers in one place, started if there are none; ends with as many calls of `leave`."""
        key = _Key(ray.get_runtime_context().get_node_id(), workers, threads, place)
        processes = cls._running.get(key)
        if processes is None:
            processes = cls(ray, key)
            cls._running[key] = processes
        processes._groups += 1
        return processes

    def __init__(self, ray: Any, key: _Key) -> None:
        self._ray, self._key, self._groups = ray, key, 0
        self.actors: list[Any] = []
        workers, threads = key.workers, key.threads
        devices = int(ray.cluster_resources().get("GPU", 0))
        others = sum(len(processes.actors) for processes in self._running.values())
        if devices and workers + others > devices:
            raise RuntimeError(
                f"runtime.{key.place} is {workers}, but Ray sees {devices} GPU{'s' if devices > 1 else ''}, of which {others} "
                f"{'is' if others == 1 else 'are'} taken: every worker and sampler needs one of its own. Set runtime.workers and "
                "runtime.samplers to less, or hide the GPUs (CUDA_VISIBLE_DEVICES=) to work on CPUs"
            )
        # CPUs are not reserved: the driver waits while workers work, and other roles' models are in the same processes.
        actor = ray.remote(num_cpus=0, num_gpus=1 if devices else 0, scheduling_strategy="SPREAD")(_Actor)
        self.actors = [actor.remote() for _ in range(workers)]
        try:
            places = self._all("place")
            at_home = Counter(node for node, _ in places.values())
            host = places[0][1]
            port = self.collect(
                {self.actors[0].meeting_point.remote(host, workers): 0}, "worker", "start", _START_SECONDS
            )[0]
            joined = {
                actor.join.remote(
                    rank, workers, host, port, threads or max(1, usable_cores() // at_home[places[rank][0]])
                ): rank
                for rank, actor in enumerate(self.actors)
            }
            self.collect(joined, "worker", "start", _START_SECONDS)
        except BaseException:
            self.end()
            raise

    def _all(self, verb: str) -> dict[int, Any]:
        asked = {getattr(actor, verb).remote(): rank for rank, actor in enumerate(self.actors)}
        return self.collect(asked, "worker", "start", _START_SECONDS)

    def leave(self, name: str) -> None:
        """A group is closed: forget its models, and end the processes after the last one."""
        self._groups -= 1
        if self._groups <= 0:
            self.end()
            return
        for actor in self.actors:
            actor.close.remote(name)  # calls of an actor are served in order, so whatever comes next finds the room

    def end(self) -> None:
        """Kill the processes; groups that still use them will be told that they are dead."""
        if self._running.get(self._key) is self:
            del self._running[self._key]
        if self._ray.is_initialized():
            for actor in self.actors:
                self._ray.kill(actor)

    def collect(self, asked: dict[Any, int], role: str, verb: str, seconds: float | None = None) -> dict[int, Any]:
        """Wait for the answers. An error is raised as it was in the worker; the death of a worker as a RuntimeError.

        The first failure ends the waiting, but for a moment in which its cause may come to light on another rank.
        """
        ray = self._ray
        answers: dict[int, Any] = {}
        errors: list[tuple[int, Exception]] = []
        waiting = list(asked)
        deadline = None if seconds is None else time.monotonic() + seconds
        while waiting:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            done, waiting = ray.wait(waiting, num_returns=1, timeout=left)
            if not done:
                break
            rank = asked[done[0]]
            try:
                answers[rank] = ray.get(done[0])
            except ray.exceptions.RayTaskError as error:
                errors.append((rank, error))
                deadline = min(deadline or float("inf"), time.monotonic() + _GRACE_SECONDS)
            except ray.exceptions.RayError as error:
                self.end()  # the other ranks may wait for this one for ever
                if verb == "start":
                    raise RuntimeError(
                        f"worker {rank} died while it started ({_reason(error)}). Every machine of the cluster needs Fairlead "
                        "and what it depends on, in the same versions"
                    ) from error
                raise RuntimeError(
                    f"worker {rank} of the {role} group died during {verb} ({_reason(error)}). Often memory ran out: lower "
                    "runtime.workers or optimiser.tokens_per_microbatch; then continue from the last checkpoint with "
                    "fairlead run --resume"
                ) from error
        if errors:
            rank, failure = min(errors, key=lambda pair: isinstance(pair[1].cause, PeerError))  # type: ignore[attr-defined]
            cause = failure.cause  # type: ignore[attr-defined]
            if waiting and verb in ("step", "start"):
                self.end()  # some rank may wait for ever for the one that failed
            raise (cause if isinstance(cause, Exception) else failure) from failure
        if waiting:
            missing = ", ".join(str(asked[reference]) for reference in waiting)
            raise RuntimeError(
                f"worker {missing} of {self._key.workers} did not start within {seconds:.0f} s: Ray has {ray.available_resources()} free; "
                "lower runtime.workers, or free the GPUs"
            )
        return answers


class _Actor(Replica):
    """The replica as Ray runs it: it also knows where it was put."""

    def place(self) -> tuple[str, str]:
        """The node, and the address under which others reach it."""
        ray: Any = importlib.import_module("ray")
        return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()


def _reason(error: Exception) -> str:
    """What Ray says of a death, in one line, without its guesses at the causes."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if "died" in line or "memory" in line.lower() or "cause" in line]
    return (told or lines or [type(error).__name__])[0].partition(" Some common causes")[0][:200]
