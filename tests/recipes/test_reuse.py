"""Stages of another run are taken over where they are the same, and only there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from fairlead.recipes import load_recipe
from fairlead.recipes.execute import execute, resume
from fairlead.runs import Interrupted, RunError, read_json, read_json_lines
from tiny_runs import logged


def recipe(folder: Path, **second: Any) -> Path:
    """first, second (which stands on first), third (on second), alone."""
    stages = {
        "first": {"part": "counting"},
        "second": {"part": "counting", "after": "stage:first", **second},
        "third": {"part": "counting", "after": "stage:second"},
        "alone": {"part": "counting", "steps": 2},
    }
    path = folder / "recipe-to-run.yaml"
    path.write_text(yaml.safe_dump({"plugins": ["counting_stage"], "stages": stages}, sort_keys=False))
    return path


def start(path: Path, directory: Path, *overrides: str, **options: Any) -> Any:
    return execute(load_recipe(str(path), list(overrides)), directory, quiet=True, **options)


def test_the_same_stages_are_taken_and_those_that_stand_on_another_are_not(tmp_path: Path) -> None:
    start(recipe(tmp_path), tmp_path / "one")
    start(recipe(tmp_path, steps=3), tmp_path / "two", reuse=tmp_path / "one")
    start(recipe(tmp_path, steps=3), tmp_path / "whole")
    assert read_json(tmp_path / "two" / "run.json")["reused"] == {
        "run": str(tmp_path / "one"),
        "stages": ["first", "alone"],
    }
    one, two = (
        {row["stage"]: row["time"] for row in read_json_lines(tmp_path / run / "metrics.jsonl")}
        for run in ("one", "two")
    )
    assert {stage for stage in one if one[stage] == two[stage]} == {"first", "alone"}
    assert sorted(logged(tmp_path / "two"), key=str) == sorted(logged(tmp_path / "whole"), key=str)
    assert len(read_json_lines(tmp_path / "two" / "samples.jsonl")) == 6 + 3 + 6 + 2


def test_what_was_taken_stays_when_the_run_is_interrupted(tmp_path: Path) -> None:
    start(recipe(tmp_path), tmp_path / "one")
    (tmp_path / "stop").touch()
    changed = recipe(tmp_path, stop_file=str(tmp_path / "stop"), save_every=0)
    with pytest.raises(Interrupted):
        start(changed, tmp_path / "two", reuse=tmp_path / "one")
    resume(tmp_path / "two", quiet=True)
    assert sorted(logged(tmp_path / "two"), key=str) == sorted(logged(tmp_path / "one"), key=str)


def test_an_unfinished_stage_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "stop").touch()
    path = recipe(tmp_path, stop_file=str(tmp_path / "stop"))
    with pytest.raises(Interrupted):
        start(path, tmp_path / "one")
    start(path, tmp_path / "two", reuse=tmp_path / "one")
    assert read_json(tmp_path / "two" / "run.json")["reused"]["stages"] == ["first"]


def test_other_seeds_and_no_runs_are_said(tmp_path: Path) -> None:
    path = recipe(tmp_path)
    start(path, tmp_path / "one")
    with pytest.raises(RunError, match="its seed is 0, and 1 is asked for here"):
        start(path, tmp_path / "two", "seed=1", reuse=tmp_path / "one")
    with pytest.raises(RunError, match="holds no run whose stages"):
        start(path, tmp_path / "three", reuse=tmp_path / "nowhere")
    with pytest.raises(RunError, match="holds a run already"):
        start(path, tmp_path / "one", reuse=tmp_path / "one")
