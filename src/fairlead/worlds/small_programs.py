"""Tasks whose answer is a Python function of one line, with tests that a sandbox can run.

Knows: the kinds of tasks, their wordings, demonstrations and tests.
Does not know: who answers, or how tests are run.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fairlead.worlds.records import save_splits

__all__ = ["save_tasks", "tasks"]

_NUMBERS = range(2, 22)


class _Kind(NamedTuple):
    wording: str
    """What is asked, with a place for the number."""
    body: str
    """The expression that is right."""
    value: Callable[[Any, int], Any]
    """What it gives for an input and the number."""
    of: Literal["number", "word", "length"]
    """What goes in: a number, a word, or a word whose length matters."""

    def inputs(self, number: int) -> list[Any]:
        """What the tests put in, some of it where a comparison turns."""
        if self.of == "word":
            return ["a", "tree", "garden"]
        return [0, 7, 40, number, number + 1] if self.of == "number" else ["a", "o" * number, "o" * (number + 1)]


_KINDS = {
    "add": _Kind("adds {n} to x", "x + {n}", lambda x, n: x + n, "number"),
    "take": _Kind("takes {n} from x", "x - {n}", lambda x, n: x - n, "number"),
    "times": _Kind("gives {n} times x", "x * {n}", lambda x, n: x * n, "number"),
    "rest": _Kind("gives what is left when x is divided by {n}", "x % {n}", lambda x, n: x % n, "number"),
    "more": _Kind("says whether x is more than {n}", "x > {n}", lambda x, n: x > n, "number"),
    "larger": _Kind("gives the larger of x and {n}", "max(x, {n})", max, "number"),
    "repeat": _Kind("gives the word x {n} times in a row", "x * {n}", lambda x, n: x * n, "word"),
    "longer": _Kind(
        "says whether the word x has more than {n} letters", "len(x) > {n}", lambda x, n: len(x) > n, "length"
    ),
}


def tasks() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training and validation records: `kind`, `prompt`, `response` (a demonstration) and `tests`. Every eighth is held out."""
    everything = [_record(name, kind, number) for name, kind in _KINDS.items() for number in _NUMBERS]
    random.Random(0).shuffle(everything)
    return [record for place, record in enumerate(everything) if place % 8], everything[::8]


def save_tasks(folder: Path) -> None:
    """Write `train.jsonl` and `validation.jsonl`."""
    save_splits(folder, *tasks())


def _record(name: str, kind: _Kind, number: int) -> dict[str, Any]:
    question = f"Write a function f(x) that {kind.wording.format(n=number)}."
    program = f"```python\ndef f(x):\n    return {kind.body.format(n=number)}\n```"
    return {
        "kind": name,
        "prompt": [{"role": "user", "content": question}],
        "response": program,
        "tests": [f"assert f({value!r}) == {kind.value(value, number)!r}" for value in kind.inputs(number)],
    }
