"""Whether the program in a response passes its tests.

Knows: how a program stands in a response, and the two forms of tests.
Does not know: how a program is kept from doing harm (`sandbox.py` does).
"""

from __future__ import annotations

import ast
import builtins
import time
from typing import Any

from fairlead.checks.sandbox import Limits, judge_functions, run_script
from fairlead.checks.texts import answer_of, block_of

__all__ = ["passes_tests", "score"]


def score(response: str, tests: list[Any], limits: tuple[Any, ...], partial: bool) -> float:
    """Share of the tests that the response's program passes with `partial`, else 1 when it passes all of them."""
    passed = passes_tests(block_of(answer_of(response)), tests, Limits(*limits), stop=not partial)
    return sum(passed) / len(tests) if partial else float(all(passed))


def passes_tests(program: str, tests: list[Any], limits: Limits, stop: bool = False) -> list[bool]:
    """Which tests a program passes; with `stop` no script is run after the first that failed.

    A test is a mapping with `stdin` and `stdout` (compared line by line without white space at the ends), or a text of Python
    code that raises where the program is wrong, such as `assert add(1, 2) == 3`. The time limit is for all tests together.

    Raises: ValueError for tests of another form.
    """
    if not isinstance(tests, list) or not tests:
        raise ValueError(f"tests are a list of assertions, or of mappings with stdin and stdout, not {tests!r:.80}")
    if all(isinstance(test, str) for test in tests):
        return judge_functions(program, _called(tests), tests, limits)
    if not all(isinstance(test, dict) and set(test) == {"stdin", "stdout"} for test in tests):
        raise ValueError("every test must be an assertion, or every one a mapping with stdin and stdout")
    deadline = time.monotonic() + limits.seconds
    passed: list[bool] = []
    for test in tests:
        left = deadline - time.monotonic()
        output = None
        if left > 0 and (not stop or all(passed)):
            output = run_script(program, test["stdin"], limits._replace(seconds=left))
        passed.append(output is not None and _lines(output) == _lines(test["stdout"]))
    return passed


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]


def _called(tests: list[str]) -> list[str]:
    """The names that the tests read and neither define nor find in Python: those of the program."""
    read: set[str] = set()
    bound: set[str] = set(dir(builtins))
    for test in tests:
        for node in ast.walk(ast.parse(test)):
            if isinstance(node, ast.Name):
                (read if isinstance(node.ctx, ast.Load) else bound).add(node.id)
            elif isinstance(node, ast.arg):
                bound.add(node.arg)
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                bound.add(node.name)
            elif isinstance(node, ast.alias):
                bound.add((node.asname or node.name).partition(".")[0])
            elif isinstance(node, ast.ExceptHandler) and node.name:
                bound.add(node.name)
    return sorted(read - bound)
