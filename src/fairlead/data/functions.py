"""Functions that a recipe names: `module:function`.

Knows: how to import one and how to say what is wrong with the path.
Does not know: what the functions do.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from pydantic import AfterValidator

from fairlead.parts import nearest

__all__ = ["FunctionPath", "import_function"]


def import_function(path: str) -> Callable[..., Any]:
    """The callable that `module:function` names; modules in the working directory are found too.

    Raises: ValueError when the path has another form, the module cannot be imported, or has no such callable.
    """
    module_name, separator, name = path.partition(":")
    if not separator or not module_name or not name:
        raise ValueError(f"{path!r} is not the path of a function: write 'module:function', e.g. 'my_rewards:brevity'")
    found: Any = _import(path, module_name)
    for piece in name.split("."):
        if not hasattr(found, piece):
            names = [known for known in vars(found) if callable(getattr(found, known)) and not known.startswith("_")]
            raise ValueError(f"{path!r}: {module_name} has no function {name!r}; {nearest(piece, names)}")
        found = getattr(found, piece)
    if not callable(found):
        raise ValueError(f"{path!r} is a {type(found).__name__}, not a function")
    return found  # type: ignore[no-any-return]


def _import(path: str, name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # console scripts do not look there, yet people keep such a module beside the recipe
    try:
        return importlib.import_module(name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and name.startswith(str(error.name)):
            reason = f"there is no module {error.name!r} in the working directory or among the installed packages"
        else:
            reason = f"importing {name} failed: {type(error).__name__}: {error}"
        raise ValueError(f"{path!r}: {reason}") from error


def _importable(path: str) -> str:
    import_function(path)
    return path


FunctionPath = Annotated[str, AfterValidator(_importable)]
"""A field of a recipe that names a function: `module:function`, imported when the recipe is read."""
