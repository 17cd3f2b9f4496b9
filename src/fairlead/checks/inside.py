"""What runs inside the sandbox: shuts the doors behind itself, then runs a program that is not trusted.

Knows: the limits of one process on Linux and elsewhere; serving calls to a program's functions, and judging it from outside.
Does not know: this package. It is started as a file by an interpreter without site-packages.

The doors, in this order: limits of resources; no new privileges and no capabilities; namespaces of its own for network and
messages where the system allows them; Landlock, after which only Python's own files can be read and none can be written;
a seccomp filter, after which no process, thread, socket or signal can be made; and an audit hook in the interpreter.
"""

from __future__ import annotations

import ast
import builtins
import ctypes
import json
import os
import platform
import struct
import sys
from pathlib import Path
from typing import Any

_PLAIN = (bool, int, str, bytes, complex, type(None))
_DENIED = {
    "x86_64": (
        0xC000003E,
        72,
        "57 58 56 435 59 322 "  # fork, vfork, clone, clone3, execve, execveat
        "41 53 29 64 68 240 "  # socket, socketpair, shmget, semget, msgget, mq_open
        "62 200 234 129 297 424 434 438 "  # kill, tkill, tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo, pidfd_*
        "101 310 311 323 298 321 "  # ptrace, process_vm_readv, process_vm_writev, userfaultfd, perf_event_open, bpf
        "425 426 427 248 249 250 "  # io_uring_*, add_key, request_key, keyctl
        "165 272 308 161 155 428 429 430 431 432 433 442 "  # mount, unshare, setns, chroot, pivot_root, new mount calls
        "319 447 "  # memfd_create, memfd_secret: memory outside of the limit
        "160 302 141 203 142 144 314 251 256 279 "  # setrlimit, prlimit64; priority, affinity, pages of other processes
        "90 91 268 452 92 93 94 260 132 235 261 280 "  # what Landlock leaves open: chmod, chown, times,
        "188 189 190 197 198 199 463 466 76 77",  # extended attributes, truncate
    ),
    "aarch64": (
        0xC00000B7,
        25,
        "220 435 221 281 "
        "198 199 194 190 186 180 "
        "129 130 131 138 240 424 434 438 "
        "117 270 271 282 241 280 "
        "425 426 427 217 218 219 "
        "40 97 268 51 41 428 429 430 431 432 433 442 "
        "279 447 "
        "164 261 140 122 118 119 274 30 238 239 "
        "52 53 452 54 55 88 "
        "5 6 7 14 15 16 463 466 45 46",
    ),
}
"""Machine → its number for seccomp, its fcntl, and the system calls that fail with EPERM."""


def main() -> None:
    """Read the order from the descriptor that is named, shut the doors, report which are shut, and do what is ordered."""
    with os.fdopen(int(sys.argv[1]), "rb") as file:
        order = json.load(file)
    report = os.fdopen(int(sys.argv[2]), "w")
    nowhere = os.open(os.devnull, os.O_RDWR)
    missing = shut(order["megabytes"], order["cpu"])
    report.write(json.dumps(missing) + "\n")
    report.flush()
    if missing and order["isolation"] == "require":
        os._exit(3)
    if order["mode"] == "judge":
        judge(order["names"], order["tests"], report, nowhere)
        return
    report.close()
    if order["mode"] == "serve":
        serve(order["program"], nowhere)
    else:
        run(order["program"], {"__name__": "__main__"})


def run(program: str, names: dict[str, Any]) -> dict[str, Any]:
    """Execute a program; returns its names."""
    exec(compile(program, "<program>", "exec"), names)
    return names


# -- the doors -----------------------------------------------------------------------------------------------------------


def shut(megabytes: int, cpu: int) -> list[str]:
    """Shut every door that this system has; returns what is left open."""
    _limit(megabytes, cpu)
    missing = ["processes", "network", "files"]
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGKILL: no program outlives the one that judges it
        libc.prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: other programs of the same person cannot look in
        own_network = libc.unshare(0x10000000 | 0x40000000 | 0x08000000) == 0  # user, network, messages
        libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
        _drop_capabilities(libc)
        if own_network:
            missing.remove("network")
        if _landlock(libc):
            missing.remove("files")
        if _seccomp(libc):
            missing = [door for door in missing if door == "files"]
    readable = tuple(os.path.realpath(path) + os.sep for path in _readable())
    sys.addaudithook(lambda event, arguments: _listen(event, arguments, readable))
    return missing


def _limit(megabytes: int, cpu: int) -> None:
    import resource

    limits = {
        resource.RLIMIT_CPU: cpu,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 32,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_AS: megabytes * 2**20,
    }
    for limit, most in limits.items():
        try:
            resource.setrlimit(limit, (most, most))
        except (OSError, ValueError):
            if sys.platform == "linux":
                raise  # macOS has no limit of the address space


def _drop_capabilities(libc: Any) -> None:
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    libc.capset(header, (ctypes.c_uint32 * 6)())


def _readable() -> list[str]:
    """Python's own library and the system's shared libraries: all that a program may read."""
    shared = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo"]
    return [path for path in [*sys.path, *shared] if Path(path).is_dir()]


