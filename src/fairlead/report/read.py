"""What a run directory holds, read forgivingly: a report of half a run is better than none.

Knows: the layout of a run directory, and what is missing in it.
Does not know: what the numbers mean, how they are shown.
"""

from __future__ import annotations

import importlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import yaml
from numpy.typing import NDArray

from fairlead.parts import get_part, part_info
from fairlead.runs import RunError, read_json, read_json_lines

__all__ = ["Curve", "RunData", "StageData", "mean_of", "number", "read_run"]

Vector: TypeAlias = "NDArray[np.float64]"
_NOT_METRICS = frozenset({"stage", "step", "time"})


@dataclass(frozen=True)
class Curve:
    """One metric over the steps at which it is a finite number."""

    steps: Vector
    values: Vector
    missing: int = 0
    """Steps at which it was logged but is no finite number."""

    def __bool__(self) -> bool:
        return self.values.size > 0

    def first(self, share: float = 0.1) -> float:
        """Mean of the first tenth."""
        return float(self.values[: self._count(share)].mean())

    def last(self, share: float = 0.1) -> float:
        """Mean of the last tenth."""
        return float(self.values[-self._count(share) :].mean())

    def _count(self, share: float) -> int:
        return max(1, round(share * self.values.size))


@dataclass
class StageData:
    """What one stage left behind."""

    id: str
    part: str = ""
    summary: str = ""
    source: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[dict[str, Any]] = field(default_factory=list)
    """What detectors said while the stage ran."""
    result: dict[str, Any] | None = None
    missing: list[str] = field(default_factory=list)

    def phases(self) -> list[str]:
        """The metrics of the seconds of every phase, without those of its parts and of the whole step."""
        return [name for name in self.names("seconds/") if name.count("/") == 1 and name != "seconds/step"]

    def names(self, kind: str = "") -> list[str]:
        """Every metric (of a kind such as `monitor/`), in the order in which they first appear."""
        return list(
            dict.fromkeys(
                name for row in self.rows for name in row if name.startswith(kind) and name not in _NOT_METRICS
            )
        )

    def curve(self, name: str) -> Curve:
        """One metric over steps; empty when it was never logged."""
        pairs = [(row.get("step", index), row[name]) for index, row in enumerate(self.rows, 1) if name in row]
        whole = [(s, v) for s, v in ((number(s), number(v)) for s, v in pairs) if s is not None and v is not None]
        steps, values = zip(*whole, strict=True) if whole else ((), ())
        return Curve(np.array(steps, dtype=np.float64), np.array(values, dtype=np.float64), len(pairs) - len(whole))

    @property
    def validation(self) -> dict[str, Any]:
        """What the stage says about held-out data, or {}."""
        found = (self.result or {}).get("validation")
        return found if isinstance(found, dict) else {}

    @property
    def channels(self) -> dict[str, Any]:
        """Model → channel → what that judge says of it, or {} for a stage that asked no judge."""
        found = (self.result or {}).get("channels")
        return found if isinstance(found, dict) else {}

    @property
    def models(self) -> list[str]:
        """The models that were asked, in order."""
        return [str(name) for name in (self.result or {}).get("models") or self.channels]

    @property
    def versus(self) -> dict[str, Any]:
        """Channel → the last model against the first, or {}."""
        found = (self.result or {}).get("versus")
        found = found.get("channels") if isinstance(found, dict) else None
        return found if isinstance(found, dict) else {}

    @property
    def certificate(self) -> dict[str, Any]:
        """What a test of safety found, or {}."""
        found = (self.result or {}).get("certificate")
        return found if isinstance(found, dict) else {}

    @property
    def seconds(self) -> float | None:
        """Wall time of the stage: its own word for it, or the sum over its steps."""
        told = number((self.result or {}).get("seconds"))
        if told is not None:
            return told
        steps = self.curve("seconds/step")
        return float(steps.values.sum()) if steps else None


@dataclass
class RunData:
    """What one run left behind."""

    directory: Path
    about: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    recipe_text: str = ""
    stages: list[StageData] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.about.get("name") or self.recipe.get("name") or self.directory.name)

    def of(self, part: str) -> list[StageData]:
        """The stages of one part, in order."""
        return [stage for stage in self.stages if stage.part == part]


