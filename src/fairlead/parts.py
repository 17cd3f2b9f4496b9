"""Parts and slots: one class is one method, one configuration schema, one line in `fairlead methods`.

Knows: how a part is declared, named, registered, found and validated.
Does not know: any slot's mathematics, batches, models, recipes.

A *slot* is an abstract subclass of `Part` (`class Credit(Part, slot="credit")`); a *part* is a concrete subclass of a slot
(`class GAE(Credit, name="gae")`). The fields of a part are its hyper-parameters. Wherever a pydantic model declares a field of
the slot's type, a recipe may write the part's name (`credit: gae`) or a mapping (`credit: {part: gae, lam: 0.9}`).
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError, model_serializer
from pydantic_core import PydanticCustomError, core_schema

__all__ = [
    "Field",
    "Part",
    "PartInfo",
    "Problem",
    "describe_problems",
    "fields_of",
    "get_part",
    "nearest",
    "part_info",
    "parts_in_slot",
    "parts_within",
    "slots",
]

_SLOTS: dict[str, type[Part]] = {}
_PARTS: dict[str, dict[str, type[Part]]] = {}


class Part(BaseModel):
    """Base class of everything that a recipe can name.

    Subclass with `slot=` to open a slot, with `name=` to put a part into the slot of its base class.
    A part that keeps state between steps overrides `state_dict` and `load_state_dict`; what they carry must be
    enough for a resumed run to continue bit for bit. A part that holds processes or files overrides `close`.
    """

    model_config = ConfigDict(extra="forbid", validate_default=True, arbitrary_types_allowed=True)

    slot: ClassVar[str] = ""
    part_name: ClassVar[str] = ""
    default_part: ClassVar[str] = ""
    """Of a slot: the part meant by a mapping that names none; "" where it must be named."""

    def __init_subclass__(cls, *, slot: str | None = None, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)

    @classmethod
    def __pydantic_init_subclass__(cls, *, slot: str | None = None, name: str | None = None, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        cls.part_name = ""
        if slot is not None:
            _open_slot(cls, slot)
        if name is not None:
            _register(cls, name)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Fields typed with a slot accept any part of the slot, by name or mapping; a concrete part is an ordinary model."""
        if _SLOTS.get(cls.slot) is cls:
            return core_schema.no_info_plain_validator_function(
                cls.resolve, serialization=core_schema.plain_serializer_function_ser_schema(_dump)
            )
        return super().__get_pydantic_core_schema__(source, handler)

    @classmethod
    def resolve(cls, value: Any) -> Self:
        """The part that `value` (an instance, a name, or a mapping with the key `part`) describes; `cls` is the slot.

        Raises PydanticCustomError (collected by pydantic with the path) for anything else.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            value = {"part": value}
        if not isinstance(value, dict):
            raise PydanticCustomError(
                "part_form", "expected the name of a {slot} part or a mapping with the key 'part'", {"slot": cls.slot}
            )
        fields = dict(value)
        name = fields.pop("part", cls.default_part or None)
        if name is None:
            raise PydanticCustomError(
                "part_missing",
                "the key 'part' is missing; it names one of the {slot} parts: {names}",
                {"slot": cls.slot, "names": ", ".join(sorted(parts_in_slot(cls.slot)))},
            )
        known = parts_in_slot(cls.slot)
        if name not in known:
            raise PydanticCustomError(
                "part_unknown",
                "unknown {slot} part {name}; {hint}",
                {"slot": cls.slot, "name": repr(name), "hint": nearest(str(name), known)},
            )
        return known[name].model_validate(fields)  # type: ignore[return-value]

    @model_serializer(mode="wrap")
    def _with_part_name(self, handler: Any) -> dict[str, Any]:
        fields = handler(self)
        return {"part": self.part_name, **fields} if self.part_name else fields

    def state_dict(self) -> dict[str, Any]:
        """What the part must remember between steps (tensors, numbers, strings); empty for a stateless part."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, yet was given {sorted(state)}")

    def at_start(self, codec: Any) -> None:
        """The stage begins; `codec` is the policy's tokenizer (`fairlead.data.TextCodec`): what reads tokens as text keeps it here."""

    def at_step(self, step: int) -> None:
        """Step `step` of the stage begins, counted from 1 as in its metrics: what follows a schedule looks at it here."""

    def close(self) -> None:
        """Give back what the part holds (processes, files, models); called when its stage ends, however it ends."""


