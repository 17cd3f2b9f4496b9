"""From a source in a recipe to plain records, each with the place where it stands.

Knows: paths, file formats, the recipe's filters (`where`, `rename`, `template`, `transform`, `limit`).
Does not know: what the records mean, tokenizers.

JSON lines are read here rather than by `datasets`, because only then can an error name the line.
"""

from __future__ import annotations

import difflib
import glob
import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from fairlead.data.functions import import_function
from fairlead.data.records import DataError, FilterReport, Origin, describe_kind

__all__ = ["DataSource", "Table", "read", "sources_within"]

SUFFIXES = (".jsonl.gz", ".jsonl", ".ndjson", ".json.gz", ".json", ".parquet")
ROOT_VARIABLE = "FAIRLEAD_DATA"
_SHIPPED = "fairlead:"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(:[\w.-]+)?")

Row = tuple[dict[str, Any], Origin]


class DataSource(BaseModel):
    """Where records come from and what is done to them; in a recipe a bare string is the path.

    Order: read, `where`, `rename`, `template`, `transform`, `limit`, `gather`.
    """

    model_config = ConfigDict(extra="forbid")

    path: str | list[str] = Field(
        description="file (JSONL, JSON, Parquet; gzip too), folder of a `datasets` data set, glob, "
        "hub name `owner/name[:config]`, "
        "or `fairlead:NAME` for data that comes with Fairlead; several paths are joined"
    )
    split: str = Field(
        "train", description="the split, for hub names, folders, and paths written without `.SPLIT.jsonl.gz`"
    )
    limit: int | None = Field(None, ge=1, description="stop after this many records")
    where: dict[str, Any] = Field(
        default_factory=dict, description="keep records whose field has this value (or one of a list of values)"
    )
    rename: dict[str, str] = Field(default_factory=dict, description="field of the source: our name for it")
    template: dict[str, str] = Field(
        default_factory=dict, description="new field: a format string over the others, e.g. `prompt: 'Review: {text}'`"
    )
    transform: str | None = Field(
        None,
        description="`module:function`, maps a record to a record, a list of them, or None to drop it",
    )
    gather: str | None = Field(
        None,
        description="`module:function`, a function of the list of all records that returns a list of records (to pair them up, say)",
    )
    weight: float = Field(1.0, gt=0, description="how often each record is drawn, relative to those of other sources")

    @model_validator(mode="before")
    @classmethod
    def _bare_path(cls, value: Any) -> Any:
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        return {"path": value} if isinstance(value, str | list) else value

    @field_validator("path", mode="before")
    @classmethod
    def _path_text(cls, value: Any) -> Any:
        return os.fspath(value) if isinstance(value, os.PathLike) else value

    @field_validator("transform", "gather")
    @classmethod
    def _importable(cls, path: str | None) -> str | None:
        if path is not None:
            import_function(path)
        return path


@dataclass(slots=True)
class Table:
    """Records as they stand in their source, after the recipe's filters."""

    records: list[dict[str, Any]]
    origins: list[Origin]
    """One for each record."""
    report: FilterReport = field(default_factory=FilterReport)
    weight: float = 1.0
    """`DataSource.weight`."""


def sources_within(value: Any) -> Iterator[DataSource]:
    """Every data source below `value`: a model, mapping or list."""
    if isinstance(value, DataSource):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from sources_within(getattr(value, name))
    elif isinstance(value, dict | list):
        for child in value.values() if isinstance(value, dict) else value:
            yield from sources_within(child)


def read(source: DataSource | str, root: str | os.PathLike[str] | None = None) -> Table:
    """Every record of a source.

    A relative path is looked for below `root` (else the environment variable FAIRLEAD_DATA), then in the working
    directory.
    Raises: DataError for a path that leads nowhere, a damaged file, a record that is not an object, a field of `where`,
    `rename` or `template` that no record has, or a transform that fails.
    """
    source = DataSource.model_validate(source) if not isinstance(source, DataSource) else source
    paths = [source.path] if isinstance(source.path, str) else source.path
    table = Table([], [], FilterReport(), source.weight)
    filters = _Filters(source, table.report)
    for record, origin in filters(row for path in paths for row in _rows(path, source.split, _roots(root))):
        table.records.append(record)
        table.origins.append(origin)
        if source.limit is not None and len(table.records) == source.limit:
            break
    filters.check_fields()
    if source.gather is not None:
        _gather(table, source.gather)
    table.report.kept = len(table.records)
    table.report.sizes, table.report.weights = [len(table.records)], [source.weight]
    return table