def read_run(directory: Path) -> RunData:
    """Everything in a run directory; what is absent or damaged is listed in `missing`.

    Raises RunError when there is no such directory.
    """
    if not directory.is_dir():
        raise RunError(f"{directory} is not a run directory: it does not exist")
    run = RunData(directory)
    run.about = _object(directory / "run.json", run.missing)
    run.recipe_text, run.recipe = _recipe(directory / "recipe.yaml", run.missing)
    rows = _lines(directory / "metrics.jsonl", run.missing)
    samples = _lines(directory / "samples.jsonl", run.missing)
    # Runs of earlier versions have no such file, and nothing is missing.
    warnings = _lines(directory / "warnings.jsonl", run.missing) if (directory / "warnings.jsonl").exists() else []
    planned = run.recipe.get("stages")
    planned = planned if isinstance(planned, dict) else {}
    folders = sorted(p.name for p in (directory / "stages").glob("*") if p.is_dir() and not p.name.startswith("."))
    logged = [str(row.get("stage", "run")) for row in rows]
    for identifier in dict.fromkeys([*map(str, planned), *logged, *folders]):
        stage = StageData(identifier)
        settings = planned.get(identifier)
        stage.settings = settings if isinstance(settings, dict) else {}
        stage.rows = [row for row in rows if str(row.get("stage", "run")) == identifier]
        stage.samples = [row for row in samples if str(row.get("stage", "run")) == identifier]
        stage.warnings = [row for row in warnings if str(row.get("stage", "run")) == identifier]
        file = directory / "stages" / identifier / "result.json"
        if file.exists():
            stage.result = _object(file, run.missing) or None
        elif stage.rows:
            stage.missing.append("result.json is not there: the stage is not finished")
        else:
            stage.missing.append("nothing has been written yet: the stage has not run")
        stage.part = str((stage.result or {}).get("part") or stage.settings.get("part") or identifier)
        stage.summary, stage.source = _describe(stage.part)
        run.stages.append(stage)
    return run


def number(value: Any) -> float | None:
    """A finite float, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def mean_of(entry: Any) -> float | None:
    """The `mean` of a mapping such as `compare_policies` makes."""
    return number(entry.get("mean")) if isinstance(entry, dict) else None


def _object(path: Path, missing: list[str]) -> dict[str, Any]:
    if not path.exists():
        missing.append(f"{path.name} is not there")
        return {}
    try:
        value = read_json(path)
    except (RunError, UnicodeDecodeError):
        missing.append(f"{path.parent.name}/{path.name} is damaged and was left out")
        return {}
    return value if isinstance(value, dict) else {}


def _recipe(path: Path, missing: list[str]) -> tuple[str, dict[str, Any]]:
    if not path.exists():
        missing.append("recipe.yaml is not there")
        return "", {}
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError:
        missing.append("recipe.yaml is not valid YAML; it is shown as it stands")
        return text, {}
    return text, tree if isinstance(tree, dict) else {}


def _lines(path: Path, missing: list[str]) -> list[dict[str, Any]]:
    if not path.exists():
        missing.append(f"{path.name} is not there")
        return []
    try:
        return [row for row in read_json_lines(path) if isinstance(row, dict)]
    except (RunError, UnicodeDecodeError):
        pass
    rows, damaged = [], 0
    for line in path.read_bytes().split(b"\n"):
        try:
            row = json.loads(line) if line.strip() else None
        except ValueError:
            damaged += 1
            continue
        if isinstance(row, dict):
            rows.append(row)
    missing.append(f"{path.name}: {damaged} damaged lines were left out")
    return rows


def _describe(part: str) -> tuple[str, str]:
    """First line of the stage part's docstring and its source; empty for a part that is not loaded here."""
    importlib.import_module("fairlead.stages")  # registers the parts
    try:
        info = part_info(get_part(part, "stage"))
    except LookupError:
        return "", ""
    return info.summary, info.source
