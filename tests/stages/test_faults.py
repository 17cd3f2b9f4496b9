"""Faults of online learning: each is counted and warned of, none ends the run or reaches the weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import Field, PrivateAttr

from fairlead.batch import Experience, Prompts, Samples, row_table
from fairlead.credit import Credit
from fairlead.data import DataError
from fairlead.rollouts import SampleRollout
from fairlead.runs import read_json_lines
from fairlead.runtime import ModelGroup
from fairlead.worlds import FlawedReward
from tiny_runs import exported, logged, run_stages, tiny_recipe, write_records


def online(shelf: Path, **fields: Any) -> dict[str, Any]:
    stage: dict[str, Any] = {
        "model": str(shelf / "world"),
        "prompts": str(shelf / "world.jsonl"),
        "rewards": {"share": {"part": "test-share-of"}},
        "steps": 3,
        "batch_size": 3,
        "rollout": {"part": "sample", "n": 2, "sampling": {"maximum_tokens": 4}},
        "optimiser": {"learning_rate": 1e-3},
        "credit": "rloo",
    }
    return {"online": stage | fields}


def warned(directory: Path) -> dict[str, int]:
    """Detector → the step of its first warning."""
    found: dict[str, int] = {}
    for row in read_json_lines(directory / "warnings.jsonl"):
        found.setdefault(row["detector"], row["step"])
    return found


def finite(directory: Path) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in exported(directory, "online").values())


class Overflow(Credit, name="test-overflow"):
    """Advantages that are no numbers in one step.

    Source: none; it exists for tests.
    """

    bad: float = Field(description="what they are then")
    _calls: int = PrivateAttr(0)

    def __call__(self, experience: Experience) -> Experience:
        self._calls += 1
        value = self.bad if self._calls == 2 else 1.0
        advantages = torch.where(experience.mask, value, 0.0)
        return experience.replace(advantages=advantages, returns=advantages)


class OverflowWithCritic(Overflow, name="test-overflow-critic"):
    """The same with returns for a critic.

    Source: none; it exists for tests.
    """

    needs_values = True


class Silence(SampleRollout, name="test-silence"):
    """Responses that end at once, or (`width` 0) have no token at all.

    Source: none; it exists for tests.
    """

    width: int = Field(1, description="tokens of a response")

    def __call__(self, policy: ModelGroup, prompts: Prompts) -> Samples:
        samples = super().__call__(policy, prompts)
        mask = torch.zeros_like(samples.mask)
        mask[:, : self.width] = True
        return samples.replace(
            tokens=torch.zeros_like(samples.tokens),
            mask=mask,
            truncated=torch.zeros_like(samples.truncated),
            rows=row_table([{**row, "response": ""} for row in samples.rows]),
        )


@pytest.mark.parametrize("fault", ["raise", "nan", "infinite"])
def test_a_judge_that_goes_down_or_names_no_number(shelf: Path, tmp_path: Path, fault: str) -> None:
    """Every row of the step is left out, counted and warned of; the run goes on, and other rewards stay as they are."""
    rewards = {"share": {"part": "test-share-of"}, "judge": {"part": "flawed", "breaks_after": 1, "fault": fault}}
    monitors = {"watching": {"part": "flawed", "breaks_after": 1, "fault": fault}}
    run = run_stages(tmp_path / "run", online(shelf, rewards=rewards, monitors=monitors, monitor_every=1))
    rows = logged(run.directory, "online")
    assert [row["failed/judge"] for row in rows] == [0, 1, 1] and {row["failed/share"] for row in rows} == {0}
    assert [row["counted_rows"] for row in rows] == [1, 0, 0]
    assert [math.isnan(row["monitor/watching"]) for row in rows] == [False, True, True]
    assert warned(run.directory)["missing-verdicts"] == 2 and finite(run.directory)


def test_a_reward_that_never_worked_is_a_mistake_of_the_recipe(shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match="the judge is down"):
        run_stages(
            tmp_path / "run", online(shelf, rewards={"judge": {"part": "flawed", "breaks_after": 0, "fault": "raise"}})
        )


def test_a_reward_of_another_shape_is_refused(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FlawedReward, "__call__", lambda self, samples: torch.zeros(len(samples), 1))
    with pytest.raises(ValueError, match=r"must return one number for each of 6 responses; its shape is \(6, 1\)"):
        run_stages(tmp_path / "run", online(shelf, rewards={"judge": {"part": "flawed"}}))


def test_a_function_that_never_returns(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "waiting.py").write_text(
        "import time\n"
        "def judge(prompt, response, forever):\n"
        "    if prompt == forever:\n"
        "        time.sleep(3600)\n"
        "    return float(len(response))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    forever = json.loads((shelf / "world.jsonl").read_text().splitlines()[0])["prompt"]
    function = {"part": "function", "function": "waiting:judge", "workers": 2, "timeout": 2.0}
    rewards = {"judge": function | {"arguments": {"forever": forever}}}
    run = run_stages(tmp_path / "run", online(shelf, rewards=rewards, steps=1))
    row = logged(run.directory, "online")[0]
    assert row["reward/judge/timeouts"] == 2 and row["failed/judge"] == pytest.approx(1 / 3)
    assert warned(run.directory) == {"missing-verdicts": 1} and finite(run.directory)


def test_all_samples_of_a_group_are_equal(shelf: Path, tmp_path: Path) -> None:
    rewards = {"judge": {"part": "test-cycle", "values": [0.25]}}
    stages = online(shelf, rewards=rewards, regulariser={"part": "kl", "coefficient": 0}, steps=5)
    run = run_stages(tmp_path / "run", stages)
    assert {row["zero_advantages"] for row in logged(run.directory, "online")} == {1}
    assert warned(run.directory) == {"dead-gradients": 5} and finite(run.directory)


@pytest.mark.parametrize("width", [1, 0])
def test_empty_responses(shelf: Path, tmp_path: Path, width: int) -> None:
    """One that ends at once is judged as any other; one without a token has nothing to learn from."""
    rollout = {"part": "test-silence", "n": 2, "width": width, "sampling": {"maximum_tokens": 4}}
    run = run_stages(tmp_path / "run", online(shelf, rollout=rollout))
    for row in logged(run.directory, "online"):
        assert row["empty"] == 1 and row["length"] == width and row["counted_rows"] == width
    assert warned(run.directory)["empty-responses"] == 3 and finite(run.directory)


def test_every_response_is_truncated(shelf: Path, tmp_path: Path) -> None:
    rollout = {"part": "sample", "n": 2, "sampling": {"maximum_tokens": 3, "minimum_tokens": 3}}
    run = run_stages(tmp_path / "run", online(shelf, rollout=rollout))
    assert {row["truncated"] for row in logged(run.directory, "online")} == {1}
    assert warned(run.directory) == {"truncation": 3} and finite(run.directory)


def test_prompts_longer_than_the_context(shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The context holds 32 tokens, four of them for the response: 28 are left."""
    texts = ["a b", " ".join("ab" * 14), " ".join("ab" * 14 + "c")]
    prompts = write_records(tmp_path / "long.jsonl", [{"prompt": text} for text in texts])
    run = run_stages(tmp_path / "a", online(shelf, prompts=prompts), quiet=False)
    assert "kept 2 of 3; dropped 1: 1 prompt over 28 tokens" in capsys.readouterr().out
    assert {row["prompt"] for row in read_json_lines(run.directory / "samples.jsonl")} <= set(texts[:2])
    cut = run_stages(tmp_path / "b", online(shelf, prompts=prompts, maximum_prompt=100), quiet=False)
    assert "1 prompt cut to its last 28 tokens" in capsys.readouterr().out
    assert len(logged(cut.directory, "online")) == 3
    alone = write_records(tmp_path / "alone.jsonl", [{"prompt": texts[2]}])
    with pytest.raises(DataError, match="a source has no prompt of at most 28 tokens"):
        run_stages(tmp_path / "c", online(shelf, prompts=[prompts, alone]))
    wide = {"part": "sample", "n": 2, "sampling": {"maximum_tokens": 32}}
    with pytest.raises(DataError, match="no room for a prompt beside a response of 32"):
        run_stages(tmp_path / "d", online(shelf, prompts=prompts, rollout=wide))


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e38])
@pytest.mark.parametrize("critic", [False, True])
def test_a_gradient_that_is_not_finite(shelf: Path, tmp_path: Path, bad: float, critic: bool) -> None:
    """The optimiser step is left out and counted; the next one is taken as if nothing had been."""
    credit = {"part": "test-overflow-critic" if critic else "test-overflow", "bad": bad}
    run = run_stages(tmp_path / "run", online(shelf, credit=credit))
    rows = logged(run.directory, "online")
    assert [row["policy/skipped_steps"] for row in rows] == [0, 1, 0]
    if critic:
        assert [row["critic/skipped_steps"] for row in rows] == [0, 1, 0]
    assert warned(run.directory)["skipped-steps"] == 2 and finite(run.directory)
    assert math.isfinite(rows[2]["policy/loss"]) and rows[2]["policy/gradient_norm"] > 0


def test_a_detector_that_is_off_says_nothing(shelf: Path, tmp_path: Path) -> None:
    stages = online(shelf, credit={"part": "test-overflow", "bad": math.nan}, detectors={"skipped-steps": None})
    run = run_stages(tmp_path / "run", stages)
    assert "skipped-steps" not in warned(run.directory)
    with pytest.raises(ValueError, match=r"unknown detector part 'trehshold'; did you mean 'threshold'"):
        tiny_recipe(online(shelf, detectors={"own": {"part": "trehshold"}}))