def _gather(table: Table, path: str) -> None:
    """Let a function make new records of all; from then on an origin is the first file and the number of the new record."""
    try:
        gathered = import_function(path)(table.records)
    except Exception as error:
        raise DataError(f"gather {path} failed: {type(error).__name__}: {error}") from error
    if not isinstance(gathered, list) or not all(isinstance(record, dict) for record in gathered):
        raise DataError(f"gather {path} must return a list of records (dicts), it returned {type(gathered).__name__}")
    if not gathered:
        raise DataError(f"gather {path} returned no record")
    table.origins = [Origin(table.origins[0].file, number) for number in range(1, len(gathered) + 1)]
    table.records = gathered


# ---------------------------------------------------------------------------------------------------------------------
# Finding
# ---------------------------------------------------------------------------------------------------------------------


def _roots(root: str | os.PathLike[str] | None) -> list[Path]:
    given = root if root is not None else os.environ.get(ROOT_VARIABLE)
    here = Path.cwd()
    folders = [Path(given).expanduser(), here] if given else [here]
    return folders if len(folders) == 1 or folders[0].resolve() != here.resolve() else [here]


def _rows(path: str, split: str, roots: list[Path]) -> Iterator[Row]:
    if path.startswith(_SHIPPED):
        assets = Path(str(resources.files("fairlead"))) / "assets"
        name = path.removeprefix(_SHIPPED)
        found = _find(name, split, [assets])
        if not found:
            raise DataError(f"{path}: Fairlead ships no such data; {_neighbours(name, [assets])}")
    else:
        found = _find(path, split, roots)
    if not found:
        if _is_hub_name(path, roots):
            yield from _hub_rows(path, split, roots)
            return
        raise DataError(_not_found(path, roots))
    for file in found:
        yield from _folder_rows(file, split) if file.is_dir() else _file_rows(file)


def _find(path: str, split: str, roots: list[Path]) -> list[Path]:
    """The files or folders that `path` means below the first root that has any; an absolute path ignores the roots."""
    path = str(Path(path).expanduser())
    for root in roots:
        place = root / path  # an absolute path replaces the root
        if place.exists():
            return [place]
        if glob.has_magic(path):
            matches = [Path(match) for match in sorted(glob.glob(str(place), recursive=True))]  # noqa: PTH207 - takes absolute patterns
            if matches:
                return matches
        for ending in (*SUFFIXES, *(f".{split}{suffix}" for suffix in SUFFIXES)):
            candidate = place.with_name(place.name + ending) if place.name else place
            if candidate.is_file():
                return [candidate]
    return []


def _is_hub_name(path: str, roots: list[Path]) -> bool:
    """`owner/name`, unless the first piece is a folder here: then a misspelt file is far likelier than a hub name."""
    if not _HUB_NAME.fullmatch(path) or path.endswith(SUFFIXES):
        return False
    return not any((root / path.split("/")[0]).is_dir() for root in roots)


def _not_found(path: str, roots: list[Path]) -> str:
    absolute = Path(path).expanduser().is_absolute()
    looked = [Path(path).expanduser()] if absolute else [root / path for root in roots]
    message = f"no data at {path!r}; looked for " + " and ".join(str(place) for place in looked)
    message += f". {_neighbours(path, roots)}"
    if not absolute:
        message += (
            f" Set data.root=FOLDER in the recipe (or the variable {ROOT_VARIABLE}) to the folder that holds the data"
        )
    return message