def _dump(part: Part) -> dict[str, Any]:
    return part.model_dump()


def _open_slot(cls: type[Part], slot: str) -> None:
    known = _SLOTS.get(slot)
    if known is not None and known.__qualname__ != cls.__qualname__:
        raise TypeError(f"slot {slot!r} is already open as {known.__module__}.{known.__qualname__}")
    cls.slot = slot
    _SLOTS[slot] = cls
    _PARTS.setdefault(slot, {})
    cls.model_rebuild(force=True)


def _register(cls: type[Part], name: str) -> None:
    if not cls.slot:
        raise TypeError(f"{cls.__qualname__} has a name but no slot: subclass one of {', '.join(sorted(_SLOTS))}")
    known = _PARTS[cls.slot].get(name)
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise TypeError(
            f"the {cls.slot} part {name!r} is already defined by {known.__module__}.{known.__qualname__}; choose another name"
        )
    cls.part_name = name
    _PARTS[cls.slot][name] = cls


def slots() -> dict[str, type[Part]]:
    """Every open slot by name."""
    return dict(_SLOTS)


def parts_in_slot(slot: str) -> dict[str, type[Part]]:
    """Every part of a slot by name; KeyError for an unknown slot."""
    return dict(_PARTS[slot])


def get_part(name: str, slot: str | None = None) -> type[Part]:
    """The part called `name`, in `slot` or in whichever slot has it (`slot.name` also works).

    Raises LookupError that names the nearest parts, or the slots to choose from when the name stands in several.
    """
    if slot is None and "." in name:
        slot, name = name.split(".", 1)
    found = [parts[name] for key, parts in _PARTS.items() if name in parts and slot in (None, key)]
    if len(found) == 1:
        return found[0]
    if found:
        options = ", ".join(f"{cls.slot}.{name}" for cls in found)
        raise LookupError(f"{name!r} stands in several slots; write one of {options}")
    everything = {part for key, parts in _PARTS.items() if slot in (None, key) for part in parts}
    raise LookupError(f"no part called {name!r}; {nearest(name, everything)}")


def parts_within(value: Any, path: str = "") -> Iterator[tuple[str, Part]]:
    """Every part below `value` (a model, mapping, list or tuple) with its path, such as `rewards/taste`; not `value` itself."""
    if isinstance(value, BaseModel):
        below: Any = ((name, getattr(value, name)) for name in type(value).model_fields)
    elif isinstance(value, dict):
        below = value.items()
    elif isinstance(value, list | tuple):
        below = enumerate(value)
    else:
        return
    for name, child in below:
        here = f"{path}/{name}" if path else str(name)
        if isinstance(child, Part):
            yield here, child
        yield from parts_within(child, here)


def nearest(word: str, choices: Iterable[str]) -> str:
    """'did you mean …' for the closest choices, or the list of all of them."""
    options = sorted(set(choices))
    close = difflib.get_close_matches(word, options, n=3, cutoff=0.55)
    if close:
        return "did you mean " + " or ".join(repr(option) for option in close) + "?"
    return "choose from " + ", ".join(options) if options else "there is none"


# ---------------------------------------------------------------------------------------------------------------------
# What the documentation and `fairlead methods` show
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FieldInfo:
    """One hyper-parameter of a part."""

    name: str
    type: str
    default: str
    description: str


@dataclass(frozen=True)
class PartInfo:
    """What a part says about itself."""

    name: str
    slot: str
    summary: str
    documentation: str
    source: str
    module: str
    fields: tuple[FieldInfo, ...]


def part_info(cls: type[Part]) -> PartInfo:
    """Name, slot, first line, whole docstring, the `Source:` paragraph and the fields of a part."""
    documentation = inspect.cleandoc(cls.__doc__ or "")
    source = re.search(r"^Source:\s*(.+?)(?:\n\s*\n|\Z)", documentation, flags=re.MULTILINE | re.DOTALL)
    return PartInfo(
        name=cls.part_name,
        slot=cls.slot,
        summary=documentation.split("\n", 1)[0],
        documentation=documentation,
        source=" ".join(source.group(1).split()) if source else "",
        module=cls.__module__,
        fields=fields_of(cls),
    )


