"""Programs that are hostile, and programs that are not, in the sandbox."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from fairlead.checks import sandbox
from fairlead.checks.programs import passes_tests, score
from fairlead.checks.sandbox import Limits, SandboxError, ensure_isolation, judge_functions, run_script

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="isolation is Linux's")

LIMITS = Limits(seconds=5.0, megabytes=256)
SHORT = Limits(seconds=1.0, megabytes=256)


def out(program: str, limits: Limits = LIMITS, stdin: str = "") -> str | None:
    return run_script(program, stdin, limits)


def refused(statement: str, setup: str = "") -> str | None:
    """What became of a statement that must not work, with every exception told on standard output."""
    return out(
        f"{setup}\ntry:\n    {statement}\n    print('done')\nexcept BaseException as error:\n    print(type(error).__name__)"
    )


def test_an_honest_program() -> None:
    assert out("import math\nprint(math.comb(int(input()), 2), sorted({3, 1}))", stdin="4\n") == "6 [1, 3]\n"
    assert out("import json, re, collections, itertools, random, decimal; print('ok')") == "ok\n"
    assert out("print(hash('a'), {'a', 'b', 'c'})") == out("print(hash('a'), {'a', 'b', 'c'})")
    assert out("raise SystemExit(3)") is None and out("1 / 0") is None and out("not python") is None


def test_time_memory_output_and_recursion_are_limited() -> None:
    started = time.monotonic()
    assert out("while True: pass", SHORT) is None
    assert out("import time; time.sleep(60)", SHORT) is None
    assert out("import os, time; os.close(1); time.sleep(60)", SHORT) is None
    assert out("print(1)", LIMITS._replace(seconds=0.001)) is None
    assert time.monotonic() - started < 6
    assert refused("x = 'a' * (400 * 2**20)") == "MemoryError\n"
    assert out("x = []\nwhile True: x.append(bytearray(2**20))") is None
    assert out("while True: print('x' * 1000)", LIMITS) is None
    assert out("import sys; sys.setrecursionlimit(10**9)\ndef f(): f()\nf()", SHORT) is None
    assert out("import resource; resource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40))") is None


@pytest.mark.parametrize(
    "statement",
    [
        "import os; os.fork()",
        "assert __import__('os').system('true') == 0",
        "import subprocess; subprocess.run(['true'])",
        "import _thread; _thread.start_new_thread(print, ())",
        "import socket; socket.socket()",
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import os; os.kill(os.getppid(), 9)",
        "import os; os.kill(1, 0)",
        "import fcntl, os; fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())",
        "import ctypes; ctypes.CDLL(None).getpid()",
        "open('/etc/passwd').read()",
        "open('/proc/self/environ').read()",
        "open('/proc/%d/cmdline' % __import__('os').getppid()).read()",
        "__import__('os').listdir('/')",
        "open('/tmp/fairlead-sandbox-test', 'w')",
        "open(HERE + '/secret').read()",
        "__import__('os').chmod(HERE + '/secret', 0)",
        "__import__('os').utime(HERE + '/secret')",
        "__import__('os').truncate(HERE + '/secret', 0)",
        "__import__('os').remove(HERE + '/secret')",
        "__import__('os').mkdir(HERE + '/new')",
        "__import__('os').symlink('/', HERE + '/link')",
        "__import__('os').memfd_create('x')",
        "__import__('os').setpriority(0, __import__('os').getppid(), 19)",
    ],
)
@pytest.mark.parametrize("hook", [True, False])
def test_what_a_program_cannot_do(statement: str, hook: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the audit hook, and without it: then the kernel's doors hold alone."""
    if not hook:
        if "ctypes" in statement:
            pytest.skip("a foreign call is harmless where system calls are refused")
        source = Path(sandbox._INSIDE).read_text(encoding="utf-8")
        inside = tmp_path / "inside.py"
        assert source.count("sys.addaudithook(lambda") == 1
        inside.write_text(source.replace("sys.addaudithook(lambda", "(lambda"), encoding="utf-8")
        monkeypatch.setattr(sandbox, "_INSIDE", str(inside))
    secret = tmp_path / "secret"
    secret.write_text("kept", encoding="utf-8")
    before = secret.stat()
    result = refused(statement, f"HERE = {str(tmp_path)!r}")
    assert result is not None and result != "done\n", result
    assert secret.read_text() == "kept" and secret.stat().st_mtime == before.st_mtime
    assert secret.stat().st_mode == before.st_mode
    assert (
        not {"new", "link"} & {path.name for path in tmp_path.iterdir()}
        and not Path("/tmp/fairlead-sandbox-test").exists()
    )


def test_a_fork_bomb_leaves_nothing_behind() -> None:
    assert out("import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass", SHORT) is None


# -- verdicts ------------------------------------------------------------------------------------------------------------