def _neighbours(path: str, roots: list[Path]) -> str:
    """What stands in the deepest folder on the way to `path`, the most similar names first."""
    names: list[str] = []
    for root in roots:
        place = (root / path).parent
        while not place.is_dir() and place not in (root, place.parent):
            place = place.parent
        if place.is_dir():
            absolute = Path(path).is_absolute()
            names += [
                str(item if absolute else item.relative_to(root))
                for item in sorted(place.iterdir())
                if not item.name.startswith(".")
            ]
    # The full path is compared with and without its ending, so that a missing ending does not hide the right name.
    short = {re.sub(r"(\.(train|validation|test))?(\.\w+(\.gz)?)?$", "", name): name for name in reversed(names)}
    close = difflib.get_close_matches(path, names, n=3, cutoff=0.6) or [
        short[match] for match in difflib.get_close_matches(path, short, n=3, cutoff=0.6)
    ]
    if close:
        return "Did you mean " + " or ".join(repr(name) for name in close) + "?"
    if not names:
        return "There is nothing there."
    listed = ", ".join(names[:8])
    return f"There is {listed}" + (f" and {len(names) - 8} more." if len(names) > 8 else ".")


# ---------------------------------------------------------------------------------------------------------------------
# Reading
# ---------------------------------------------------------------------------------------------------------------------


