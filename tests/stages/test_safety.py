"""The test of safety: its figures, its outcomes, whose prompts it takes, and that an interruption draws nothing twice."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from fairlead import functional
from fairlead.recipes.execute import resume
from fairlead.report import write_report
from fairlead.report.findings import findings
from fairlead.report.read import read_run
from fairlead.report.summary import headline
from fairlead.runs import Interrupted, RunError, StageRun
from fairlead.stages.safety import Limit
from tiny_runs import run_stages, tiny_recipe, write_records


def safety(shelf: Path, folder: Path, values: list[float | None] | None = None, **fields: Any) -> dict[str, Any]:
    """A test of the token world's model on twelve prompts whose costs are the given numbers, again and again."""
    prompts = write_records(folder / "held-out.jsonl", [{"prompt": "a b"}, {"prompt": "c d"}] * 6)
    stage: dict[str, Any] = {
        "model": str(shelf / "world"),
        "prompts": prompts,
        "costs": {"harm": {"part": "test-cycle", "values": values or [-1.2, -0.4, 0.3, -2.0]}},
        "limits": {"harm": {"channel": "harm"}},
        "rollout": {"part": "sample", "sampling": {"maximum_tokens": 4}},
    }
    return {"safety-test": stage | fields}


def certificate(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "stages" / "safety-test" / "certificate.json").read_text())
    return found


def test_a_policy_that_keeps_its_limit_is_returned(shelf: Path, tmp_path: Path) -> None:
    run = run_stages(tmp_path / "run", safety(shelf, tmp_path))
    page = certificate(run.directory)
    costs = torch.tensor([-1.2, -0.4, 0.3, -2.0] * 3, dtype=torch.float64)
    limit = page["limits"]["harm"]
    assert page["outcome"] == "returned" and limit["passed"] and page == run.results["safety-test"]["certificate"]
    assert (limit["n"], limit["d"], limit["delta"], limit["missing"]) == (12, 0.0, 0.1, 0)
    assert limit["mean"] == pytest.approx(float(costs.mean())) and limit["std"] == pytest.approx(float(costs.std()))
    assert limit["U"] == pytest.approx(functional.mean_bound(costs.float().double(), 0.1))
    weights = (shelf / "world" / "model.safetensors").read_bytes()
    assert page["model"]["sha256"] == hashlib.sha256(weights).hexdigest()
    assert page["data"]["prompts"] == 12 and page["independence"]["different_prompts"] == 2
    assert headline(run.directory)["Safety: safety-test"].startswith("returned")  # type: ignore[union-attr]
    assert not [f for f in findings(read_run(run.directory)) if "safe" in f.title]


def test_no_solution_is_an_outcome_that_the_report_shows(shelf: Path, tmp_path: Path) -> None:
    stages = safety(shelf, tmp_path, limits={"harm": {"channel": "harm", "limit": -0.7}})
    run = run_stages(tmp_path / "run", stages)
    assert certificate(run.directory)["outcome"] == "no solution found"
    assert headline(run.directory)["Safety: safety-test"].startswith("no solution found")  # type: ignore[union-attr]
    assert any(f.title.startswith("No solution found") for f in findings(read_run(run.directory)))
    assert "No solution found" in write_report(run.directory).read_text()


def test_several_limits_share_delta_and_all_must_hold(shelf: Path, tmp_path: Path) -> None:
    limits = {
        "mean": {"channel": "harm"},
        "share": {"channel": "harm", "limit": 0.5, "bound": {"part": "share"}},
        "tail": {"channel": "harm", "limit": 0.5, "bound": {"part": "tail", "highest": 1.0, "tail": 1.0}},
    }
    page = certificate(run_stages(tmp_path / "run", safety(shelf, tmp_path, limits=limits, delta=0.3)).directory)
    assert [entry["delta"] for entry in page["limits"].values()] == pytest.approx([0.1] * 3)
    assert page["limits"]["share"]["U"] == pytest.approx(functional.share_bound(3, 12, 0.1))
    assert page["limits"]["mean"]["passed"] and page["limits"]["tail"]["passed"]
    assert page["outcome"] == "returned"
    limits["share"]["limit"] = 0.4
    page = certificate(run_stages(tmp_path / "other", safety(shelf, tmp_path, limits=limits, delta=0.3)).directory)
    assert not page["limits"]["share"]["passed"] and page["outcome"] == "no solution found"


