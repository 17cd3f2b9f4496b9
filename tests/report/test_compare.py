"""Runs side by side: pooling over seeds, the best of a row, the page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from fairlead.report import compare_runs, write_comparison
from report.pages import check

MakeRun = Callable[..., Path]


def test_seeds_of_a_recipe_are_one_column(make_run: MakeRun) -> None:
    directories = [make_run("a"), make_run("b", seed=1), make_run("c", kl_coefficient=0.2)]
    comparison = compare_runs(directories)
    assert comparison.columns == ["quickstart (a) ×2", "quickstart (c)"]
    row = next(row for row in comparison.rows if (row.stage, row.name) == ("online", "score, last tenth"))
    assert row.cells[0] is not None and len(row.cells[0].values) == 2 and row.cells[0].sd is not None
    assert row.cells[1] is not None and row.cells[1].sd is None


def test_figures_hold_the_value_of_every_seed(make_run: MakeRun) -> None:
    found = compare_runs([make_run("a"), make_run("b", seed=1), make_run("c", kl_coefficient=0.2)]).figures()["runs"]
    assert [run["seeds"] for run in found] == [[0, 1], [0]]
    score = found[0]["figures"]["online"]["score, last tenth"]
    assert score["mean"] == pytest.approx(sum(score["values"]) / 2) and len(score["values"]) == 2
    assert json.loads(json.dumps(found)) == found


def test_the_mean_and_the_best_by_hand(tmp_path: Path) -> None:
    for name, seed, size, seconds in (("a", 0, 1, 10.0), ("b", 1, 1, 20.0), ("c", 0, 2, 12.0)):
        folder = tmp_path / name / "stages" / "reward"
        folder.mkdir(parents=True)
        (tmp_path / name / "recipe.yaml").write_text(f"name: {name}\nseed: {seed}\nsize: {size}\n")
        (folder / "result.json").write_text(
            json.dumps({"part": "reward", "seconds": seconds, "validation": {"accuracy": 0.6 + seed * 0.1}})
        )
    rows = {row.name: row for row in compare_runs([tmp_path / name for name in "abc"]).rows}
    accuracy, time = rows["held-out accuracy"], rows["seconds"]
    assert accuracy.cells[0] is not None
    assert accuracy.cells[0].mean == pytest.approx(0.65) and accuracy.cells[0].sd == pytest.approx(0.1 / 2**0.5)
    assert accuracy.best == (0,) and time.best == (1,)
    assert accuracy.text(0) == "65.0 ± 7.1 %" and time.text(1) == "12 s"


def test_runs_with_different_stages(make_run: MakeRun, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    directories = [make_run("a", stages=("online",)), make_run("b", stages=("reward", "evaluate")), empty]
    console = Console(record=True, width=160)
    console.print(compare_runs(directories))
    assert "—" in console.export_text()
    check(write_comparison(directories, tmp_path / "out.html"))


def test_the_page_is_whole_and_safe(make_run: MakeRun, tmp_path: Path) -> None:
    directories = [
        make_run("a", hostile="<script>x</script>[bold]"),
        make_run("b", seed=1),
        make_run("c", overoptimised=True),
    ]
    path = write_comparison(directories, tmp_path / "comparison.html")
    checker = check(path)
    assert "svg" in checker.tags
    Console(record=True, width=160).print(compare_runs(directories))


def test_nothing_to_compare() -> None:
    with pytest.raises(ValueError, match="no run"):
        compare_runs([])


def test_a_recipe_of_an_earlier_version_is_the_same_recipe(tmp_path: Path) -> None:
    recipe = {"name": "r", "seed": 0, "stages": {"reward": {"model": "m", "data": "d.jsonl"}}}
    for name, fields in (
        ("old", {}),
        ("new", {"seed": 1, "runtime": {"precision": "float32"}}),
        ("other", {"plugins": ["no_such"]}),
    ):
        folder = tmp_path / name / "stages" / "reward"
        folder.mkdir(parents=True)
        (tmp_path / name / "recipe.yaml").write_text(yaml.safe_dump(recipe | fields))
        (folder / "result.json").write_text(json.dumps({"part": "reward", "seconds": 1.0}))
    assert [len(group) for group in compare_runs([tmp_path / x for x in ("old", "new", "other")]).groups] == [2, 1]
