"""Files that are either whole or not there.

Knows: atomic writes of files and folders, and what to say when a disk is full or a file is damaged.
Does not know: what is in them.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["RunError", "atomic_folder", "on_disk", "read_json", "write_json", "write_text"]


class RunError(RuntimeError):
    """Something is wrong with a run directory; the message says what to do."""


def write_text(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old one or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with on_disk(path):
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=True) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; RunError that names the file when it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path} is missing: this is not a complete run directory") from None
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}); start the run in a new directory") from None


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which takes its name only when everything in it is on the disk."""
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    with on_disk(path):
        temporary.mkdir(parents=True)
        try:
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    with file.open("rb") as handle:
                        os.fsync(handle.fileno())
            old = path.with_name(f".{path.name}.old")
            shutil.rmtree(old, ignore_errors=True)
            if path.exists():
                path.replace(old)
            temporary.replace(path)
            shutil.rmtree(old, ignore_errors=True)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


@contextmanager
def on_disk(path: Path) -> Iterator[None]:
    """A full disk, whoever noticed it, becomes a RunError that says what to do."""
    try:
        yield
    except Exception as error:
        if not _disk_full(error):
            raise
        free = shutil.disk_usage(next(p for p in (path, *path.parents) if p.exists())).free
        raise RunError(
            f"the disk is full: {path} could not be written ({free / 2**20:.0f} MiB free). Make room, then continue with "
            "`fairlead run --resume`; nothing that was saved before is lost"
        ) from error


def _disk_full(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    # torch and safetensors write from C++ and Rust, where the error number is lost on the way.
    marks = ("No space left on device", "file write failed", "failed writing file", "unexpected pos")
    return any(mark in str(error) for mark in marks)
