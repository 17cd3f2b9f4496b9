"""Running recipes: stages in order, interruption, continuation, and directories."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from counting_stage import write_recipe
from fairlead.recipes import load_recipe
from fairlead.recipes.execute import execute, new_directory, resume
from fairlead.runs import Interrupted, RunError, StageRun, read_json, read_json_lines
from tiny_runs import logged


def start(recipe: Path, directory: Path, *overrides: str, **options: Any) -> Any:
    return execute(load_recipe(str(recipe), list(overrides)), directory, quiet=True, **options)


def test_a_run_writes_what_it_promises(tmp_path: Path) -> None:
    seen: list[Path] = []
    run = start(write_recipe(tmp_path), tmp_path / "run", report=seen.append)
    assert list(run.results) == ["first", "second"]
    assert [(row["stage"], row["step"]) for row in logged(run.directory)] == [
        *(("first", step) for step in range(1, 7)),
        ("second", 1),
        ("second", 2),
    ]
    assert len(read_json_lines(run.directory / "samples.jsonl")) == 8
    result = read_json(run.directory / "stages" / "first" / "result.json")
    assert (result["id"], result["part"]) == ("first", "counting") and result["seconds"] > 0
    about = read_json(run.directory / "run.json")
    assert about["name"] == "counts" and "finished" in about
    assert seen == [run.directory]
    assert not (run.directory / "stages" / "first" / "checkpoints").exists()


def test_stages_of_one_part_have_seeds_of_their_own(tmp_path: Path) -> None:
    rows = logged(start(write_recipe(tmp_path), tmp_path / "run").directory)
    assert rows[0]["total"] != rows[6]["total"]


def test_the_seed_decides_everything(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    one, two, other = (start(recipe, tmp_path / f"run{i}", f"seed={s}").directory for i, s in enumerate((1, 1, 2)))
    assert logged(one) == logged(two) != logged(other)


@pytest.mark.parametrize("save_every", [0, 1, 2, 50])
def test_a_stopped_run_continues_as_if_nothing_had_been(tmp_path: Path, save_every: int) -> None:
    recipe = write_recipe(tmp_path, save_every=save_every, stop_file=str(tmp_path / "stop"))
    whole = start(recipe, tmp_path / "whole")
    (tmp_path / "stop").touch()
    with pytest.raises(Interrupted, match="stage first after step 3; continue with: fairlead run --resume"):
        start(recipe, tmp_path / "stopped")
    assert len(logged(tmp_path / "stopped")) == 3
    again = resume(tmp_path / "stopped", quiet=True)
    assert logged(tmp_path / "stopped") == logged(tmp_path / "whole")
    assert again.results["first"]["total"] == whole.results["first"]["total"]
    assert read_json_lines(tmp_path / "stopped" / "samples.jsonl") == read_json_lines(
        tmp_path / "whole" / "samples.jsonl"
    )


@pytest.mark.parametrize("save_every", [0, 2])
def test_a_crashed_run_continues_as_if_nothing_had_been(tmp_path: Path, save_every: int) -> None:
    """With a checkpoint at step 2, and from the beginning of the stage without one."""
    recipe = write_recipe(tmp_path, save_every=save_every, fail_file=str(tmp_path / "fail"))
    start(recipe, tmp_path / "whole")
    (tmp_path / "fail").touch()
    with pytest.raises(ZeroDivisionError):
        start(recipe, tmp_path / "crashed")
    assert len(logged(tmp_path / "crashed")) == 3
    (tmp_path / "fail").unlink()
    resume(tmp_path / "crashed", quiet=True)
    assert logged(tmp_path / "crashed") == logged(tmp_path / "whole")
    assert len(read_json_lines(tmp_path / "crashed" / "samples.jsonl")) == 8


def test_a_line_cut_by_a_crash_is_written_anew(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, save_every=2, fail_file=str(tmp_path / "fail"))
    start(recipe, tmp_path / "whole")
    (tmp_path / "fail").touch()
    with pytest.raises(ZeroDivisionError):
        start(recipe, tmp_path / "crashed")
    (tmp_path / "fail").unlink()
    with (tmp_path / "crashed" / "metrics.jsonl").open("ab") as file:
        file.write(b'{"stage": "first", "st')
    resume(tmp_path / "crashed", quiet=True)
    assert logged(tmp_path / "crashed") == logged(tmp_path / "whole")


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    start(write_recipe(tmp_path), tmp_path / "run")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    run = resume(tmp_path / "run", quiet=True)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    assert list(run.results) == ["first", "second"]


def test_a_directory_with_another_recipe(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    start(recipe, tmp_path / "run")
    with pytest.raises(RunError, match="another recipe"):
        start(recipe, tmp_path / "run", "seed=3")
    (tmp_path / "run" / "recipe.yaml").write_text("plugins: [gone]\nstages: {}\n")
    with pytest.raises(RunError, match="another recipe"):
        start(recipe, tmp_path / "run")


def test_a_recipe_written_before_a_field_was_there(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, stop_file=str(tmp_path / "stop"))
    (tmp_path / "stop").touch()
    with pytest.raises(Interrupted):
        start(recipe, tmp_path / "run")
    file = tmp_path / "run" / "recipe.yaml"
    file.write_text(file.read_text().replace("    pause: 0.0\n", ""))
    assert "pause" not in file.read_text()
    assert list(start(recipe, tmp_path / "run").results) == ["first", "second"]


def test_a_request_to_stop_that_no_step_hears_ends_the_run_before_the_next_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a stage without steps, or behind the last one."""
    finish = StageRun.finish

    def asked(self: StageRun, *args: Any) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGTERM)
        return finish(self, *args)

    monkeypatch.setattr(StageRun, "finish", asked)
    recipe = write_recipe(tmp_path)
    with pytest.raises(Interrupted, match="stopped before stage second; continue with"):
        start(recipe, tmp_path / "run")
    assert {row["stage"] for row in logged(tmp_path / "run")} == {"first"}
    assert list(resume(tmp_path / "run", quiet=True).results) == ["first", "second"]  # the last stage was done anyway


