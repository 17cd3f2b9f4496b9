"""Running a recipe: its stages in order, in one run directory.

Knows: new and resumed runs, what is written about the run itself.
Does not know: what a stage does.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

import fairlead
from fairlead.recipes.load import RecipeError, dump_recipe, load_recipe
from fairlead.recipes.reuse import take_over
from fairlead.recipes.schema import Recipe
from fairlead.runs import Interrupted, Run, RunError, StageRun, read_json, write_json, write_text
from fairlead.runtime.machine import processor, usable_cores

__all__ = ["execute", "new_directory", "resume"]


def new_directory(root: Path, name: str) -> Path:
    """`ROOT/NAME`, or with a number behind it when that is taken."""
    number = 1
    while (path := root / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return path


def execute(
    recipe: Recipe,
    directory: Path,
    *,
    quiet: bool = False,
    report: Callable[[Path], Any] | None = None,
    reuse: Path | None = None,
) -> Run:
    """Run every stage that is not finished yet; `report` is called with the directory at the end.

    Stages that the run in `reuse` has finished, and that this recipe has too, are taken from there.

    Raises RunError when the directory holds another recipe, Interrupted when asked to stop.
    """
    recipe = recipe.model_copy(update={"runtime": recipe.runtime.settled()})
    text = dump_recipe(recipe)
    file = directory / "recipe.yaml"
    _make(directory)
    if file.exists() and not _same_recipe(file, text):
        raise RunError(f"{directory} holds a run of another recipe; choose a new directory, or continue with --resume")
    taken: list[str] = []
    if not file.exists():
        # Before the recipe is there: a directory without one holds no run, so a copy that was cut short is never continued.
        taken = taken if reuse is None else take_over(recipe, directory, reuse)
        write_text(file, text)
    elif reuse is not None:
        raise RunError(f"{directory} holds a run already; stages are taken over at its beginning only")
    about_file = directory / "run.json"
    about = read_json(about_file) if about_file.exists() else _about(recipe)
    if taken:
        about |= {"reused": {"run": str(reuse), "stages": taken}}
    write_json(about_file, about)
    run = Run(
        directory,
        name=recipe.name,
        seed=recipe.seed,
        runtime=recipe.runtime,
        data_root=recipe.data.root,
        trackers=recipe.trackers,
        config=recipe.model_dump(mode="json"),
        stages=recipe.stages,
        quiet=quiet,
    )
    if reuse is not None:
        run.console.note(f"taken over from {reuse}: {', '.join(taken) or 'no stage, since none is the same'}")
    try:
        for identifier, stage in recipe.stages.items():
            if not (ahead := StageRun(run, identifier, stage.part_name)).result_file.exists():
                stage.check(ahead)
        with run.stop_on_signals():
            for identifier, stage in recipe.stages.items():
                context = run.stage(identifier, stage.part_name)
                if context.result_file.exists():
                    run.results[identifier] = read_json(context.result_file)
                    continue
                if run.stopping:  # asked in a stage without steps, or behind the last one
                    raise Interrupted(directory, f"before stage {identifier}")
                part = "" if stage.part_name == identifier else f" [dim]{stage.part_name}[/dim]"
                run.console.print(f"[bold]{identifier}[/bold]{part}")
                with context.closing(stage):
                    stage.run(context)
    finally:
        run.close()
    write_json(about_file, about | {"finished": time.strftime("%Y-%m-%dT%H:%M:%S%z")})
    if report is not None:
        report(directory)
    return run


def resume(directory: Path, *, quiet: bool = False, report: Callable[[Path], Any] | None = None) -> Run:
    """Continue the run in `directory` where its last checkpoint left it."""
    file = directory / "recipe.yaml"
    if not file.is_file():
        raise RunError(f"{directory} holds no run (recipe.yaml is missing)")
    return execute(load_recipe(str(file)), directory, quiet=quiet, report=report)


def _make(directory: Path) -> None:
    """Make the run directory, or see that the one that is there can be used."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"the run directory {directory} cannot be made: {error.strerror}") from error
    if not (directory / "recipe.yaml").exists() and any(directory.iterdir()):
        raise RunError(f"{directory} is not empty and holds no run; choose a new directory")


def _same_recipe(file: Path, text: str) -> bool:
    """Whether the recipe in `file` says what `text` says; an older one lacks the fields that came later."""
    if file.read_text(encoding="utf-8") == text:
        return True
    try:
        return dump_recipe(load_recipe(str(file))) == text
    except RecipeError:
        return False


def _about(recipe: Recipe) -> dict[str, Any]:
    return {
        "name": recipe.name,
        "seed": recipe.seed,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "fairlead": fairlead.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else processor(),
        "cpu_count": usable_cores(),
        "runtime": recipe.runtime.model_dump(mode="json"),
    }
