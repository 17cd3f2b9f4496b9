"""Files that are either whole or not there, and what is said of full disks and damaged files."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fairlead.runs import RunError, files, read_json, write_json, write_text
from fairlead.runs.files import atomic_folder


def full(*args: Any, **kwargs: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_writing_and_reading(tmp_path: Path) -> None:
    write_json(tmp_path / "deep" / "er" / "a.json", {"é": [1, None, 2.5], "n": float("nan")})
    again = read_json(tmp_path / "deep" / "er" / "a.json")
    assert again["é"] == [1, None, 2.5] and again["n"] != again["n"]
    write_text(tmp_path / "a.txt", "one")
    write_text(tmp_path / "a.txt", "two")
    assert (tmp_path / "a.txt").read_text() == "two"
    assert names(tmp_path) == ["a.txt", "deep"]


def test_a_crash_before_the_end_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "a.txt", "old")

    def crash(*args: Any) -> None:
        raise RuntimeError("power cut")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(RuntimeError, match="power cut"):
        write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"


@pytest.mark.parametrize("place", ["replace", "fsync"])
def test_a_full_disk_is_told_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    write_json(tmp_path / "a.json", 1)
    monkeypatch.setattr(os, place, full)
    with pytest.raises(RunError, match=r"the disk is full: .*a\.json could not be written .*MiB free"):
        write_json(tmp_path / "a.json", 2)
    monkeypatch.undo()
    assert read_json(tmp_path / "a.json") == 1


def test_a_full_disk_when_a_file_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(RunError, match="the disk is full"):
        write_text(tmp_path / "new" / "a.txt", "x")


def test_other_errors_of_the_disk_stay_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*args: Any) -> None:
        raise PermissionError(errno.EACCES, "denied")

    monkeypatch.setattr(os, "replace", denied)
    with pytest.raises(PermissionError):
        write_text(tmp_path / "a.txt", "x")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_that_torch_notices(tmp_path: Path) -> None:
    """torch writes from C++ and loses the error number on the way."""
    with pytest.raises(RunError, match="the disk is full"), atomic_folder(tmp_path / "step"):
        torch.save({"x": torch.zeros(100_000)}, "/dev/full")
    assert names(tmp_path) == []


def test_a_missing_and_a_damaged_file(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"a\.json is missing"):
        read_json(tmp_path / "a.json")
    for damage in (b"", b'{"a": ', b"\xff\xfe\x00"):
        (tmp_path / "a.json").write_bytes(damage)
        with pytest.raises(RunError, match=r"a\.json is damaged"):
            read_json(tmp_path / "a.json")


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "step") as folder:
        (folder / "a").write_text("1")
        (folder / "deep").mkdir()
        (folder / "deep" / "b").write_text("2")
        assert not (tmp_path / "step").exists()
    assert names(tmp_path) == ["step"] and names(tmp_path / "step") == ["a", "deep"]


def test_a_folder_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "step") as folder:
        (folder / "a").write_text("old")
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), atomic_folder(tmp_path / "step") as folder:
            (folder / "a").write_text("new")
            raise error
    assert (tmp_path / "step" / "a").read_text() == "old"
    assert names(tmp_path) == ["step"]


def test_a_folder_replaces_the_old_one_and_leftovers(tmp_path: Path) -> None:
    (tmp_path / ".step.tmp").mkdir()
    (tmp_path / ".step.tmp" / "rubbish").touch()
    for text in ("old", "new"):
        with atomic_folder(tmp_path / "step") as folder:
            (folder / text).touch()
    assert names(tmp_path / "step") == ["new"] and names(tmp_path) == ["step"]


def test_a_full_disk_while_a_folder_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="the disk is full"), atomic_folder(tmp_path / "step") as folder:
        (folder / "a").touch()
    assert names(tmp_path) == []


def test_a_process_that_is_killed_while_it_writes(tmp_path: Path) -> None:
    """Whatever the moment: a reader sees one whole version."""
    code = (
        "import runpy, sys; from pathlib import Path\n"
        "write_json = runpy.run_path(sys.argv[2])['write_json']\n"
        "print('ready', flush=True)\n"
        "n = 0\n"
        "while True:\n"
        "    n += 1; write_json(Path(sys.argv[1]), [n] * 20000)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "a.json"), files.__file__], stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline()
    while not (tmp_path / "a.json").exists():
        pass
    for _ in range(20):
        value = read_json(tmp_path / "a.json")
        assert len(value) == 20000 and len(set(value)) == 1
    process.kill()
    process.wait()
    process.stdout.close()
    assert len(set(read_json(tmp_path / "a.json"))) == 1


def test_a_limit_on_file_sizes_is_not_taken_for_a_full_disk() -> None:
    """RLIMIT_FSIZE gives EFBIG, for which `make room` would be the wrong advice."""
    with pytest.raises(OSError, match="too large"), files.on_disk(Path("x")):
        raise OSError(errno.EFBIG, "File too large")
