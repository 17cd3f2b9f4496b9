"""Files, paths and filters, and every message about what is wrong with them."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

import fairlead
from fairlead.data import DataError, DataSource, import_function, read

Write = Callable[..., Path]
ROWS = [{"id": i, "text": f"t{i}", "short": i % 2 == 0, "label": "abc"[i % 3]} for i in range(6)]


@pytest.fixture(autouse=True)
def _no_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FAIRLEAD_DATA", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


def ids(source: Any, root: Path | None = None) -> list[int]:
    return [record["id"] for record in read(DataSource.model_validate(source), root).records]


# -- formats -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.ndjson"])
def test_json_lines(write: Write, tmp_path: Path, name: str) -> None:
    path = write(name, ROWS)
    table = read(name, tmp_path)
    assert table.records == ROWS
    assert str(table.origins[2]) == f"{path}:3"
    assert table.report.kept == 6 and not table.report.dropped


def test_blank_lines_and_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"id": 1}\n\n{"id": 2}')
    assert [origin.line for origin in read("a.jsonl", tmp_path).origins] == [1, 3]


def test_json(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text(json.dumps(ROWS, indent=1))
    (tmp_path / "lines.json").write_text("\n".join(map(json.dumps, ROWS)))
    (tmp_path / "packed.json.gz").write_bytes(gzip.compress(json.dumps(ROWS).encode()))
    for name in ("list.json", "lines.json", "packed.json.gz"):
        assert read(name, tmp_path).records == ROWS
    assert read("list.json", tmp_path).origins[4].line == 5


def test_parquet_and_hf_folders(tmp_path: Path) -> None:
    import datasets

    data = datasets.Dataset.from_list(ROWS)
    data.to_parquet(tmp_path / "a.parquet")
    assert read("a.parquet", tmp_path).records == ROWS
    data.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": data, "test": data.select([0])}).save_to_disk(tmp_path / "two")
    assert read("one", tmp_path).records == ROWS
    assert ids({"path": "two", "split": "test"}, tmp_path) == [0]
    with pytest.raises(DataError, match="two: has no split 'dev'; set split to one of train, test"):
        read(DataSource(path="two", split="dev"), tmp_path)


def test_folder_of_data_files(tmp_path: Path, write: Write) -> None:
    write("set/train.jsonl", ROWS)
    write("set/test.jsonl", ROWS[:1])
    table = read(DataSource(path="set", split="test"), tmp_path)
    assert table.records == ROWS[:1] and str(table.origins[0]) == f"{tmp_path / 'set'}[test]:1"
    with pytest.raises(DataError, match="cannot read the folder"):
        read(DataSource(path="set", split="nothing"), tmp_path)


def test_hub_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    asked: list[Any] = []

    def load(name: str, config: str | None = None, split: str = "") -> Any:
        asked.append((name, config, split))
        if name == "owner/absent":
            raise FileNotFoundError("no such data set")
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load)
    table = read(DataSource(path="owner/name:main", split="test"), tmp_path)
    assert asked == [("owner/name", "main", "test")]
    assert str(table.origins[0]) == "owner/name:main[test]:1"
    with pytest.raises(DataError, match=r"no data at 'owner/absent'.*of the hub it failed too: .*no such data set"):
        read("owner/absent", tmp_path)
    (tmp_path / "owner").mkdir()
    asked.clear()
    with pytest.raises(DataError, match="no data at"):  # a folder of that name: a misspelt file, so nobody is asked
        read("owner/absent", tmp_path)
    assert not asked


def test_several_paths_and_globs(write: Write, tmp_path: Path) -> None:
    write("p/b.jsonl", ROWS[2:4])
    write("p/a.jsonl", ROWS[:2])
    assert ids("p/*.jsonl", tmp_path) == [0, 1, 2, 3]
    assert ids({"path": ["p/b.jsonl", "p/a.jsonl"]}, tmp_path) == [2, 3, 0, 1]


# -- finding -----------------------------------------------------------------------------------------------------------


def test_roots(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("root/a.jsonl", ROWS[:1])
    write("here/a.jsonl", ROWS[1:2])
    path = write("here/b.jsonl", ROWS[2:3])
    monkeypatch.chdir(tmp_path / "here")
    assert ids("a.jsonl") == [1]
    assert ids("a.jsonl", tmp_path / "root") == [0]
    assert ids("b.jsonl", tmp_path / "root") == [2], "the working directory comes second"
    monkeypatch.setenv("FAIRLEAD_DATA", str(tmp_path / "root"))
    assert ids("a.jsonl") == [0]
    assert ids(path) == [2]


def test_names_without_ending(write: Write, tmp_path: Path) -> None:
    write("g/a.train.jsonl.gz", ROWS[:1])
    write("g/a.validation.jsonl.gz", ROWS[1:2])
    assert ids("g/a.train", tmp_path) == [0]
    assert ids("g/a", tmp_path) == [0]
    assert ids({"path": "g/a", "split": "validation"}, tmp_path) == [1]


def test_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write) -> None:
    from fairlead.data import source

    write("assets/starter/train.jsonl.gz", ROWS)
    monkeypatch.setattr(source.resources, "files", lambda package: tmp_path)
    assert len(ids("fairlead:starter/train")) == len(ids("fairlead:starter/train.jsonl.gz")) == 6
    with pytest.raises(
        DataError, match=r"fairlead:starter/trian: Fairlead ships no such data; Did you mean 'starter/train.jsonl.gz'"
    ):
        read("fairlead:starter/trian")
    assert Path(fairlead.__file__ or "").name == "__init__.py"


def test_missing(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("root/preference/polite-short.train.jsonl.gz", ROWS)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(DataError) as caught:
        read("preference/polit-short.train.jsonl.gz", tmp_path / "root")
    message = str(caught.value)
    assert f"looked for {tmp_path}/root/preference/polit-short.train.jsonl.gz and {tmp_path}/here/preference" in message
    assert "Did you mean 'preference/polite-short.train.jsonl.gz'?" in message
    assert "data.root=" in message and "FAIRLEAD_DATA" in message
    with pytest.raises(DataError, match=r"Did you mean 'preference/polite-short.train.jsonl.gz'"):
        read("preference/polite-shrt", tmp_path / "root")
    with pytest.raises(DataError, match="There is preference"):
        read("nowhere/x.jsonl", tmp_path / "root")
    with pytest.raises(DataError, match="There is nothing there"):
        read("x.jsonl")


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": }\n', r"a\.jsonl:2: not JSON: Expecting value at column 7"),
        ("a.jsonl", b'{"a": 1}\n[1, 2]\n', r"a\.jsonl:2: expected an object with named fields, found a list \[1, 2\]"),
        ("a.jsonl", b'"words"\n', r"a\.jsonl:1: expected an object with named fields, found a string 'words'"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', r"a\.jsonl:2: not UTF-8 text"),
        ("a.json", b'[{"a": 1},\n {"a" 2}]', r"a\.json:2: not JSON: Expecting ':' delimiter"),
        ("a.json", b'[{"a": 1}, 3]', r"a\.json:2: expected an object with named fields, found a number 3"),
        ("a.json", b"true", r"a\.json:1: expected a list of objects, found the truth value true"),
        ("a.parquet", b"PAR", r"a\.parquet:1: not a readable Parquet file"),
        ("a.txt", b"words", r"a\.txt: cannot tell the format from the name; expected one of \.jsonl\.gz"),
        ("a.jsonl.gz", b"no gzip", r"a\.jsonl\.gz:1: the gzip file is cut short or damaged"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(name, tmp_path)


def test_truncated_gzip(tmp_path: Path, write: Write) -> None:
    path = write("a.jsonl.gz", ROWS)
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(
        DataError, match=r"a\.jsonl\.gz:\d+: the gzip file is cut short or damaged behind line \d+ .*fetch it again"
    ):
        read("a.jsonl.gz", tmp_path)


# -- filters -----------------------------------------------------------------------------------------------------------


def test_where_and_limit(write: Write, tmp_path: Path) -> None:
    write("a.jsonl", ROWS)
    table = read(DataSource(path="a.jsonl", where={"short": True, "label": ["a", "b"]}), tmp_path)
    assert [record["id"] for record in table.records] == [0, 4]
    assert table.report.dropped == {"where short": 3, "where label": 1}
    assert str(table.report).startswith("kept 2 of 6; dropped 4: 3 where short (")
    assert "a.jsonl:2" in str(table.report)
    assert ids({"path": "a.jsonl", "where": {"short": True}, "limit": 2}, tmp_path) == [0, 2]
    with pytest.raises(
        DataError, match=r"a\.jsonl:1: where names the field 'shrt', which none .* did you mean 'short'\? the fields"
    ):
        read(DataSource(path="a.jsonl", where={"shrt": True}), tmp_path)


def test_rename_and_template(write: Write, tmp_path: Path) -> None:
    write("a.jsonl", ROWS)
    source = DataSource(
        path="a.jsonl", rename={"text": "label", "label": "text"}, template={"prompt": "Review: {label}"}, limit=1
    )
    assert read(source, tmp_path).records == [
        {"id": 0, "label": "t0", "short": True, "text": "a", "prompt": "Review: t0"}
    ]
    with pytest.raises(
        DataError, match=r"a\.jsonl:1: rename 'text' to 'label': the record has a field 'label' already"
    ):
        read(DataSource(path="a.jsonl", rename={"text": "label"}), tmp_path)
    with pytest.raises(DataError, match=r"a\.jsonl:1: rename names the field 'txt', .* did you mean 'text'"):
        read(DataSource(path="a.jsonl", rename={"txt": "prompt"}, limit=1), tmp_path)
    with pytest.raises(DataError, match=r"a\.jsonl:1: template 'prompt' asks for the field 'txt'; did you mean 'text'"):
        read(DataSource(path="a.jsonl", template={"prompt": "{txt}"}), tmp_path)
    with pytest.raises(DataError, match=r"a\.jsonl:1: template 'prompt' cannot be filled: .*write \{field\}"):
        read(DataSource(path="a.jsonl", template={"prompt": "{text"}), tmp_path)


def test_transform(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_transforms_for_test.py").write_text(
        "def twice(record):\n    return [record, record | {'id': -record['id']}]\n"
        "def odd(record):\n    return record if record['id'] % 2 else None\n"
        "def wrong(record):\n    return 'words'\n"
        "def fails(record):\n    return record['nothing']\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    write("a.jsonl", ROWS)

    def source(name: str, **others: Any) -> DataSource:
        return DataSource(path="a.jsonl", transform=f"my_transforms_for_test:{name}", **others)

    table = read(source("twice", limit=3), tmp_path)
    assert [(record["id"], origin.line) for record, origin in zip(table.records, table.origins, strict=True)] == [
        (0, 1),
        (0, 1),
        (1, 2),
    ]
    table = read(source("odd"), tmp_path)
    assert [record["id"] for record in table.records] == [1, 3, 5]
    assert table.report.dropped == {"transform returned nothing": 3}
    with pytest.raises(DataError, match=r"a\.jsonl:1: transform .*:wrong returned a string 'words'; expected a dict"):
        read(source("wrong"), tmp_path)
    with pytest.raises(DataError, match=r"a\.jsonl:1: transform .*:fails failed: KeyError: 'nothing'"):
        read(source("fails"), tmp_path)
    with pytest.raises(ValidationError, match="has no function 'twise'; did you mean 'twice'"):
        source("twise")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("json.dumps", "write 'module:function'"),
        ("no_such_module_here:f", "there is no module 'no_such_module_here'"),
        ("json:dump_s", "did you mean 'dumps'"),
        ("json:__name__", "is a str, not a function"),
    ],
)
def test_import_function_errors(path: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        import_function(path)


def test_import_function() -> None:
    assert import_function("json:dumps") is json.dumps
    assert import_function("json:JSONEncoder.encode") is json.JSONEncoder.encode


# -- in a recipe -------------------------------------------------------------------------------------------------------


def test_bare_path_in_a_recipe(tmp_path: Path) -> None:
    class Stage(BaseModel):
        prompts: DataSource

    assert Stage.model_validate({"prompts": "a.jsonl"}).prompts == DataSource(path="a.jsonl")
    assert DataSource.model_validate(tmp_path).path == str(tmp_path)
    for wrong in ({"path": "a", "spilt": "train"}, {"path": "a", "weight": 0}, {"path": "a", "limit": 0}, {}):
        with pytest.raises(ValidationError):
            Stage.model_validate({"prompts": wrong})


def test_weight_reaches_the_table(write: Write, tmp_path: Path) -> None:
    write("a.jsonl", ROWS)
    table = read(DataSource(path="a.jsonl", weight=2.5), tmp_path)
    assert table.weight == 2.5 and table.report.sizes == [6] and table.report.weights == [2.5]


def test_gather_makes_records_of_all_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in "abcd"), encoding="utf-8")
    (tmp_path / "pairing.py").write_text(
        "def couple(records):\n"
        "    texts = [record['text'] for record in records]\n"
        "    return [{'text': a + b} for a, b in zip(texts[::2], texts[1::2])]\n"
        "def nothing(records):\n    return []\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    table = read(DataSource(path=str(file), gather="pairing:couple"))
    assert [record["text"] for record in table.records] == ["ab", "cd"]
    assert len(table.origins) == table.report.kept == 2
    with pytest.raises(DataError, match="returned no record"):
        read(DataSource(path=str(file), gather="pairing:nothing"))