def _file_rows(file: Path) -> Iterator[Row]:
    name = file.name.lower()
    if name.endswith((".jsonl", ".jsonl.gz", ".ndjson")):
        return _json_lines(file)
    if name.endswith((".json", ".json.gz")):
        return _json_document(file)
    if name.endswith(".parquet"):
        return _parquet(file)
    raise DataError(f"{file}: cannot tell the format from the name; expected one of {', '.join(SUFFIXES)}")


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of a text file, gzip or plain; DataError with the line for damage and for bytes that are not
    UTF-8."""
    number = 0
    try:
        with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as stream:
            for line in stream:
                number += 1
                try:
                    yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"{file}:{number}: not UTF-8 text ({error.reason} at byte {error.start})"
                    ) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{file}:{number + 1}: the gzip file is cut short or damaged behind line {number} ({error}); fetch it again"
        ) from error


def _json_lines(file: Path) -> Iterator[Row]:
    for number, line in _lines(file):
        if line.strip():
            origin = Origin(str(file), number)
            yield _object(_parse(line, origin), origin), origin


def _json_document(file: Path) -> Iterator[Row]:
    """A list of objects; `line` is the number of the record. JSON lines under the name .json are read as such."""
    text = "".join(line for _, line in _lines(file))
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        if text.lstrip().startswith("{") and error.msg == "Extra data":
            yield from _json_lines(file)
            return
        raise DataError(f"{file}:{error.lineno}: not JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(document, list | dict):
        raise DataError(f"{file}:1: expected a list of objects, found {describe_kind(document)}")
    for number, value in enumerate(document if isinstance(document, list) else [document], 1):
        origin = Origin(str(file), number)
        yield _object(value, origin), origin


def _parse(line: str, origin: Origin) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{origin}: not JSON: {error.msg} at column {error.colno}") from error


def _object(value: Any, origin: Origin) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{origin}: expected an object with named fields, found {describe_kind(value)}")
    return value


def _parquet(file: Path) -> Iterator[Row]:
    import pyarrow as arrow  # type: ignore[import-untyped, unused-ignore]
    import pyarrow.parquet as parquet  # type: ignore[import-untyped, unused-ignore]

    number = 0
    try:
        for batch in parquet.ParquetFile(file).iter_batches(batch_size=1024):
            for record in batch.to_pylist():
                number += 1
                yield record, Origin(str(file), number)
    except (arrow.ArrowInvalid, OSError) as error:
        raise DataError(f"{file}:{number + 1}: not a readable Parquet file: {error}") from error


def _folder_rows(folder: Path, split: str) -> Iterator[Row]:
    import datasets

    if any((folder / name).exists() for name in ("dataset_dict.json", "state.json")):
        loaded = datasets.load_from_disk(str(folder))
        if isinstance(loaded, datasets.DatasetDict):
            if split not in loaded:
                raise DataError(f"{folder}: has no split {split!r}; set split to one of {', '.join(loaded)}")
            loaded = loaded[split]
    else:
        try:
            loaded = datasets.load_dataset(str(folder), split=split)
        except Exception as error:
            raise DataError(
                f"{folder}: `datasets` cannot read the folder: {_first_line(error)}. {_neighbours('x', [folder])}"
            ) from error
    yield from _dataset_rows(loaded, f"{folder}[{split}]")


def _hub_rows(path: str, split: str, roots: list[Path]) -> Iterator[Row]:
    import datasets

    name, _, config = path.partition(":")
    try:
        loaded = datasets.load_dataset(name, config or None, split=split)
    except Exception as error:
        raise DataError(
            f"{_not_found(path, roots)}. As a data set of the hub it failed too: {_first_line(error)}"
        ) from error
    yield from _dataset_rows(loaded, f"{path}[{split}]")


def _dataset_rows(loaded: Any, name: str) -> Iterator[Row]:
    for number, record in enumerate(loaded, 1):
        yield dict(record), Origin(name, number)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


# ---------------------------------------------------------------------------------------------------------------------
# Filters
# ---------------------------------------------------------------------------------------------------------------------


class _Filters:
    """The recipe's filters, and the fields that they met."""

    def __init__(self, source: DataSource, report: FilterReport) -> None:
        self.source, self.report = source, report
        self.transform = import_function(source.transform) if source.transform else None
        self.fields: set[str] = set()
        self.first: Origin | None = None

    def __call__(self, rows: Iterator[Row]) -> Iterator[Row]:
        for record, origin in rows:
            self.first = self.first or origin
            self.fields.update(record)
            reason = self._excluded(record)
            if reason:
                self.report.drop(reason, origin)
                continue
            record = self._fill(self._rename(record, origin), origin)
            for result in self._transformed(record, origin):
                yield result, origin

    def _excluded(self, record: dict[str, Any]) -> str:
        for name, wanted in self.source.where.items():
            value = record.get(name)
            # A list in the recipe lists choices, unless the field itself holds that very list.
            if value != wanted and not (isinstance(wanted, list) and value in wanted):
                return f"where {name}"
        return ""

    def _rename(self, record: dict[str, Any], origin: Origin) -> dict[str, Any]:
        names = self.source.rename
        if not names:
            return record
        for old, new in names.items():
            if old in record and new in record and new not in names and old != new:
                raise DataError(
                    f"{origin}: rename {old!r} to {new!r}: the record has a field {new!r} already; rename that one too"
                )
        return {names.get(name, name): value for name, value in record.items()}

    def _fill(self, record: dict[str, Any], origin: Origin) -> dict[str, Any]:
        for name, text in self.source.template.items():
            try:
                record = record | {name: text.format_map(record)}
            except KeyError as error:
                raise DataError(
                    f"{origin}: template {name!r} asks for the field {error.args[0]!r}; "
                    f"{_choices(str(error.args[0]), set(record))}"
                ) from error
            except (ValueError, IndexError, AttributeError) as error:
                raise DataError(
                    f"{origin}: template {name!r} cannot be filled: {error}; "
                    f"write {{field}} for a field and {{{{ or }}}} for a brace"
                ) from error
        return record

    def _transformed(self, record: dict[str, Any], origin: Origin) -> list[dict[str, Any]]:
        if self.transform is None:
            return [record]
        try:
            result = self.transform(dict(record))
        except Exception as error:
            raise DataError(
                f"{origin}: transform {self.source.transform} failed: {type(error).__name__}: {error}"
            ) from error
        results = result if isinstance(result, list) else [] if result is None else [result]
        if not all(isinstance(item, dict) for item in results):
            raise DataError(
                f"{origin}: transform {self.source.transform} returned {describe_kind(result)}; "
                "expected a dict, a list of dicts, or None"
            )
        if not results:
            self.report.drop("transform returned nothing", origin)
        return results

    def check_fields(self) -> None:
        """A field that no record has is a misspelling, not a filter."""
        if self.first is None:
            return
        filters: tuple[tuple[Literal["where", "rename"], dict[str, Any]], ...] = (
            ("where", self.source.where),
            ("rename", self.source.rename),
        )
        for kind, names in filters:
            for name in names:
                if name not in self.fields:
                    raise DataError(
                        f"{self.first}: {kind} names the field {name!r}, which none of the records has; "
                        f"{_choices(name, self.fields)}"
                    )


def _choices(name: str, fields: set[str]) -> str:
    close = difflib.get_close_matches(name, fields, n=2, cutoff=0.6)
    hint = "did you mean " + " or ".join(repr(field) for field in close) + "? " if close else ""
    return f"{hint}the fields are {', '.join(sorted(fields))}"
