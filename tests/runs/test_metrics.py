"""Where the numbers go: JSON lines that can be cut back, TensorBoard, trackers."""

from __future__ import annotations

import errno
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from fairlead.runs import RunError, read_json_lines
from fairlead.runs.metrics import JsonLines, MetricSinks


def test_lines_are_readable_at_once_and_appended_later(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "m.jsonl"
    file = JsonLines(path)
    file.write({"step": 1, "é": float("nan")})
    assert read_json_lines(path)[0]["step"] == 1
    file.close()
    file = JsonLines(path)
    assert file.position() == path.stat().st_size
    file.write({"step": 2})
    assert [row["step"] for row in read_json_lines(path)] == [1, 2]
    file.close()


def test_cutting_back(tmp_path: Path) -> None:
    file = JsonLines(tmp_path / "m.jsonl")
    file.write({"step": 1})
    position = file.position()
    file.write({"step": 2})
    file.write({"step": 3})
    file.cut_back(position)
    file.write({"step": 4})
    assert [row["step"] for row in read_json_lines(file.path)] == [1, 4]
    assert file.position() == file.path.stat().st_size
    with pytest.raises(RunError, match="shorter than its checkpoint"):
        file.cut_back(10_000)
    file.close()


def test_reading_forgives_a_cut_last_line_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    assert read_json_lines(path) == []
    path.write_bytes(b'{"a": 1}\n\n{"a": 2}\n{"a": ')
    assert read_json_lines(path) == [{"a": 1}, {"a": 2}]
    path.write_bytes('{"a": 1}\n{"a": "é'.encode()[:-1])  # cut within a letter
    assert read_json_lines(path) == [{"a": 1}]
    for damage in (b"{bad}\n", b"\xff\xfe\n"):
        path.write_bytes(b'{"a": 1}\n' + damage + b'{"a": 2}\n')
        with pytest.raises(RunError, match=r"m\.jsonl:2 is not JSON"):
            read_json_lines(path)


def test_a_full_disk(tmp_path: Path) -> None:
    class Full:
        def write(self, data: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    file = JsonLines(tmp_path / "m.jsonl")
    file.close()
    file._file = Full()  # type: ignore[assignment]
    with pytest.raises(RunError, match=r"the disk is full: .*m\.jsonl"):
        file.write({"step": 1})


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A stand-in for wandb that keeps what it is told."""
    told: list[Any] = []
    module = types.ModuleType("wandb")
    module.init = lambda **about: told.append(("init", about))  # type: ignore[attr-defined]
    module.log = lambda values: told.append(("log", values))  # type: ignore[attr-defined]
    module.finish = lambda: told.append(("finish", None))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    return told


def test_trackers_are_told_finite_numbers(tmp_path: Path, tracker: list[Any]) -> None:
    sinks = MetricSinks(tmp_path, ["wandb"], "name", {"seed": 1})
    sinks.write("sft", 3, {"loss": 2.0, "odd": float("nan"), "far": float("inf")})
    sinks.close()
    assert tracker == [
        ("init", {"project": "fairlead", "name": "name", "config": {"seed": 1}}),
        ("log", {"sft/loss": 2.0, "sft/step": 3}),
        ("finish", None),
    ]


def test_trackers_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match="unknown tracker 'mlfow'; choose from wandb, trackio"):
        MetricSinks(tmp_path, ["mlfow"], "name", {})
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(RunError, match="pip install trackio"):
        MetricSinks(tmp_path, ["trackio"], "name", {})


def test_tensorboard_forgets_what_a_resumed_run_does_again(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for session, (first, last) in enumerate(((1, 7), (5, 6))):  # stopped behind step 7, resumed from step 4
        sinks = MetricSinks(tmp_path, [], "name", {})
        for step in range(first, last + 1):
            sinks.write("sft", step, {"loss": step + 0.5 * session})
        sinks.close()
        for file in (tmp_path / "sft").glob("*.[0-9]*"):  # read in the order of their names, which is by the second
            file.rename(file.with_name(f"session-{session}.tfevents"))
    read = events.EventAccumulator(str(tmp_path / "sft"))
    read.Reload()
    assert [(point.step, point.value) for point in read.Scalars("loss")] == [
        (1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0), (5, 5.5), (6, 6.5),
    ]  # fmt: skip


def test_without_tensorboard_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    sinks = MetricSinks(tmp_path / "tb", [], "name", {})
    sinks.write("sft", 1, {"loss": 1.0})
    sinks.close()
    assert not (tmp_path / "tb").exists()
