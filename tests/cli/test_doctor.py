"""What `fairlead doctor` finds on machines good and bad."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from fairlead import doctor
from fairlead.cli import app
from fairlead.doctor import Finding, examine

Usage = namedtuple("Usage", "total used free")


def find(subject: str, runs: Path = Path("runs")) -> Finding:
    return next(finding for finding in examine(runs) if finding.subject == subject)


def test_this_machine_is_looked_at_from_all_sides() -> None:
    subjects = {finding.subject for finding in examine(Path("runs"))}
    assert {"python", "torch", "transformers", "ray", "devices", "threads", "disk", "FAIRLEAD_DATA"} <= subjects


def test_everything_that_is_not_right_has_a_remedy() -> None:
    assert all(finding.remedy for finding in examine(Path("runs")) if finding.state != "ok")


def test_as_text_and_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        doctor, "examine", lambda runs: [Finding("a", "ok", "fine"), Finding("b", "note", "so", "do [x]")]
    )
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0 and "→ do [x]" in result.stdout
    told = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)
    assert told["healthy"] is True and told["findings"][1]["remedy"] == "do [x]"


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_something_broken_ends_with_one(monkeypatch: pytest.MonkeyPatch, options: list[str]) -> None:
    monkeypatch.setenv("FAIRLEAD_DATA", "/no/such/folder")
    result = CliRunner().invoke(app, ["doctor", *options])
    assert result.exit_code == 1 and "/no/such/folder is not a folder" in result.stdout


def test_an_old_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    assert find("python").state == "broken"


@pytest.mark.parametrize(
    ("version", "state"),
    [("2.10.9", "broken"), ("2.11.0", "ok"), ("2.11.0+cpu", "ok"), ("3.0", "ok"), (None, "broken")],
)
def test_versions_of_packages(monkeypatch: pytest.MonkeyPatch, version: str | None, state: str) -> None:
    def version_of(name: str) -> str:
        if name == "torch" and version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version or "99" if name == "torch" else "99"

    monkeypatch.setattr(importlib.metadata, "version", version_of)
    finding = find("torch")
    assert finding.state == state
    assert state == "ok" or finding.remedy == 'pip install "torch>=2.11"'


def test_a_gpu_that_torch_does_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    finding = find("devices")
    assert finding.state == "note" and "CUDA build" in finding.remedy


def test_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index=0: "Big GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert find("devices").message == "Big GPU (with bfloat16)"


@pytest.mark.parametrize(("threads", "state"), [(1, "note"), (8, "ok"), (4, "ok"), (64, "note")])
def test_threads(monkeypatch: pytest.MonkeyPatch, threads: int, state: str) -> None:
    monkeypatch.setattr("fairlead.runtime.machine.usable_cores", lambda: 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    finding = find("threads")
    assert finding.state == state
    assert state == "ok" or "runtime.threads=8" in finding.remedy


@pytest.mark.parametrize(
    ("flags", "state"),
    [({"avx2"}, "note"), ({"avx2", "avx512_bf16"}, "ok"), ({"amx_bf16"}, "ok"), ({"bf16"}, "ok"), (set(), "ok")],
)
def test_processors(monkeypatch: pytest.MonkeyPatch, flags: set[str], state: str) -> None:
    monkeypatch.setattr("fairlead.runtime.machine.cpu_flags", lambda: flags)
    assert find("cpu").state == state


@pytest.mark.parametrize(("gibibytes", "state"), [(0.1, "broken"), (1, "note"), (50, "ok")])
def test_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gibibytes: float, state: str) -> None:
    free = int(gibibytes * 2**30)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(free, 0, free))
    assert find("disk", tmp_path / "not" / "yet").state == state


def test_a_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "access", lambda *arguments: False)
    assert find("disk", tmp_path).state == "broken"


def test_little_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/shm").is_dir():
        pytest.skip("this system has no /dev/shm")
    real = shutil.disk_usage

    def small(place: Any) -> Any:
        return Usage(64 * 2**20, 0, 0) if str(place) == "/dev/shm" else real(place)

    monkeypatch.setattr(shutil, "disk_usage", small)
    finding = find("shared memory")
    assert finding.state == "note" and "--shm-size" in finding.remedy


@pytest.mark.parametrize(("value", "state"), [(None, "ok"), ("false", "ok"), ("true", "note"), ("1", "note")])
def test_tokenizers(monkeypatch: pytest.MonkeyPatch, value: str | None, state: str) -> None:
    if value is None:
        monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    else:
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", value)
    assert find("TOKENIZERS_PARALLELISM").state == state


def test_the_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FAIRLEAD_DATA", str(tmp_path))
    assert find("FAIRLEAD_DATA") == Finding("FAIRLEAD_DATA", "ok", str(tmp_path))