def test_a_directory_that_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    (tmp_path / "file").touch()
    recipe = write_recipe(tmp_path)
    with pytest.raises(RunError, match="not empty"):
        start(recipe, tmp_path / "photos")
    with pytest.raises(RunError, match="cannot be made"):
        start(recipe, tmp_path / "file")
    with pytest.raises(RunError, match="holds no run"):
        resume(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_damaged_results_and_checkpoints_are_named(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, stop_file=str(tmp_path / "stop"))
    (tmp_path / "stop").touch()
    directory = tmp_path / "run"
    with pytest.raises(Interrupted):
        start(recipe, directory)
    state = directory / "stages" / "first" / "checkpoints" / "step-00000003" / "state.pt"
    whole = state.read_bytes()
    for damage in (b"", b"nonsense", whole[:100], whole[: len(whole) // 2]):
        state.write_bytes(damage)
        with pytest.raises(RunError, match=r"checkpoint .*step-00000003 is damaged"):
            resume(directory, quiet=True)
    state.write_bytes(whole)
    resume(directory, quiet=True)
    for damage in ('{"id": "fi', "\x00\x00"):
        (directory / "stages" / "first" / "result.json").write_text(damage)
        with pytest.raises(RunError, match=r"result\.json is damaged"):
            resume(directory, quiet=True)


def test_metrics_that_were_shortened_by_hand(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, stop_file=str(tmp_path / "stop"))
    (tmp_path / "stop").touch()
    with pytest.raises(Interrupted):
        start(recipe, tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").write_bytes(b"")
    with pytest.raises(RunError, match=r"metrics\.jsonl is shorter"):
        resume(tmp_path / "run", quiet=True)


def test_new_directories(tmp_path: Path) -> None:
    assert new_directory(tmp_path, "a") == tmp_path / "a"
    (tmp_path / "a").mkdir()
    (tmp_path / "a-2").mkdir()
    assert new_directory(tmp_path, "a") == tmp_path / "a-3"
