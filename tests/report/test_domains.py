"""The table of domains and stages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fairlead.evaluation import compare_policies
from fairlead.report import write_report
from fairlead.report.domains import Domain, domains
from fairlead.report.read import read_run
from fairlead.runs import write_json
from report.pages import check, text


def judged(directory: Path, stage: str, table: dict[str, dict[str, float]], judge: str = "right") -> None:
    """A stage that found these means, model → kind → mean."""
    rows = {name: [{"prompt": kind, "response": "x", "kind": kind} for kind in kinds] for name, kinds in table.items()}
    channels = {name: {judge: list(kinds.values())} for name, kinds in table.items()}
    result: dict[str, Any] = compare_policies(list(table), rows, channels)
    folder = directory / "stages" / stage
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "result.json", result | {"part": "evaluate", "seconds": 1.0})


def test_kinds_of_one_stage_and_a_stage_of_one_kind(make_run: Callable[..., Path]) -> None:
    directory = make_run(stages=("evaluate",))
    table = {
        "warm": {"add": 0.4, "count": 0.5},
        "one": {"add": 0.99, "count": 0.6},
        "two": {"add": 0.97, "count": 1.0},
    }
    judged(directory, "drills", table)
    judged(directory, "talk", {name: {"chat": mean} for name, mean in {"warm": 0.2, "one": 0.1, "two": 0.3}.items()})
    judged(directory, "pair", {name: {"chat": 0.5} for name in ("warm", "two")})  # two models: no table
    found = domains(read_run(directory))
    assert sorted(found, key=lambda row: row.name) == [
        Domain("drills: add, right", ("warm", "one", "two"), (0.4, 0.99, 0.97)),
        Domain("drills: count, right", ("warm", "one", "two"), (0.5, 0.6, 1.0)),
        Domain("talk, right", ("warm", "one", "two"), (0.2, 0.1, 0.3)),
    ]
    assert [round(row.forgotten, 3) for row in sorted(found, key=lambda row: row.name)] == [0.02, 0.0, 0.0]
    shown = text(check(write_report(directory)))
    assert "Domains by stage" in shown and "drills: add, right" in shown and "forgotten" in shown


def test_no_table_without_three_models(make_run: Callable[..., Path]) -> None:
    directory = make_run()
    assert domains(read_run(directory)) == []
    assert "Domains by stage" not in text(check(write_report(directory)))
