"""Calling a function that a recipe names, in a worker process.

Knows: how a dotted path is imported, and which columns of a record a function can take.
Does not know: anything heavy. A worker imports this file and the person's own module, so that it starts in a moment,
holds little memory, and is soon replaced when it dies.
"""

from __future__ import annotations

import importlib
import inspect
import math
from typing import Any

__all__ = ["call"]


def call(path: str, row: dict[str, Any], arguments: dict[str, Any]) -> float:
    """`module:function` of the row's prompt and response, with those other columns and arguments that it can take.

    Raises: whatever the function raises; ValueError when it returns no finite number.
    """
    module, _, name = path.partition(":")
    function: Any = importlib.import_module(module)
    for piece in name.split("."):
        function = getattr(function, piece)
    parameters = inspect.signature(function).parameters
    takes_all = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    columns = {
        name: value
        for name, value in (row | arguments).items()
        if name not in ("prompt", "response") and (takes_all or name in parameters)
    }
    value = float(function(row["prompt"], row["response"], **columns))
    if not math.isfinite(value):
        raise ValueError(f"{path} returned {value}")
    return value
