"""From a recipe's name or path and dotted overrides to a validated recipe.

Knows: YAML, the shipped recipes, what it is to extend a recipe, overrides, plugins, and how to say what is wrong.
Does not know: how recipes are run.
"""

from __future__ import annotations

import importlib
import importlib.resources
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from fairlead.parts import Problem, describe_problems, nearest, parts_within
from fairlead.recipes.schema import Recipe

__all__ = [
    "RecipeError",
    "dump_recipe",
    "load_recipe",
    "plug_in",
    "read_recipe_file",
    "recipes_by_part",
    "shipped_recipes",
]


class RecipeError(ValueError):
    """A recipe cannot be used; `problems` says where and why."""

    def __init__(self, where: str, problems: list[Problem]) -> None:
        self.where = where
        self.problems = problems
        super().__init__("\n".join([f"{where}:", *(f"  {problem}" for problem in problems)]))


def shipped_recipes() -> dict[str, Path]:
    """Name → file of every recipe that comes with the package."""
    folder = Path(str(importlib.resources.files("fairlead.recipes"))) / "shipped"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def recipes_by_part() -> dict[str, list[str]]:
    """`slot.name` → the shipped recipes in which that part stands, by name or by default."""
    found: dict[str, list[str]] = {}
    for name in shipped_recipes():
        try:
            recipe = load_recipe(name)
        except RecipeError:
            continue  # needs a plug-in or transform that is not installed
        for part in {f"{part.slot}.{part.part_name}" for _, part in parts_within(recipe)}:
            found.setdefault(part, []).append(name)
    return found


def load_recipe(name: str, overrides: list[str] | None = None) -> Recipe:
    """The recipe called `name` (shipped) or lying at the path `name`, with overrides such as `online.credit.lam=0.9`.

    Raises RecipeError that lists every problem with its path in the recipe.
    """
    tree = read_recipe_file(name)
    for override in overrides or []:
        _apply(tree, override, name)
    plugins = tree.get("plugins")
    for module in plugins if isinstance(plugins, list) else []:
        plug_in(str(module), name)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(name, describe_problems(error, Recipe, tree)) from None


def read_recipe_file(name: str) -> dict[str, Any]:
    """The YAML tree of a shipped recipe or of a file, with what it extends; without a name it is called like the file."""
    shipped = shipped_recipes()
    path = shipped.get(name) or Path(name)
    if not path.is_file():
        raise RecipeError(
            name, [Problem("recipe", f"no such file and no shipped recipe of this name; {nearest(name, shipped)}")]
        )
    tree = _read(path, name)
    tree.setdefault("name", path.stem)
    seen = [path.resolve()]
    while "extends" in tree:
        extended = tree.pop("extends")
        path = _extended(extended, path, name)
        if path.resolve() in seen:
            raise RecipeError(name, [Problem("extends", f"{extended!r} is extended by itself")])
        seen.append(path.resolve())
        tree = _extend(_read(path, name), tree)
    return tree


def _extended(extended: Any, path: Path, where: str) -> Path:
    """The file that the recipe at `path` extends: a shipped recipe, or a path, first of all from the folder of the recipe."""
    shipped = shipped_recipes()
    if isinstance(extended, str):
        for found in (shipped.get(extended), path.parent / extended, Path(extended)):
            if found is not None and found.is_file():
                return found
    problem = f"{extended!r} is no shipped recipe and no file beside {path}; {nearest(str(extended), shipped)}"
    raise RecipeError(where, [Problem("extends", problem)])


def _extend(base: dict[str, Any], tree: dict[str, Any]) -> dict[str, Any]:
    """A recipe on top of the one that it extends: stages keep their place or come behind, and one that is null is left out."""
    whole = _merge({key: value for key, value in base.items() if key not in ("name", "about")}, tree)
    given = tree.get("stages")
    if isinstance(given, dict) and isinstance(base.get("stages"), dict):
        gone = {key for key, stage in given.items() if stage is None and key in base["stages"]}
        whole["stages"] = {key: stage for key, stage in whole["stages"].items() if key not in gone}
    return whole


