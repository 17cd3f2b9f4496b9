"""Where the numbers of a run go: JSONL, TensorBoard, and experiment trackers when installed.

Knows: names and numbers.
Does not know: who measured them.
"""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from typing import Any

from fairlead.runs.files import RunError, on_disk

__all__ = ["JsonLines", "MetricSinks", "append_json_lines", "read_json_lines"]

TRACKERS = ("wandb", "trackio")


class JsonLines:
    """A file of one JSON object a line that can be cut back to where it was when a checkpoint was taken."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")

    def write(self, record: dict[str, Any]) -> None:
        """Append one record."""
        with on_disk(self.path):
            self._file.write((json.dumps(record, ensure_ascii=False) + "\n").encode())
            self._file.flush()

    def position(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def cut_back(self, position: int) -> None:
        """Forget everything behind `position`; RunError when the file is shorter than that."""
        if self.path.stat().st_size < position:
            raise RunError(f"{self.path} is shorter than its checkpoint says; the run directory was changed by hand")
        self._file.truncate(position)
        self._file.seek(position)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """All whole lines; a last line that was cut by a crash is left out."""
    if not path.exists():
        return []
    records = []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            records.append(json.loads(line))
        except ValueError:
            if number == len(lines):
                break
            raise RunError(f"{path}:{number} is not JSON; the file is damaged") from None
    return records


def append_json_lines(path: Path, records: list[dict[str, Any]]) -> None:
    """Append records to a file that nobody has open."""
    log = JsonLines(path)
    for record in records:
        log.write(record)
    log.close()


class MetricSinks:
    """Sends every stage's metrics to TensorBoard and the trackers named in the recipe."""

    def __init__(self, directory: Path, trackers: list[str], name: str, config: dict[str, Any]) -> None:
        self._writers: dict[str, Any] = {}
        self._directory = directory
        self._trackers = []
        for tracker in trackers:
            if tracker not in TRACKERS:
                raise RunError(f"unknown tracker {tracker!r}; choose from {', '.join(TRACKERS)}")
            try:
                module = importlib.import_module(tracker)
            except ImportError:
                raise RunError(
                    f"{tracker} is not installed: `pip install {tracker}`, or take it out of `trackers`"
                ) from None
            module.init(project="fairlead", name=name, config=config)
            self._trackers.append(module)

    def write(self, stage: str, step: int, metrics: dict[str, float]) -> None:
        """Send the finite numbers of one step."""
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        writer = self._writer(stage, step)
        if writer is not None:
            for name, value in finite.items():
                writer.add_scalar(name, value, step)
        for tracker in self._trackers:
            tracker.log({f"{stage}/{name}": value for name, value in finite.items()} | {f"{stage}/step": step})

    def _writer(self, stage: str, step: int) -> Any:
        """The stage's writer; made for `step`, it hides what an interrupted try wrote from that step on."""
        if stage not in self._writers:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:  # TensorBoard is optional
                self._writers[stage] = None
            else:
                self._writers[stage] = SummaryWriter(str(self._directory / stage), purge_step=step)
        return self._writers[stage]

    def close(self) -> None:
        """Flush and close everything."""
        for writer in self._writers.values():
            if writer is not None:
                writer.close()
        for tracker in self._trackers:
            tracker.finish()