def fields_of(model: type[BaseModel]) -> tuple[FieldInfo, ...]:
    """Name, type, default and description of every field, as a recipe writes them."""
    return tuple(
        FieldInfo(
            name,
            _type_name(field.annotation),
            "required" if field.is_required() else _short(field.get_default(call_default_factory=True)),
            field.description or "",
        )
        for name, field in model.model_fields.items()
    )


def _type_name(annotation: Any) -> str:
    if isinstance(annotation, type) and not getattr(annotation, "__args__", None):
        return annotation.__name__
    return re.sub(r"\b(?:typing|fairlead(?:\.\w+)*|builtins)\.", "", str(annotation))


def _short(value: Any) -> str:
    """A default: the name of a part, the class of a model with what differs from its own defaults, `null` for nothing."""
    if isinstance(value, Part) and value.part_name:
        return value.part_name
    if isinstance(value, BaseModel):
        own = ", ".join(f"{name}={item!r}" for name, item in value.model_dump(exclude_defaults=True).items())
        return f"{type(value).__name__}({own})" if own else type(value).__name__
    return "null" if value is None else str(value)


# ---------------------------------------------------------------------------------------------------------------------
# Errors of a recipe, one line each
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a recipe: where (dotted path), what, and the value that stood there."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


def describe_problems(error: ValidationError, root: type[BaseModel], tree: Any = None) -> list[Problem]:
    """A validation error as one line for each problem, with the nearest valid names for a wrong key.

    `root` is the model that was validated and `tree` the value, from which the chosen part of a slot is read.
    """
    return [_describe(item, root, tree) for item in error.errors(include_url=False)]


def _describe(item: Any, root: type[BaseModel], tree: Any) -> Problem:
    path = ".".join(str(piece) for piece in item["loc"] if not str(piece).startswith("function-"))
    value = item.get("input")
    if item["type"] == "extra_forbidden":
        names = _fields_at(root, tree, item["loc"][:-1])
        return Problem(path, f"unknown key {item['loc'][-1]!r}; {nearest(str(item['loc'][-1]), names)}")
    if item["type"] == "missing":
        return Problem(path, "this key is required")
    if item["type"].startswith("part_"):
        return Problem(path, item["msg"])
    message = item["msg"].removeprefix("Value error, ")
    # A mapping that is wrong as a whole is in the recipe for all to see; its text would bury the message.
    buried = item["type"] == "value_error" and not isinstance(value, str | float)
    return Problem(path, message if buried else f"{message} (got {repr(value)[:120]})")


def _fields_at(root: type[BaseModel], tree: Any, loc: tuple[Any, ...]) -> list[str]:
    """Field names valid at `loc` below `root`: those of the part that `tree` names there, or of every part of the slot."""
    here: list[Any] = [root]  # annotations that may stand at this place
    key: str | None = None
    for piece in loc:
        fields = [model.model_fields[piece] for model in _models_in(here, tree, key) if piece in model.model_fields]
        # The key of a mapping or the index of a list is no field: what it holds is an argument of the annotation.
        here = [field.annotation for field in fields] or [a for kind in here for a in getattr(kind, "__args__", ())]
        try:
            tree = tree[piece]
        except (KeyError, IndexError, TypeError):
            tree = None
        key = str(piece)
    return [name for model in _models_in(here, tree, key) for name in model.model_fields]


def _models_in(annotations: Iterable[Any], tree: Any, key: str | None) -> Iterator[type[BaseModel]]:
    """The models among `annotations`; for a slot the part that `tree` names (a stage may be named by its key)."""
    for annotation in annotations:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            if issubclass(annotation, Part) and _SLOTS.get(annotation.slot) is annotation:
                known = parts_in_slot(annotation.slot)
                name = tree.get("part", annotation.default_part or key) if isinstance(tree, dict) else tree
                yield from [known[name]] if isinstance(name, str) and name in known else known.values()
            else:
                yield annotation
        elif getattr(annotation, "__origin__", None) not in (dict, list):
            yield from _models_in(getattr(annotation, "__args__", ()), tree, key)