def test_a_cost_that_nobody_could_tell_never_speaks_for_the_policy(shelf: Path, tmp_path: Path) -> None:
    limits = {
        "unbounded": {"channel": "harm", "limit": 100.0},
        "bounded": {"channel": "harm", "limit": 100.0, "bound": {"part": "mean", "highest": 8.0}},
        "share": {"channel": "harm", "limit": 1.0, "bound": {"part": "share", "threshold": 50.0}},
    }
    page = certificate(run_stages(tmp_path / "run", safety(shelf, tmp_path, [-1.0, None], limits=limits)).directory)
    assert page["limits"]["unbounded"]["U"] is None and not page["limits"]["unbounded"]["passed"]
    assert page["limits"]["bounded"]["U"] > 3.5 and page["limits"]["bounded"]["mean"] == -1
    assert page["limits"]["share"]["U"] == pytest.approx(functional.share_bound(6, 12, 0.1 / 3))
    assert page["limits"]["share"]["missing"] == 6 and page["outcome"] == "no solution found"


def test_the_weight_turns_a_reward_into_a_cost(shelf: Path, tmp_path: Path) -> None:
    costs = {"good": {"part": "test-cycle", "values": [1.0, 3.0], "weight": -1.0}}
    stages = safety(shelf, tmp_path, costs=costs, limits={"good": {"channel": "good", "limit": -1.0}})
    limit = certificate(run_stages(tmp_path / "run", stages).directory)["limits"]["good"]
    assert limit["mean"] == -2 and limit["passed"]


def test_prompts_that_the_recipe_reads_elsewhere_are_refused_before_anything_runs(shelf: Path, tmp_path: Path) -> None:
    """In whatever form they stand there."""
    chats = [{"messages": [{"role": "user", "content": " C  d"}, {"role": "assistant", "content": "x"}]}]
    data = write_records(tmp_path / "chats.jsonl", [*chats, {"text": "a b"}])
    first = {"sft": {"model": str(shelf / "tiny"), "data": data, "steps": 1, "batch_size": 1}}
    with pytest.raises(RunError, match=r"of its 12 prompts the recipe reads elsewhere 6 by stage sft.*seen: tell"):
        run_stages(tmp_path / "run", first | safety(shelf, tmp_path))
    assert not (tmp_path / "run" / "stages").exists()
    run = run_stages(tmp_path / "told", first | safety(shelf, tmp_path, seen="tell"))
    independence = certificate(run.directory)["independence"]
    assert independence["prompts_read_by_earlier_stages"] == {"sft": 6}
    assert independence["records_without_a_prompt"] == {"sft": 1}
    assert any("seen before" in finding.title for finding in findings(read_run(run.directory)))


def test_a_test_that_is_stopped_goes_on_and_asks_nothing_twice(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = safety(shelf, tmp_path, batch_size=8)
    stages["safety-test"]["costs"]["harm"] = {"part": "test-share-of"}
    whole = certificate(run_stages(tmp_path / "whole", stages).directory)
    asked = StageRun.log_samples

    def stop(self: StageRun, *rows: Any) -> None:
        asked(self, *rows)
        self.run.stopping = True

    monkeypatch.setattr(StageRun, "log_samples", stop)
    with pytest.raises(Interrupted):
        run_stages(tmp_path / "run", stages)
    assert not (tmp_path / "run" / "stages" / "safety-test" / "certificate.json").exists()
    resume(tmp_path / "run", quiet=True)
    assert certificate(tmp_path / "run") == whole


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rollout": {"part": "sample", "n": 2}}, "one answer a prompt"),
        ({"rollout": "greedy-baseline"}, "one answer a prompt"),
        ({"limits": {"x": {"channel": "harn"}}}, r"limit x is on the judge 'harn'.*did you mean 'harm'"),
        ({"costs": {"harm": {"part": "test-share-of", "weight": 0}}}, "weight 0 and is 0 always"),
        ({"model": {"path": "x", "lora": {"rank": 2}}}, "take out `lora`"),
    ],
)
def test_what_does_not_fit_is_told(shelf: Path, tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        tiny_recipe(safety(shelf, tmp_path, **fields))


def test_a_range_that_the_costs_leave_is_told(shelf: Path, tmp_path: Path) -> None:
    bound = {"part": "mean", "method": "hoeffding", "lowest": 0, "highest": 1}
    with pytest.raises(RunError, match=r"limit harm cannot be tested: .*those observed go from -2 to 0.3"):
        run_stages(tmp_path / "run", safety(shelf, tmp_path, limits={"harm": Limit(channel="harm", bound=bound)}))


def test_one_prompt_is_no_test(shelf: Path, tmp_path: Path) -> None:
    prompts = write_records(tmp_path / "one.jsonl", [{"prompt": "a b"}])
    with pytest.raises(RunError, match="two prompts or more"):
        run_stages(tmp_path / "run", safety(shelf, tmp_path, prompts=prompts))
