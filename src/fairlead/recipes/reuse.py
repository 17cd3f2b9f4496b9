"""Taking over what another run has finished, where two recipes say the same.

Knows: when a stage of another run is one of this recipe too, and what of that run belongs to it.
Does not know: what a stage does.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from fairlead.recipes.load import load_recipe
from fairlead.recipes.schema import Recipe, stage_references
from fairlead.runs import RunError, append_json_lines, atomic_folder, read_json_lines

__all__ = ["take_over"]

_LOGS = ("metrics.jsonl", "samples.jsonl", "warnings.jsonl")


def take_over(recipe: Recipe, directory: Path, other: Path) -> list[str]:
    """Copy into the new run `directory` every stage of `recipe` that the run `other` has finished; returns their identifiers.

    A stage is the same when every field of it is, and every stage whose result it begins with. Only what recipes say is compared:
    files and models that they name must not have changed since.

    Raises: RunError when `other` is no run, or differs in what all stages depend on.
    """
    if not (other / "recipe.yaml").is_file():
        raise RunError(f"{other} holds no run whose stages could be taken over (recipe.yaml is missing)")
    theirs = load_recipe(str(other / "recipe.yaml"))
    for name, ours, there in _common(recipe, theirs):
        if ours != there:
            raise RunError(
                f"nothing can be taken over from {other}: its {name} is {there!r}, and {ours!r} is asked for here"
            )
    taken: list[str] = []
    for identifier, stage in recipe.stages.items():
        same = identifier in theirs.stages and theirs.stages[identifier].model_dump() == stage.model_dump()
        begins_with = {name for _, name in stage_references(stage.model_dump(), "")}
        if same and begins_with <= set(taken) and (other / "stages" / identifier / "result.json").exists():
            _copy(identifier, directory, other)
            taken.append(identifier)
    for log in _LOGS:
        append_json_lines(directory / log, [row for row in read_json_lines(other / log) if row["stage"] in taken])
    return taken


def _common(recipe: Recipe, theirs: Recipe) -> list[tuple[str, Any, Any]]:
    """What every stage of a run depends on."""
    return [
        ("seed", recipe.seed, theirs.seed),
        ("data.root", recipe.data.root, theirs.data.root),
        ("plugins", recipe.plugins, theirs.plugins),
        ("runtime.precision", recipe.runtime.precision, theirs.runtime.settled().precision),
    ]


def _copy(identifier: str, directory: Path, other: Path) -> None:
    for place in (Path("stages") / identifier, Path("tensorboard") / identifier):
        if (other / place).is_dir():
            with atomic_folder(directory / place) as folder:
                shutil.copytree(other / place, folder, dirs_exist_ok=True, copy_function=_link)


def _link(source: str, target: str) -> None:
    """The same file under a second name, which costs no room; a copy where the file system cannot do that.

    Nothing writes into a file of a finished stage: they are replaced as a whole.
    """
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
