"""A run: one directory, a sequence of stages, and the promise that an interrupted run continues bit for bit.

Knows: the run directory, checkpoints, resuming, signals, logging, opening model groups for a stage.
Does not know: what the stages do.

    RUN/recipe.yaml            the resolved recipe
    RUN/metrics.jsonl          one line a step: stage, step, time, metrics
    RUN/samples.jsonl          sample texts
    RUN/warnings.jsonl         what detectors found: stage, step, detector, title, what, remedy
    RUN/tensorboard/
    RUN/stages/ID/checkpoints/step-000100/   training state
    RUN/stages/ID/model/       what the stage made, an ordinary Hugging Face checkpoint
    RUN/stages/ID/certificate.json   of a test of safety
    RUN/stages/ID/result.json  written last: the stage is done
    RUN/report.html
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, runtime_checkable

import torch

from fairlead.data import DataSource, Table, TextCodec, read
from fairlead.models import ModelSpec, load_tokenizer
from fairlead.parts import Part, nearest, parts_within
from fairlead.runs.console import RunConsole
from fairlead.runs.files import RunError, atomic_folder, read_json, write_json
from fairlead.runs.metrics import JsonLines, MetricSinks
from fairlead.runtime import GroupSpec, ModelGroup, OptimiserSpec, RuntimeSpec, open_group
from fairlead.runtime.memory import give_back_freed_memory, peak_memory

__all__ = ["Interrupted", "Run", "StageRun", "Stateful"]

logger = logging.getLogger(__name__)

_STATE = "state.pt"


class Interrupted(Exception):  # noqa: N818 - not an error: it was asked for
    """The run was asked to stop; everything up to `where` is saved."""

    def __init__(self, directory: Path, where: str) -> None:
        super().__init__(f"stopped {where}; continue with: fairlead run --resume {directory}")
        self.directory = directory


@runtime_checkable
class Stateful(Protocol):
    """Something that a checkpoint must carry."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Run:
    """One run of a recipe."""

    def __init__(
        self,
        directory: Path,
        *,
        name: str = "run",
        seed: int = 0,
        runtime: RuntimeSpec | None = None,
        data_root: str | None = None,
        trackers: list[str] | None = None,
        config: dict[str, Any] | None = None,
        stages: Mapping[str, Part] | None = None,
        quiet: bool = False,
    ) -> None:
        self.directory = directory
        self.stages = dict(stages or {})
        self.name = name
        self.seed = seed
        self.runtime = (runtime or RuntimeSpec()).settled()
        self.data_root = data_root
        self.console = RunConsole(quiet)
        directory.mkdir(parents=True, exist_ok=True)
        self.metrics = JsonLines(directory / "metrics.jsonl")
        self.samples = JsonLines(directory / "samples.jsonl")
        self.warnings = JsonLines(directory / "warnings.jsonl")
        self.sinks = MetricSinks(directory / "tensorboard", trackers or [], name, config or {})
        self.results: dict[str, dict[str, Any]] = {}
        self.stopping = False
        threads = self.runtime.threads_each
        if threads is not None:
            torch.set_num_threads(threads)

    def stage(self, identifier: str, part: str) -> StageRun:
        """The context of one stage; what a try without checkpoint logged is forgotten."""
        context = StageRun(self, identifier, part)
        context.begin()
        return context

    def positions(self) -> dict[str, int]:
        """How long each log file is."""
        return {name: log.position() for name, log in self._logs.items()}

    def cut_back(self, positions: dict[str, Any]) -> None:
        """Forget what the log files hold behind `positions`; a file that they do not name was empty then."""
        for name, log in self._logs.items():
            log.cut_back(positions.get(name, 0))

    @property
    def _logs(self) -> dict[str, JsonLines]:
        return {"metrics": self.metrics, "samples": self.samples, "warnings": self.warnings}

    def model_path(self, path: str) -> str:
        """`stage:ID` as the directory of what that stage made; anything else unchanged."""
        if not path.startswith("stage:"):
            return path
        identifier = path.removeprefix("stage:")
        folder = self.directory / "stages" / identifier / "model"
        if not folder.is_dir():
            made = [stage for stage, result in self.results.items() if result.get("model")]
            raise RunError(f"{path!r}: no finished stage {identifier!r} has made a model; {nearest(identifier, made)}")
        return str(folder)

    @contextmanager
    def stop_on_signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM finish the step, save and stop; a second one stops at once."""

        def ask(number: int, frame: FrameType | None) -> None:
            if self.stopping:
                raise KeyboardInterrupt
            self.stopping = True
            self.console.print("[yellow]stopping after this step …[/yellow] (again to stop at once)")

        previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def close(self) -> None:
        """Close files and writers."""
        self.console.end()
        for log in self._logs.values():
            log.close()
        self.sinks.close()


class StageRun:
    """What a stage may ask of the run: steps, groups, data, logging, checkpoints."""

    def __init__(self, run: Run, identifier: str, part: str) -> None:
        self.run = run
        self.id = identifier
        self.part = part
        self.directory = run.directory / "stages" / identifier
        self.seed = _seed(run.seed, identifier)
        self.runtime = run.runtime
        self._kept: dict[str, Any] = {}
        self._groups: list[ModelGroup] = []
        self._phases: dict[str, float] = {}
        self._opened = self._started = time.perf_counter()
        self._spent = 0.0  # seconds before the last interruption
        self._save_every = 0
        self._margin: int | None = None
        self.rolled_back: list[int] = []
        """The steps after which the stage was rolled back."""

    # -- results -----------------------------------------------------------------------------------------------------

    @property
    def result_file(self) -> Path:
        """Written last; its presence means that the stage is done."""
        return self.directory / "result.json"

    def finish(
        self, result: dict[str, Any], model: ModelGroup | None = None, dtype: str | None = None
    ) -> dict[str, Any]:
        """Write what the stage made and found out, and give its models back."""
        if model is not None:
            with atomic_folder(self.directory / "model") as folder:
                model.export(folder, dtype)
            result = result | {"model": f"stages/{self.id}/model"}
        self._close_groups()
        result = {
            "id": self.id,
            "part": self.part,
            **result,
            "seconds": time.perf_counter() - self._opened + self._spent,
        }
        write_json(self.result_file, result)
        shutil.rmtree(self.directory / "checkpoints", ignore_errors=True)
        self.run.results[self.id] = result
        return result

    @contextmanager
    def closing(self, stage: Part) -> Iterator[None]:
        """Give back, when the work ends or fails, every model that was opened and what the stage and its parts hold."""
        try:
            yield
        finally:
            for part in (stage, *(part for _, part in parts_within(stage))):
                try:
                    part.close()
                except Exception as error:  # the work is done, or its own error matters more
                    logger.warning("%s of stage %s could not be closed: %s", type(part).__name__, self.id, error)
            self._close_groups()
            give_back_freed_memory()

    # -- models and data ---------------------------------------------------------------------------------------------

    def open(
        self,
        role: str,
        model: ModelSpec,
        kind: Any = "causal",
        optimiser: OptimiserSpec | None = None,
        total_steps: int = 0,
        labels: int = 1,
        value_head: bool = False,
        apart: bool = False,
    ) -> ModelGroup:
        """Open a model group, `apart` in the runtime's samplers; a trained one becomes part of every checkpoint."""
        if optimiser is not None and not optimiser.total_steps:
            optimiser = optimiser.model_copy(update={"total_steps": total_steps})
        spec = GroupSpec(
            role=role,
            model=self.resolve(model),
            kind=kind,
            optimiser=optimiser,
            labels=labels,
            value_head=value_head,
            precision=self.runtime.precision,
            vllm=self.runtime.vllm if self.runtime.sampler == "vllm" and kind == "causal" else None,
            seed=_seed(self.seed, role),
            weights_seed=_seed(self.run.seed, "weights"),
        )
        group = open_group(spec, self.runtime, apart)
        self._groups.append(group)
        if optimiser is not None:
            self._kept[role] = group
        return group

    def codec(self, model: ModelSpec) -> TextCodec:
        """The tokenizer of a model that need not be open."""
        return TextCodec(load_tokenizer(self.resolve(model)))

    def resolve(self, model: ModelSpec) -> ModelSpec:
        """The model with every `stage:ID` in it as a directory."""
        tokenizer = self.run.model_path(model.tokenizer) if model.tokenizer else None
        return model.model_copy(update={"path": self.run.model_path(model.path), "tokenizer": tokenizer})

    def read(self, source: DataSource) -> Table:
        """Read a data source below the run's data root; what it dropped is shown."""
        table = read(source, self.run.data_root)
        self.count(table.report)
        return table

    def count(self, report: Any) -> None:
        """Show how many records a reader or a form kept and dropped, and why."""
        if report.dropped or report.changed:
            self.run.console.note(f"{self.id}: {report}")

    @property
    def earlier(self) -> dict[str, Part]:
        """The stages of the recipe before this one, by identifier."""
        return dict(takewhile(lambda item: item[0] != self.id, self.run.stages.items()))

    def keep(self, name: str, thing: Stateful) -> None:
        """Make a stateful thing part of every checkpoint."""
        self._kept[name] = thing

    # -- steps -------------------------------------------------------------------------------------------------------

    def steps(self, total: int, save_every: int = 50, retain: int = 1, margin: int | None = None) -> Iterator[int]:
        """1 … total, from behind the last checkpoint on; saves every `save_every` steps and when asked to stop.

        `retain` is how many checkpoints stay. With a `margin` the stage can be rolled back: the state before the first step is
        saved too, and whatever `roll_back` may need stays. Call after every group is open and every stateful thing kept.
        """
        self._save_every, self._margin = save_every, margin
        done = self._restore()
        if margin is not None and not self._checkpoints():
            self._save(0, retain)
        self.run.console.begin(self.id, total, done)
        for step in range(done + 1, total + 1):
            torch.manual_seed(_seed(self.seed, f"step {step}"))
            self._phases = {}
            self._started = time.perf_counter()
            yield step
            stopping = self.run.stopping
            if stopping or (save_every and step % save_every == 0 and step < total):
                self._save(step, retain)
            if stopping:
                raise Interrupted(self.run.directory, f"in stage {self.id} after step {step}")
        self.run.console.end()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure a phase of the step; its seconds are logged as `seconds/NAME`. PHASE/NAME is a part of PHASE."""
        started = time.perf_counter()
        yield
        self._phases[name] = self._phases.get(name, 0.0) + time.perf_counter() - started

    def log(self, step: int, metrics: dict[str, float], headline: tuple[str, ...] = ()) -> None:
        """Log one step: to the file, TensorBoard, trackers and the console (there only the `headline` metrics).

        Seconds of every phase and of the step so far are added, this process's peak memory so far, and `tokens_per_second` when
        `tokens` is among the metrics.
        """
        metrics = {name: float(value) for name, value in metrics.items()}
        self._phases["step"] = time.perf_counter() - self._started
        if "tokens" in metrics:
            metrics["tokens_per_second"] = metrics["tokens"] / max(self._phases["step"], 1e-9)
        metrics |= {f"seconds/{name}": seconds for name, seconds in self._phases.items()}
        metrics["peak_memory"] = peak_memory()
        self.run.metrics.write({"stage": self.id, "step": step, "time": time.time(), **metrics})
        self.run.sinks.write(self.id, step, metrics)
        self.run.console.step(step, {name: metrics[name] for name in headline if name in metrics})

    def warn(self, step: int, detector: str, title: str, what: str, remedy: str) -> None:
        """Tell the person who looks on, and keep it for the report."""
        self.run.warnings.write(
            {"stage": self.id, "step": step, "detector": detector, "title": title, "what": what, "remedy": remedy}
        )
        self.run.console.warn(f"{self.id}, step {step}", title, what, remedy)

    def log_samples(self, step: int, rows: list[dict[str, Any]]) -> None:
        """Keep sample texts for the report."""
        for row in rows:
            self.run.samples.write({"stage": self.id, "step": step, **row})

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Remember where the logs stood before the stage, or cut them back to there when nothing of it was saved."""
        start = self.directory / "start.json"
        if not start.exists():
            write_json(start, self.run.positions())
        elif not self.result_file.exists() and not self._checkpoints():
            self.run.cut_back(read_json(start))

    def roll_back(self, step: int, factor: float, going_on: Sequence[str] = ()) -> int:
        """After `step`, go back to the last good checkpoint and on with a learning rate that is `factor` of what it was there.

        Good is the newest checkpoint of the schedule that is at least `margin` steps old, or where the stage was last rolled back
        to. Models, optimisers and stateful things become what they were, but those named in `going_on`; steps are counted on. Returns
        the step of the checkpoint. Raises RunError when its folder is gone.
        """
        target = self._good(step)
        folder = self._folder(target)
        if not folder.is_dir():
            raise RunError(f"cannot roll {self.id} back: its checkpoint {folder} is gone; start the run anew")
        self._load(folder, going_on)
        for thing in self._kept.values():
            if isinstance(thing, ModelGroup):
                thing.slow_down(factor)
        self.rolled_back.append(step)
        self.warn(
            step,
            "rollback",
            "The stage was rolled back",
            f"Back to step {target}: models and optimisers are what they were then, with {factor:g} times the learning rate; prompts go on.",
            "If it happens again, begin with a smaller learning rate or a stronger KL; look at what the warnings before it say.",
        )
        # Saved at once, so that neither the next rollback nor a resumed run meets what was left behind.
        self._save(step, 1)
        for number, old in self._numbered():
            if target < number < step:
                shutil.rmtree(old, ignore_errors=True)
        return target

    def _good(self, step: int) -> int:
        """The checkpoint that a rollback after `step` takes; one made because the run was stopped is none, so that it changes nothing."""
        since = self.rolled_back[-1] if self.rolled_back else 0
        latest = (step - (self._margin or 0)) // self._save_every * self._save_every if self._save_every else 0
        return max(since, latest)

    def _save(self, step: int, retain: int) -> None:
        with atomic_folder(self._folder(step)) as target:
            state: dict[str, Any] = {
                "step": step,
                "seconds": time.perf_counter() - self._opened + self._spent,
                **self.run.positions(),
                "rolled_back": list(self.rolled_back),
                "parts": {},
            }
            for name, thing in self._kept.items():
                if isinstance(thing, ModelGroup):
                    thing.save(target / name)
                else:
                    state["parts"][name] = thing.state_dict()
            torch.save(state, target / _STATE)
        needed = step if self._margin is None else self._good(step)
        for number, old in self._numbered()[:-retain]:
            if number < needed:
                shutil.rmtree(old, ignore_errors=True)

    def _restore(self) -> int:
        checkpoints = self._checkpoints()
        if not checkpoints:
            return 0
        state = self._load(checkpoints[-1])
        self._spent = state["seconds"]
        self.rolled_back = list(state.get("rolled_back", []))
        self.run.cut_back(state)
        return int(state["step"])

    def _load(self, folder: Path, but: Sequence[str] = ()) -> dict[str, Any]:
        """Give everything that is kept, but the things named in `but`, the state of a checkpoint; returns its own state."""
        try:
            state: dict[str, Any] = torch.load(folder / _STATE, weights_only=False)
            for name, thing in self._kept.items():
                if isinstance(thing, ModelGroup):
                    thing.load(folder / name)
                elif name not in but:
                    thing.load_state_dict(state["parts"][name])
        except (OSError, EOFError, LookupError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
            raise RunError(
                f"the checkpoint {folder} is damaged or belongs to another recipe ({error}); delete that folder to continue "
                "from the one before it, or start in a new directory"
            ) from error
        return state

    def _folder(self, step: int) -> Path:
        return self.directory / "checkpoints" / f"step-{step:08d}"

    def _checkpoints(self) -> list[Path]:
        return sorted((self.directory / "checkpoints").glob("step-*"))

    def _numbered(self) -> list[tuple[int, Path]]:
        """The checkpoints with their steps, in order."""
        return [(int(folder.name.removeprefix("step-")), folder) for folder in self._checkpoints()]

    def _close_groups(self) -> None:
        for group in self._groups:
            group.close()
        self._groups.clear()
        self._kept.clear()


def _seed(seed: int, name: str) -> int:
    """A seed of its own for every name, the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4], "big")
