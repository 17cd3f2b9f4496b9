"""Calling a function that a recipe names, in a worker process.

Knows: how a dotted path is imported, and which columns of a record a function can take.
Does not know: anything heavy. A worker imports this file and the person's own module, so that it starts in a moment,
holds little memory, and is soon replaced when it dies.
"""

from __future__ import annotations

import importlib
import inspect
import math
import time
from collections.abc import Callable
from typing import Any

__all__ = ["apply", "call", "invoke", "load", "module_of"]


def apply(path: str, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """`module:function` of these arguments and no others."""
    return _function(path)(*given, **named)


def invoke(path: str, given: tuple[Any, ...], columns: dict[str, Any]) -> Any:
    """`module:function` of what is given in order, with those of `columns` that it can take besides."""
    function = _function(path)
    parameters = inspect.signature(function).parameters
    takes_all = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    filled = list(parameters)[: len(given)]
    free = {name: value for name, value in columns.items() if name not in filled}
    return function(*given, **{name: value for name, value in free.items() if takes_all or name in parameters})


def call(path: str, row: dict[str, Any], arguments: dict[str, Any]) -> float:
    """`module:function` of the row's prompt and response, with those other columns and arguments that it can take.

    Raises: whatever the function raises; ValueError when it returns no finite number.
    """
    columns = {name: value for name, value in (row | arguments).items() if name not in ("prompt", "response")}
    value = float(invoke(path, (row["prompt"], row["response"]), columns))
    if not math.isfinite(value):
        raise ValueError(f"{path} returned {value}")
    return value


def module_of(function: Callable[..., Any], arguments: tuple[Any, ...]) -> str:
    """The module that a worker must import before it can call; for the functions of this file that of the path."""
    if function.__module__ == __name__:
        return str(arguments[0]).partition(":")[0]
    return function.__module__


def load(module: str) -> float:
    """Import a module; returns the seconds that it took."""
    started = time.perf_counter()
    importlib.import_module(module)
    return time.perf_counter() - started


def _function(path: str) -> Any:
    module, _, name = path.partition(":")
    found: Any = importlib.import_module(module)
    for piece in name.split("."):
        found = getattr(found, piece)
    return found