def _merge(old: Any, new: Any, above: tuple[str, ...] = ()) -> Any:
    """`new` over `old`, which stand below the keys `above`: mappings key by key, unless they name different parts; else `new`."""
    if isinstance(old, str) and isinstance(new, dict):
        old = _written_out(old, above)
    if not (isinstance(old, dict) and isinstance(new, dict)) or _other_part(old, new, above):
        return new
    return old | {
        key: _merge(old[key], value, (*above, str(key))) if key in old else value for key, value in new.items()
    }


def _other_part(old: dict[str, Any], new: dict[str, Any], above: tuple[str, ...]) -> bool:
    """Whether `new` names a part other than that of `old`, which may follow from a stage's identifier."""
    implied = above[-1] if above[:-1] == ("stages",) else None
    return "part" in new and new["part"] != old.get("part", implied)


def _read(path: Path, name: str) -> dict[str, Any]:
    """The YAML tree of one file."""
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _Loader) or {}
    except UnicodeDecodeError as error:
        raise RecipeError(name, [Problem(str(path), f"not UTF-8 text: {error.reason} at byte {error.start}")]) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"{path}:{mark.line + 1}" if mark else str(path)
        raise RecipeError(name, [Problem(line, f"not valid YAML: {getattr(error, 'problem', error)}")]) from None
    if not isinstance(tree, dict):
        raise RecipeError(name, [Problem(str(path), "a recipe is a mapping with the key `stages`")])
    return _own(tree)  # type: ignore[no-any-return]


def _own(value: Any) -> Any:
    """A copy without shared branches: an override below one use of a YAML anchor must not change the others."""
    if isinstance(value, dict):
        return {key: _own(item) for key, item in value.items()}
    return [_own(item) for item in value] if isinstance(value, list) else value


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key that stands twice is an error: YAML itself would silently take the last one."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and str(key.value) in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def dump_recipe(recipe: Recipe) -> str:
    """The recipe with every default written out, as YAML that loads again."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def _apply(tree: dict[str, Any], override: str, where: str) -> None:
    """Set one value: the first name is a stage of the recipe or a key of the recipe itself."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise RecipeError(where, [Problem(override, "an override is written path.to.key=value")])
    names = path.strip().split(".")
    stages = [str(key) for key in tree["stages"]] if isinstance(tree.get("stages"), dict) else []
    if names[0] not in Recipe.model_fields:
        if names[0] not in stages:
            known = [*stages, *Recipe.model_fields]
            raise RecipeError(
                where, [Problem(path, f"no stage or key {names[0]!r} in this recipe; {nearest(names[0], known)}")]
            )
        names = ["stages", *names]
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    here: Any = tree
    for depth, name in enumerate(names[:-1]):
        here = _enter(here, name, names[:depth], where)
    if isinstance(here, list):
        here[_index(here, names[-1], path, where)] = value
    else:
        here[names[-1]] = value


def _enter(here: Any, name: str, above: list[str], where: str) -> Any:
    """The container called `name` below the keys `above`; a missing one is made, a bare name becomes a mapping."""
    path = ".".join([*above, name])
    key: Any = _index(here, name, path, where) if isinstance(here, list) else name
    child = here[key] if isinstance(here, list) else here.get(key)
    if child is None:
        child = here[key] = {}
    elif isinstance(child, str):
        child = here[key] = _written_out(child, (*above, name))
    elif not isinstance(child, dict | list):
        raise RecipeError(where, [Problem(path, f"is the value {child!r}; there is nothing below it to set")])
    return child


def _written_out(text: str, above: Sequence[str]) -> dict[str, Any]:
    """What a bare string below the keys `above` is short for."""
    return {"path" if _BY_PATH & set(above[-2:]) else "part": text}


_BY_PATH = frozenset({"model", "models", "reference", "critic", "data", "prompts", "validation"})
"""Keys whose bare string (or list or mapping of bare strings) is a path, not the name of a part."""


def _index(items: list[Any], name: str, path: str, where: str) -> int:
    if not name.isdigit() or int(name) >= len(items):
        raise RecipeError(where, [Problem(path, f"is a list of {len(items)}; write the number of an item, from 0")])
    return int(name)


def plug_in(module: str, where: str) -> None:
    """Import a module of parts; RecipeError that names `where` when there is none."""
    if "" not in sys.path:
        sys.path.insert(0, "")  # a plug-in beside the recipe, as `python -m` would find it
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise RecipeError(where, [Problem("plugins", f"cannot import {module!r}: {error}")]) from None
