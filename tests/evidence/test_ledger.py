"""Running experiments and the table of what they found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from fairlead import parts
from fairlead.evidence import (
    AtMost,
    Better,
    EvidenceError,
    Experiment,
    Measurement,
    Rule,
    ledger,
    render_table,
    run_evidence,
)


class Dummy(Experiment, name="dummy-method"):
    """Figures made of the seed.

    Source: nowhere.
    """

    claim: ClassVar[str] = "is better | always"
    experiment: ClassVar[str] = "arithmetic"
    baseline: ClassVar[str] = "twice as much"
    rules: ClassVar[tuple[Rule, ...]] = (Better("error", 0.6), AtMost("bias", 0.5))

    def measure(self, seed: int, folder: Path) -> Measurement:
        assert folder.is_dir() and not any(folder.iterdir())
        (folder / "rubbish").write_text("x")
        return Measurement({"error": 1.0 + seed, "bias": 0.1 * seed}, {"error": 2.0 + 2 * seed})


def test_a_page_holds_everything(tmp_path: Path) -> None:
    path = run_evidence("dummy-method", [0, 1, 2], tmp_path / "new" / "evidence")
    page = json.loads(path.read_text())
    assert path.name == "dummy-method.json" and page["seeds"] == [0, 1, 2]
    assert page["figures"]["method"]["error"] == {"per_seed": [1.0, 2.0, 3.0], "mean": 2.0, "sd": 1.0}
    assert page["figures"]["baseline"]["error"]["mean"] == 4.0
    assert page["verdict"] == "held" and [rule["held"] for rule in page["rules"]] == [True, True]
    assert "at most 0.6 times the baseline's" in page["rules"][0]["rule"]
    assert {"claim", "experiment", "baseline", "remarks", "revision", "seconds", "machine", "versions"} <= page.keys()


def test_courses_are_kept_for_each_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "courses" not in json.loads(run_evidence("dummy-method", [0], tmp_path).read_text())
    measure = Dummy.measure

    def with_course(self: Dummy, seed: int, folder: Path) -> Measurement:
        return replace(measure(self, seed, folder), courses={"arm": {"kl": [0.0, float(seed)]}})

    monkeypatch.setattr(Dummy, "measure", with_course)
    page = json.loads(run_evidence("dummy-method", [3, 5], tmp_path).read_text())
    assert page["courses"] == [{"arm": {"kl": [0.0, 3.0]}}, {"arm": {"kl": [0.0, 5.0]}}]


def test_a_claim_that_does_not_hold_is_written_down(tmp_path: Path) -> None:
    page = json.loads(run_evidence("dummy-method", [0, 9], tmp_path).read_text())
    assert page["verdict"] == "did not hold" and [rule["held"] for rule in page["rules"]] == [True, False]


def test_one_seed_has_no_spread(tmp_path: Path) -> None:
    page = json.loads(run_evidence("dummy-method", [1], tmp_path).read_text())
    assert page["figures"]["method"]["error"] == {"per_seed": [2.0], "mean": 2.0, "sd": 0.0}


def test_a_failing_write_leaves_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run_evidence("dummy-method", [0, 1], tmp_path)
    before = path.read_text()

    def fail(*_: object) -> None:
        raise OSError("broken disk")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="broken disk"):
        run_evidence("dummy-method", [5], tmp_path)
    assert path.read_text() == before and len(render_table(tmp_path).splitlines()) == 4


def test_a_failing_experiment_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Measurement:
        raise RuntimeError("no")

    monkeypatch.setattr(Dummy, "measure", fail)
    with pytest.raises(RuntimeError):
        run_evidence("dummy-method", [0], tmp_path)
    assert not any(tmp_path.iterdir())


def test_an_unknown_method_is_told_the_nearest_names(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match="no experiment for 'rlo'; did you mean 'rloo'"):
        run_evidence("rlo", [0], tmp_path)


@pytest.mark.parametrize("seeds", [[], [1, 1]])
def test_seeds_must_be_different(seeds: list[int], tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match="different numbers"):
        run_evidence("dummy-method", seeds, tmp_path)


def test_the_table_has_a_row_for_each_figure(tmp_path: Path) -> None:
    run_evidence("dummy-method", [0, 1, 2], tmp_path)
    lines = render_table(tmp_path).splitlines()
    assert lines[0].startswith("| method | claim |") and set(lines[1]) <= set("| -")
    assert "is better \\| always" in lines[2] and "| 2 ± 1 | 4 ± 2 | **held** (yes) | 3 |" in lines[2]
    assert "| bias | 0.1 ± 0.1 | – | yes |" in lines[3]
    assert all(line.replace("\\|", "").count("|") == 10 for line in lines)


def test_an_empty_or_damaged_ledger_says_so(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match="no evidence yet; run"):
        render_table(tmp_path)
    for text in ("{}", "[", "[1]"):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(EvidenceError, match=r"x\.json is no page of the ledger"):
            render_table(tmp_path)


@pytest.mark.parametrize(
    ("ours", "theirs", "share", "except_for", "held"),
    [
        ([1, 1, 1], [2, 2, 2], 0.5, 0, True),
        ([1, 1, 1.1], [2, 2, 2], 0.5, 0, False),
        ([1, 1, 3], [3, 3, 2], 1.0, 0, False),
        ([1, 1, 3], [3, 3, 2], 1.0, 1, True),
        ([1, 1], [1, 1], 1.0, 0, False),
    ],
)
def test_better(ours: list[float], theirs: list[float], share: float, except_for: int, held: bool) -> None:
    rows = [Measurement({"x": a}, {"x": b}) for a, b in zip(ours, theirs, strict=True)]
    assert Better("x", share, except_for).held(rows) is held


def test_every_experiment_says_what_it_does() -> None:
    known = ledger.experiments()
    assert {"ppo", "grpo", "rloo", "reinforce++", "dpo", "bradley-terry"} <= set(known)
    for name, experiment in known.items():
        assert experiment.claim and experiment.experiment and experiment.baseline and experiment.rules, name
        assert parts.part_info(experiment).source, name
