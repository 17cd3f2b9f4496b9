"""Running a Python program that is not trusted, and judging what it does from outside.

Knows: processes, pipes, limits of time and output.
Does not know: how a process shuts its own doors (`inside.py` does), records, rewards.

Where it holds. On Linux 5.13 or later on x86-64 or ARM64, for root and for anyone else, also in ordinary containers: no
process, thread or socket can be made, no signal sent, nothing but Python's own library read, nothing written. What is left
to a program is computing within its memory and time, its standard streams, and to see whether a path exists. On other
systems (macOS, older kernels, other processors) there are the limits of resources and an audit hook, which a determined
program gets past: there `require` refuses, and `best-effort` goes on. Windows has neither and is refused.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

__all__ = ["Isolation", "Limits", "SandboxError", "ensure_isolation", "judge_functions", "run_script"]

Isolation = Literal["require", "best-effort"]

_INSIDE = str(Path(__file__).with_name("inside.py"))


class SandboxError(RuntimeError):
    """Isolation cannot be had here, or a process could not be started; the program is not to blame."""


class Limits(NamedTuple):
    """What a program may use."""

    seconds: float = 10.0
    """Wall-clock time; processor time is limited to a second more."""
    megabytes: int = 512
    """Address space."""
    output: int = 65_536
    """Bytes on standard output; a program that writes more is ended."""
    isolation: Isolation = "require"


@cache
def ensure_isolation(isolation: Isolation) -> None:
    """Run a program that does nothing.

    Raises: SandboxError where the system cannot isolate programs as `isolation` asks.
    """
    if run_script("print(1)", "", Limits(seconds=30.0, isolation=isolation)) != "1\n":
        raise SandboxError(
            f"no program runs in the sandbox here: {sys.executable} does not start without site-packages"
        )


def run_script(program: str, stdin: str, limits: Limits) -> str | None:
    """Standard output of a program that ran to its end; None when it failed, took too long or wrote too much.

    Raises: SandboxError where it could not be isolated.
    """
    deadline = time.monotonic() + limits.seconds
    with tempfile.TemporaryFile() as given:
        given.write(stdin.encode())
        given.seek(0)
        process, report = _start({"mode": "script", "program": program}, limits, given, subprocess.PIPE)
    try:
        assert process.stdout is not None
        output = _read(process.stdout, deadline, limits.output) if _ready(report, deadline, limits) else None
        if output is None:
            return None
        return output.decode(errors="replace") if process.wait(max(0.0, deadline - time.monotonic())) == 0 else None
    except subprocess.TimeoutExpired:
        return None
    finally:
        _end(process, report)


def judge_functions(program: str, names: list[str], tests: list[str], limits: Limits) -> list[bool]:
    """Which tests pass; a test is Python code that fails by raising, and calls the program's functions by their names.

    The program and the tests run in two processes. A call sends plain data (numbers, texts, lists, tuples, sets,
    dictionaries, None) and receives plain data or the type and message of an exception, so the program can neither see a
    test nor reach the comparison. Functions cannot change their arguments, and cannot be given or return objects.

    Raises: SandboxError where they could not be isolated.
    """
    deadline = time.monotonic() + limits.seconds
    served, asked = _start({"mode": "serve", "program": program}, limits, subprocess.PIPE, subprocess.PIPE)
    judging: subprocess.Popen[bytes] | None = None
    try:
        order = {"mode": "judge", "names": names, "tests": tests}
        judging, report = _start(order, limits, served.stdout, served.stdin)
        for pipe in (served.stdin, served.stdout):
            assert pipe is not None
            pipe.close()  # now each end is held by one process, so that the end of one is the end of the other's input
        ready = _ready(asked, deadline, limits) and _ready(report, deadline, limits)
        verdicts = b""
        while ready and len(verdicts) < len(tests):
            more = _read(report, deadline, 1, some=True)
            if not more:
                break
            verdicts += more
        return [verdict == ord("1") for verdict in verdicts.ljust(len(tests), b"0")]
    finally:
        if judging is not None:
            _end(judging, report)
        _end(served, asked)


# -- processes -----------------------------------------------------------------------------------------------------------


def _start(order: dict[str, Any], limits: Limits, stdin: Any, stdout: Any) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    """A process with its order, and the pipe on which it reports."""
    if os.name != "posix":
        raise SandboxError("programs can be run on Linux and macOS only, since other systems cannot limit them")
    order |= {"megabytes": limits.megabytes, "cpu": int(limits.seconds) + 1, "isolation": limits.isolation}
    read, write = os.pipe()
    try:
        with tempfile.TemporaryFile() as file:
            file.write(json.dumps(order).encode())
            file.seek(0)
            process = subprocess.Popen(
                [sys.executable, "-s", "-P", "-S", "-B", _INSIDE, str(file.fileno()), str(write)],
                stdin=stdin,
                stdout=stdout,
                stderr=subprocess.DEVNULL,
                pass_fds=(file.fileno(), write),
                cwd="/",
                env={"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"},
                start_new_session=True,
            )
    except BaseException:
        os.close(read)
        raise
    finally:
        os.close(write)
    return process, os.fdopen(read, "rb", buffering=0)


def _ready(report: IO[bytes], deadline: float, limits: Limits) -> bool:
    """Wait until the process says which doors are open, before anything of the program runs; False when time is up."""
    line = b""
    while not line.endswith(b"\n"):
        more = _read(report, deadline, 1, some=True)
        if more is None:
            return False
        if not more:
            raise SandboxError(f"the sandbox did not start with {limits.megabytes} MB: allow more")
        line += more
    missing = json.loads(line)
    if missing and limits.isolation == "require":
        raise SandboxError(
            f"this system cannot isolate a program's {', '.join(missing)} (needed: Linux 5.13 or later with Landlock and "
            "seccomp, on x86-64 or ARM64): run elsewhere, or set isolation: best-effort if you trust the programs"
        )
    return True


def _read(pipe: IO[bytes], deadline: float, most: int, some: bool = False) -> bytes | None:
    """All that comes before the end of the pipe (with `some`: the first of it); None when it is late or more than `most`."""
    found = b""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            more = os.read(pipe.fileno(), most - len(found) + (not some))
            found += more
            if some or not more:
                return found
            if len(found) > most:
                return None
    return None


def _end(process: subprocess.Popen[bytes], report: IO[bytes]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout, report):
        if pipe is not None:
            pipe.close()
    process.wait()