def _landlock(libc: Any) -> bool:
    """Only reading, and only below `_readable`; since version 6 of it also no signals to anyone outside."""
    version = libc.syscall(444, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    rights = (1 << {1: 13, 2: 14}.get(version, 15 if version < 5 else 16)) - 1
    attributes = struct.pack("=QQQ", rights, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    rules = libc.syscall(444, attributes, ctypes.c_size_t(size), 0)
    if rules < 0:
        return False
    for path in _readable():
        folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
        libc.syscall(445, rules, 1, struct.pack("=Qi", (1 << 2) | (1 << 3), folder), 0)
        os.close(folder)
    done: bool = libc.syscall(446, rules, 0) == 0
    os.close(rules)
    return done


def _seccomp(libc: Any) -> bool:
    """Refuse the system calls of `_DENIED`, any of another architecture, and ownership of signals through fcntl."""
    if platform.machine() not in _DENIED or sys.maxsize < 2**32:
        return False
    architecture, fcntl, denied = _DENIED[platform.machine()]

    def step(code: int, yes: int, no: int, value: int) -> bytes:
        return struct.pack("=HBBI", code, yes, no, value)

    load, equal, at_least, leave = 0x20, 0x15, 0x35, 0x06
    kill, refuse, allow = 0x80000000, 0x00050001, 0x7FFF0000
    steps = [step(load, 0, 0, 4), step(equal, 1, 0, architecture), step(leave, 0, 0, kill), step(load, 0, 0, 0)]
    steps += [step(at_least, 0, 1, 0x40000000), step(leave, 0, 0, refuse)]
    for number in map(int, denied.split()):
        steps += [step(equal, 0, 1, number), step(leave, 0, 0, refuse)]
    steps += [step(equal, 0, 4, fcntl), step(load, 0, 0, 24)]  # its second argument
    steps += [step(equal, 1, 0, 8), step(equal, 0, 1, 15), step(leave, 0, 0, refuse)]  # F_SETOWN, F_SETOWN_EX
    steps += [step(leave, 0, 0, allow)]
    code = ctypes.create_string_buffer(b"".join(steps))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(code)))
    done: bool = libc.prctl(22, 2, program, 0, 0) == 0
    return done


_CLOSED = (
    "socket.",
    "subprocess.",
    "ctypes.",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "os.kill",
)
_CHANGING = (
    "os.chmod",
    "os.chown",
    "os.link",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.symlink",
    "os.truncate",
)


def _listen(event: str, arguments: tuple[Any, ...], readable: tuple[str, ...]) -> None:
    """The interpreter's own door, for systems without the others; a program that knows Python well gets past it."""
    if event.startswith((*_CLOSED, *_CHANGING)):
        raise PermissionError(f"{event} is not allowed here")
    if event == "open" and isinstance(arguments[0], str | bytes):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        writes = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes or not path.startswith(readable):
            raise PermissionError(f"{path} cannot be opened here")


# -- a program's functions, called from outside --------------------------------------------------------------------------


def plain(value: Any, depth: int = 40) -> str:
    """Plain data as a Python literal; TypeError for anything else."""
    if depth == 0:
        raise TypeError("too deep")
    if type(value) is float:
        if value != value:
            raise TypeError("nan is no literal")
        return repr(value).replace("inf", "1e999")
    if type(value) in _PLAIN:
        return repr(value)
    if type(value) in (list, tuple, set, frozenset):
        inner = ", ".join(plain(item, depth - 1) for item in value)
        if type(value) is list:
            return f"[{inner}]"
        if type(value) is tuple:
            return f"({inner},)" if inner else "()"
        return f"{{{inner}}}" if inner else "set()"
    if type(value) is dict:
        return "{" + ", ".join(f"{plain(k, depth - 1)}: {plain(v, depth - 1)}" for k, v in value.items()) + "}"
    raise TypeError(f"{type(value).__name__} is no plain data")


def serve(program: str, nowhere: int) -> None:
    """Run the program, then answer calls of its functions, a line each, until there are no more."""
    calls, answers = os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w")
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    names = run(program, {"__name__": "program"})
    for line in calls:
        name, arguments, named = ast.literal_eval(line)
        try:
            answer = plain(("value", names[name](*arguments, **named)))
        except BaseException as error:
            answer = plain(("error", type(error).__name__, str(error)[:1000]))
        answers.write(answer + "\n")
        answers.flush()


def judge(known: list[str], tests: list[str], report: Any, nowhere: int) -> None:
    """Run the tests with functions that ask the program in the other process; writes 1 or 0 for each test.

    Nothing of the program is in this process: it receives data, and compares them itself.
    """
    answers, calls = os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w")
    os.dup2(nowhere, 1)

    def remote(name: str) -> Any:
        def ask(*arguments: Any, **named: Any) -> Any:
            calls.write(plain((name, arguments, named)) + "\n")
            calls.flush()
            answer = answers.readline(2**20)
            if not answer.endswith("\n"):
                raise EOFError("the program has ended, or answers too much")
            kind, *rest = ast.literal_eval(answer)
            if kind == "value":
                return rest[0]
            raised: Any = getattr(builtins, rest[0], RuntimeError)
            if not (isinstance(raised, type) and issubclass(raised, Exception)):
                raised = RuntimeError
            raise raised(rest[1])

        return ask

    for test in tests:
        passed = "0"
        try:
            names: dict[str, Any] = {name: remote(name) for name in known}
            run(test, names | {"__name__": "tests"})
            passed = "1"
        except BaseException:
            pass  # a failed test, whatever the reason
        report.write(passed)
        report.flush()


if __name__ == "__main__":
    main()
