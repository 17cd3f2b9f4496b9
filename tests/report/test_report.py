"""The report: any set of stages, damaged and hostile directories, one self-contained file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fairlead.report import headline, page, write_report
from fairlead.report.findings import findings
from fairlead.report.read import read_run
from fairlead.report.summary import cards
from fairlead.runs import RunError
from report.pages import check, text

MakeRun = Callable[..., Path]


def test_a_whole_run(make_run: MakeRun) -> None:
    directory = make_run()
    path = write_report(directory)
    assert path == directory / "report.html"
    shown = text(check(path))
    for expected in (
        "Reward model accuracy: reward", "Judge: humanlike", "Trained reward: helpful", "KL from the start", "Response length", "Wall time",
        "Trained reward and judge over KL", "Calibration", "Length bias", "Win rates", "Entropy", "Clipped tokens", "Seconds by phase",
        "Explained variance", "Gradient norm", "Throughput", "Side by side", "Largest losses", "Sample texts", "The resolved recipe",
        "Supervised fine-tuning", "my/own_metric", "kind of prompt", "PyTorch 2.11.0", "seed 0",
    ):  # fmt: skip
        assert expected in shown, expected


@pytest.mark.parametrize("stage", ["sft", "reward", "preference", "online", "evaluate"])
@pytest.mark.parametrize("finished", [True, False])
def test_one_stage_alone(make_run: MakeRun, stage: str, finished: bool) -> None:
    directory = make_run(stages=(stage,), finished=finished, steps=30)
    shown = text(check(write_report(directory)))
    assert ("not finished" in shown) is not finished
    assert headline(directory) or not finished


def test_an_empty_directory_says_what_is_missing(tmp_path: Path) -> None:
    shown = text(check(write_report(tmp_path)))
    assert "nothing to show yet" in shown
    assert "metrics.jsonl is not there" in shown and "run.json is not there" in shown
    assert headline(tmp_path) == {}


def test_no_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="does not exist"):
        write_report(tmp_path / "nowhere")


def test_numbers_that_are_not_finite(make_run: MakeRun) -> None:
    directory = make_run(nan=True)
    shown = text(check(write_report(directory)))
    assert "score is not a number at times" in shown
    assert " nan" not in shown.lower()


def test_damaged_files_are_named_and_the_rest_is_shown(make_run: MakeRun) -> None:
    directory = make_run(stages=("sft", "online"))
    metrics = directory / "metrics.jsonl"
    metrics.write_bytes(b"{broken\n" + metrics.read_bytes() + b"\xff\xfe\n" + b'{"stage": "online", "st')
    (directory / "stages/sft/result.json").write_text("{")
    (directory / "recipe.yaml").write_text("a: [")
    shown = text(check(write_report(directory)))
    assert "3 damaged lines" in shown and "sft/result.json is damaged" in shown and "not valid YAML" in shown
    assert "Score" in shown


def test_hostile_texts_stay_texts(make_run: MakeRun) -> None:
    hostile = "<script>alert(1)</script><img src=http://evil.example onerror=x>\"'&</pre></details>"
    directory = make_run(hostile=hostile)
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    rows[0][f"channel/{hostile}"] = 1.0
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = write_report(directory)
    path.write_text(path.read_text().replace("http://evil.example", ""))  # the address may stand there as text
    assert "<script>alert" in text(check(path))


def test_results_of_another_shape_do_not_break_it(make_run: MakeRun) -> None:
    directory = make_run(stages=("reward", "evaluate"))
    for stage, wrong in (
        ("reward", {"validation": {"accuracy": "high", "baselines": None, "reliability": [[1], ["a", "b", "c"]]}}),
        (
            "evaluate",
            {
                "channels": {"m": {"j": {}}},
                "models": ["m"],
                "style": None,
                "texts": ["x", {"responses": 3}],
                "kinds": [],
            },
        ),
    ):
        (directory / "stages" / stage / "result.json").write_text(json.dumps({"id": stage, "part": stage, **wrong}))
    check(write_report(directory))
    headline(directory)


def test_a_stage_of_an_unknown_part_shows_its_curves(make_run: MakeRun) -> None:
    directory = make_run(stages=("sft",))
    with (directory / "metrics.jsonl").open("a") as file:
        for step in range(1, 20):
            file.write(json.dumps({"stage": "mine", "step": step, "tide/height": step / 3, "note": "text"}) + "\n")
    assert "tide/height" in text(check(write_report(directory)))


def test_long_runs_and_long_texts_stay_small(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = make_run(stages=("online", "evaluate"), steps=2000, hostile="long " * 300)
    full = write_report(directory).stat().st_size
    assert full <= page.LARGEST
    monkeypatch.setattr(page, "LARGEST", full // 2)
    path = write_report(directory)
    check(path)
    assert path.stat().st_size <= full // 2


def test_headline_is_flat(make_run: MakeRun) -> None:
    found = headline(make_run())
    assert all(isinstance(value, str | float) for value in found.values())
    assert "→" in str(found["Judge: humanlike"])


def test_online_alone_is_told_by_its_first_and_last_steps(make_run: MakeRun) -> None:
    labels = [card.label for card in cards(read_run(make_run(stages=("online",))))]
    assert labels[:2] == ["Judge: humanlike", "Trained reward"]


# -- warnings ---------------------------------------------------------------------------------------------------------


def titles(directory: Path) -> set[str]:
    return {finding.title for finding in findings(read_run(directory))}


def test_a_healthy_run_has_no_warning_about_training(make_run: MakeRun) -> None:
    assert titles(make_run(stages=("sft", "reward", "preference", "online"))) == set()


def test_over_optimisation_is_seen(make_run: MakeRun) -> None:
    found = titles(make_run(stages=("online", "evaluate"), overoptimised=True))
    assert found >= {
        "The reward is being over-optimised", "Entropy has collapsed", "Many responses are cut off", "Responses have grown much longer",
        "The policy is far from the reference", "humanlike finds the last model worse than the first",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("metric", "values", "title"),
    [
        ("policy/clip_fraction", [0.1, 0.5, 0.5], "Most of an update is clipped away"),
        ("policy/skipped_steps", [0.0, 1.0, 0.0], "Updates were skipped"),
        ("critic/explained_variance", [0.1, -0.4, -0.5], "The critic is no help"),
        ("failed/judge", [0.0, 0.2, 0.1], "Verdicts are missing"),
        ("truncated", [0.0, 0.1, 0.21], "Many responses are cut off"),
        ("kl/k1", [1.0, 10.0, 20.5], "The policy is far from the reference"),
        ("length", [10.0, 12.0, 15.1], "Responses have grown much longer"),
        ("entropy", [2.0, 1.0, 0.5], "Entropy has collapsed"),
        ("length", [10.0, 4.0] + [6.0] * 20, "Responses collapsed at the start"),
        ("score", [1.0] + [0.0] * 10 + [2.0] * 20, "The reward fell before it rose"),
    ],
)
def test_each_warning_by_itself(tmp_path: Path, metric: str, values: list[float], title: str) -> None:
    write_metrics(tmp_path, metric, values)
    assert titles(tmp_path) == {title}


@pytest.mark.parametrize(
    ("metric", "values"),
    [
        ("truncated", [0.2] * 3),
        ("kl/k1", [1.0, 20.0]),
        ("length", [10.0, 15.0]),
        ("entropy", [2.0, 0.61]),
        ("length", [10.0, 5.0] + [6.0] * 17),
        ("length", [10.0, 9.0] + [8.0] * 28),
        ("score", [1.0] * 10 + [0.9] * 10 + [2.0] * 10),
        ("score", [1.0] + [0.0] * 29),
        ("policy/clip_fraction", [0.3]),
    ],
)
def test_no_warning_at_the_threshold(tmp_path: Path, metric: str, values: list[float]) -> None:
    write_metrics(tmp_path, metric, values)
    assert titles(tmp_path) == set()


def write_metrics(directory: Path, metric: str, values: list[float]) -> None:
    rows: list[dict[str, Any]] = [
        {"stage": "online", "step": index, metric: value} for index, value in enumerate(values, 1)
    ]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_reward_model_no_better_than_length(make_run: MakeRun) -> None:
    directory = make_run(stages=("reward",))
    validation = {
        "accuracy": 0.62,
        "accuracy_low": 0.58,
        "accuracy_high": 0.66,
        "baselines": {"longer": 0.6, "shorter": 0.4},
    }
    extra = {"calibration_error": 0.2, "temperature": 2.0, "length_correlation": 0.7}
    (directory / "stages/reward/result.json").write_text(
        json.dumps({"part": "reward", "validation": validation | extra})
    )
    assert titles(directory) == {
        "The reward model is not clearly better than a trivial rule", "The reward model's confidence is off", "The reward model follows length",
    }  # fmt: skip
