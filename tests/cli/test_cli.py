"""The command line: what is printed, and with which code it ends."""

from __future__ import annotations

import resource
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import fairlead
from counting_stage import write_recipe
from fairlead.cli import app
from fairlead.runs import read_json, read_json_lines

SOURCE = Path(fairlead.__file__).parents[1]


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def ask(*arguments: Any, code: int = 0, stdin: str | None = None) -> Any:
    """Run the command line and expect it to end with `code`."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


# -- run ----------------------------------------------------------------------------------------------------------------


def test_run_writes_below_runs_and_shows_where_the_report_is(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    assert f"report: {Path('runs/counts/report.html')}" in ask("run", recipe, "--quiet").stdout
    assert (tmp_path / "runs" / "counts" / "report.html").stat().st_size > 0
    assert "runs/counts-2/report.html" in ask("run", recipe, "-q").stdout


def test_run_takes_overrides_seed_and_directory(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    ask("run", recipe, "first.steps=2", "second.steps=1", "--seed", 5, "--out", "here", "--quiet")
    written = yaml.safe_load((tmp_path / "here" / "recipe.yaml").read_text())
    assert written["seed"] == 5 and written["stages"]["first"]["steps"] == 2
    assert len(read_json_lines(tmp_path / "here" / "metrics.jsonl")) == 3


def test_run_shows_headline_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairlead.report.headline", lambda directory: {"score": "1 → 2", "warnings": 1.0})
    out = ask("run", write_recipe(tmp_path), "--quiet").stdout
    assert "score" in out and "1 → 2" in out and "warnings  1" in out


def test_run_with_several_seeds_compares_them(tmp_path: Path) -> None:
    out = ask("run", write_recipe(tmp_path), "--seeds", "0,3", "--out", "runs/x", "--quiet").stdout
    assert [read_json(tmp_path / "runs" / f"x-s{seed}" / "run.json")["seed"] for seed in (0, 3)] == [0, 3]
    assert read_json(tmp_path / "runs" / "x-s3" / "run.json")["name"] == "counts-s3"
    assert "Runs side by side" in out
    ask("run", write_recipe(tmp_path), "--seeds", "1", "--quiet")
    assert (tmp_path / "runs" / "counts-s1" / "report.html").exists()


def test_run_takes_stages_of_another_run_seed_by_seed(tmp_path: Path) -> None:
    ask("run", write_recipe(tmp_path), "--seeds", "0,3", "--out", "runs/x", "--quiet")
    out = ask("run", write_recipe(tmp_path, steps=3), "--seeds", "0,3", "--out", "runs/y", "--reuse", "runs/x").stdout
    assert "taken over from runs/x-s0: second" in out and "taken over from runs/x-s3: second" in out


def test_an_interrupted_run_says_how_to_continue_and_does(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, stop_file=str(tmp_path / "stop"))
    (tmp_path / "stop").touch()
    assert "continue with: fairlead run --resume here" in ask("run", recipe, "--out", "here", code=130).stderr
    ask("run", "--resume", "here", "--quiet")
    assert [row["step"] for row in read_json_lines(tmp_path / "here" / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6, 1, 2]
    ask("run", "--resume", "here", "--quiet")  # a finished run


def test_an_unexpected_error_keeps_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "fail").touch()
    with pytest.raises(ZeroDivisionError, match="the stage failed"):
        ask("run", write_recipe(tmp_path, fail_file=str(tmp_path / "fail")), "--quiet")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run"], "which recipe?"),
        (["run", "quickstar"], "did you mean 'quickstart'?"),
        (["run", "quickstart", "online.step=3"], "did you mean 'steps'"),
        (["run", "quickstart", "trackers=[mlflow]"], "unknown tracker 'mlflow'"),
        (["run", "quickstart", "--resume", "x"], "--resume stands alone"),
        (["run", "--resume", "x", "--seed", "1"], "--resume stands alone"),
        (["run", "--resume", "x", "--reuse", "y"], "--resume stands alone"),
        (["run", "--resume", "x"], "x holds no run"),
        (["run", "quickstart", "--reuse", "y"], "y holds no run whose stages could be taken over"),
        (["run", "quickstart", "--seed", "1", "--seeds", "1,2"], "not both"),
        (["run", "quickstart", "--seeds", "a,b"], "whole numbers"),
        (["run", "quickstart", "--seed", "-1"], "seed: "),
        (["show", "nothing"], "no such file"),
        (["methods", "gea"], "did you mean 'gae'"),
        (["methods", "--slot", "credits"], "did you mean 'credit'?"),
        (["methods", "--plugin", "no_such_module"], "cannot import 'no_such_module'"),
        (["report", "nowhere"], "nowhere holds no run"),
        (["compare", "nowhere"], "nowhere holds no run"),
        (["evidence", "gae", "--seeds", "x"], "whole numbers"),
    ],
)
def test_mistakes_are_one_clean_message(arguments: list[str], words: str) -> None:
    result = ask(*arguments, code=2)
    assert "error: " in result.stderr and words in result.stderr
    assert "Traceback" not in result.output


def test_data_that_is_not_there_is_a_clean_error() -> None:
    recipe = "stages:\n  tokenizer: {data: nowhere.jsonl}\n"
    Path("mine.yaml").write_text(recipe, encoding="utf-8")
    result = ask("run", "mine.yaml", code=2)
    assert "nowhere.jsonl" in result.stderr and "Traceback" not in result.output


def test_wrong_options_end_with_two() -> None:
    assert CliRunner().invoke(app, ["run", "--nonsense"]).exit_code == 2
    assert CliRunner().invoke(app, ["nonsense"]).exit_code == 2


# -- recipes and methods ------------------------------------------------------------------------------------------------


def test_recipes() -> None:
    out = ask("recipes").stdout
    assert "quickstart" in out and "The whole pipeline" in out


def test_show_gives_a_recipe_that_runs_the_same(tmp_path: Path) -> None:
    text = ask("show", "quickstart", "seed=3").stdout
    tree = yaml.safe_load(text)
    assert tree["seed"] == 3 and tree["stages"]["online"]["credit"]["part"] == "gae"
    Path("again.yaml").write_text(text, encoding="utf-8")
    assert ask("show", "again.yaml").stdout == text


def test_methods_lists_every_part_with_its_paper() -> None:
    from fairlead.parts import parts_in_slot, slots

    lines = ask("methods").stdout.splitlines()
    for slot in slots():
        for name in parts_in_slot(slot):
            assert any(line.split()[:1] == [name] for line in lines), (slot, name)
    gae = next(line for line in lines if line.split()[:1] == ["gae"])
    assert "Schulman et al. 2016 (arXiv 1506.02438)" in gae


def test_methods_of_one_slot() -> None:
    out = ask("methods", "--slot", "credit").stdout
    assert "rloo" in out and "ppo-clip" not in out


def test_one_method_in_full() -> None:
    out = ask("methods", "gae").stdout
    assert "fairlead.credit.gae.GAE" in out and "Source: Schulman et al. 2016" in out
    assert next(line for line in out.splitlines() if line.startswith("lam ")).split()[:3] == ["lam", "float", "0.95"]
    assert "shipped recipes: " in out and "quickstart" in out
    assert ask("methods", "credit.gae").stdout == ask("methods", "gae", "--slot", "credit").stdout == out


def test_a_name_in_two_slots() -> None:
    result = ask("methods", "reward", code=0)  # the stage; there is a slot of that name, but no part
    assert "fairlead.stages.reward.RewardModel" in result.stdout


def test_methods_of_a_plugin() -> None:
    assert "Add up random numbers." in ask("methods", "--plugin", "counting_stage").stdout
    assert "counting_stage.Counting" in ask("methods", "counting", "--plugin", "counting_stage").stdout


# -- report and compare -------------------------------------------------------------------------------------------------


def test_report_and_compare(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    ask("run", recipe, "--out", "one", "-q")
    ask("run", recipe, "first.steps=3", "--out", "two", "-q")
    (tmp_path / "one" / "report.html").unlink()
    assert "report: one/report.html" in ask("report", "one").stdout
    assert (tmp_path / "one" / "report.html").exists()
    out = ask("compare", "one", "two", "--html", "both.html").stdout
    assert "seconds" in out and "comparison: both.html" in out
    assert (tmp_path / "both.html").stat().st_size > 0


# -- evidence -----------------------------------------------------------------------------------------------------------


def test_evidence_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    module = types.ModuleType("fairlead.evidence")
    module.run_evidence = lambda *arguments: told.append(arguments)  # type: ignore[attr-defined]
    module.render_table = lambda folder: f"ledger of {folder}"  # type: ignore[attr-defined]
    monkeypatch.setattr("fairlead.cli._evidence", lambda: module)
    ask("evidence", "gae", "--seeds", "0,4", "--out", "ledger")
    assert told == [("gae", [0, 4], Path("ledger"))]
    assert "ledger of ledger" in ask("evidence", "table", "--out", "ledger").stdout


# -- itself -------------------------------------------------------------------------------------------------------------


def test_version() -> None:
    assert ask("--version").stdout == f"fairlead {fairlead.__version__}\n"


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom fairlead.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pydantic', 'ray'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], cwd=SOURCE, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    # Seconds of processor time: those of the clock depend on what else the machine does.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


def test_every_command_has_help() -> None:
    for command in ("run", "recipes", "show", "methods", "report", "compare", "chat", "doctor", "evidence"):
        assert "Usage" in ask(command, "--help").stdout