TESTS = ["assert add(1, 2) == 3", "assert add('a', b='b') == 'ab'", "assert add([1], [2]) == [1, 2]"]
RIGHT = "def add(a, b):\n    return a + b\n"


def test_functions_are_judged_by_what_they_return() -> None:
    assert judge_functions(RIGHT, ["add"], TESTS, LIMITS) == [True, True, True]
    assert judge_functions("def add(a, b): return 3", ["add"], TESTS, LIMITS) == [True, False, False]
    assert judge_functions(RIGHT + "print('noise' * 99999)", ["add"], TESTS, LIMITS) == [True, True, True]
    odd = "def odd(x):\n    if x < 0: raise ValueError('negative')\n    return {'x': (x, 0.1, float('inf'), None, {1}, b'')}"
    tests = [
        "assert odd(1) == {'x': (1, 0.1, float('inf'), None, {1}, b'')}",
        "try:\n    odd(-1)\nexcept ValueError as error:\n    assert str(error) == 'negative'\nelse:\n    raise AssertionError",
        "import math\ndef check(f):\n    assert math.isclose(f(2)['x'][1], 0.1)\ncheck(odd)",
    ]
    assert passes_tests(odd, tests, LIMITS) == [True, True, True]


@pytest.mark.parametrize(
    "program",
    [
        "import os; os._exit(0)",
        "print('PASS'); print('111')",
        "class Yes:\n    def __eq__(self, other): return True\ndef add(a, b): return Yes()",
        "class Text(str):\n    def __eq__(self, other): return True\n    __hash__ = str.__hash__\ndef add(a, b): return Text('x')",
        "import builtins\nbuiltins.AssertionError = None\ndef add(a, b): return None",
        "import sys\ndef add(a, b):\n    for f in sys._current_frames().values():\n        f.f_globals['plain'] = lambda x: '1'\n    return None",
        "import os\nfor fd in range(3, 64):\n    try:\n        os.write(fd, b'111')\n    except OSError: pass\ndef add(a, b): return None",
        "def add(a, b):\n    raise AssertionError",
        "def add(a, b):\n    while True: pass",
        "import sys\nsys.stdout.write('(\"value\", 0)\\n' * 9)\ndef add(a, b): return None",
        "def add(a, b):\n    return 'x' * 10**7",
        "add = 1",
        "",
    ],
)
def test_a_verdict_cannot_be_forged(program: str) -> None:
    assert judge_functions(program, ["add"], TESTS, SHORT) == [False, False, False]


def test_scripts_are_judged_by_what_they_write() -> None:
    tests = [{"stdin": "1 2\n", "stdout": "3\n"}, {"stdin": "2 2\n", "stdout": "4"}]
    assert passes_tests("print(sum(map(int, input().split())))", tests, LIMITS) == [True, True]
    assert passes_tests("print(3)", tests, LIMITS) == [True, False]
    assert passes_tests("import os; os._exit(0)", tests, LIMITS) == [False, False]
    assert passes_tests("print(3); raise SystemExit(1)", tests, LIMITS) == [False, False]
    assert passes_tests("while True: pass", tests, SHORT) == [False, False]


def test_the_block_of_the_response_is_the_program() -> None:
    response = f"<think>```python\nbad\n```</think>First:\n```\nno\n```\nThen:\n```python\n{RIGHT}```\nDone."
    assert score(response, TESTS, tuple(LIMITS), False) == 1.0
    assert score("```python\ndef add(a, b): return 3\n```", TESTS, tuple(LIMITS), True) == pytest.approx(1 / 3)
    assert score("```python\ndef add(a, b): return 3\n```", TESTS, tuple(LIMITS), False) == 0.0


@pytest.mark.parametrize("tests", [[], "assert x", ["assert f()", {"stdin": "", "stdout": ""}], [{"input": "x"}], [3]])
def test_tests_of_another_form_are_an_error(tests: object) -> None:
    with pytest.raises(ValueError, match="test"):
        passes_tests("", tests, LIMITS)  # type: ignore[arg-type]


def test_isolation_that_cannot_be_had_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_isolation("require")
    ensure_isolation("best-effort")
    inside = tmp_path / "inside.py"
    source = Path(sandbox._INSIDE).read_text(encoding="utf-8")
    inside.write_text(source.replace("version < 1", "version < 99"), encoding="utf-8")
    monkeypatch.setattr(sandbox, "_INSIDE", str(inside))
    with pytest.raises(SandboxError, match=r"cannot isolate a program's files .*best-effort"):
        out("print(1)")
    assert out("print(1)", LIMITS._replace(isolation="best-effort")) == "1\n"
    monkeypatch.setattr(sandbox.os, "name", "nt")
    with pytest.raises(SandboxError, match="Linux and macOS"):
        run_script("", "", LIMITS)
