"""Prompts that are solved, or out of reach, come again only now and then."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fairlead.data import SeededSampler
from fairlead.stages.revisiting import Revisit
from tiny_models import save_tiny_model
from tiny_runs import PROMPTS, assert_resumes_the_same, logged, run_stages, write_records

RECORDS = [SimpleNamespace(prompt=f"p{number}") for number in range(300)]


class House:
    """All of a stage's run that is asked for."""

    seed = 3

    def keep(self, name: str, thing: Any) -> None:
        assert name == "revisit"


def opened(**fields: Any) -> Revisit:
    revisit = Revisit(channel="right", **fields)
    revisit.open(House(), {"right": None})  # type: ignore[arg-type]
    return revisit


def judged(revisit: Revisit, verdicts: dict[str, list[float]]) -> None:
    rows = [{"prompt": prompt} for prompt, found in verdicts.items() for _ in found]
    channel = torch.tensor([value for found in verdicts.values() for value in found])
    revisit.note(SimpleNamespace(rows=rows, channels={"right": channel}))  # type: ignore[arg-type]


def test_the_shares_of_solved_and_unsolved_prompts_that_come_again() -> None:
    """The sheet's expectation: of 100 solved ones 1, of 100 unsolved ones 10, and all others."""
    revisit, sampler = opened(), SeededSampler(300, 10, 0)
    judged(revisit, {f"p{i}": [1.0, 1.0] if i < 100 else [0.0, 0.0] if i < 200 else [0.0, 1.0] for i in range(300)})
    counts = torch.zeros(3)
    while sampler.position < 60 * 300:
        for record in revisit.choose(RECORDS, sampler):
            counts[int(record.prompt[1:]) // 100] += 1
    assert (counts / 60)[2] == pytest.approx(100, abs=1)
    assert (counts / 60)[:2].tolist() == pytest.approx([1, 10], rel=0.25)


def test_a_prompt_is_what_it_was_last_and_a_failed_judge_says_nothing() -> None:
    revisit, sampler = opened(solved=0.0, unsolved=0.0), SeededSampler(2, 1, 0)
    records = RECORDS[:2]

    def chosen() -> set[str]:
        return {revisit.choose(records, sampler)[0].prompt for _ in range(6)}

    assert chosen() == {"p0", "p1"}
    judged(revisit, {"p0": [1.0, 1.0, float("nan")], "p1": [float("nan")]})
    assert chosen() == {"p1"}
    judged(revisit, {"p0": [1.0, 0.0]})
    assert chosen() == {"p0", "p1"}
    judged(revisit, {"p0": [1.0], "p1": [0.0]})
    assert chosen() == {"p0", "p1"}  # nothing else is left


def test_a_run_with_it_resumes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = {
        "model": str(save_tiny_model(tmp_path / "model")),
        "prompts": write_records(tmp_path / "prompts.jsonl", PROMPTS),
        "rewards": {"short": {"part": "length", "shortest": 0, "longest": 2}},
        "rollout": {"part": "sample", "n": 2, "sampling": {"maximum_tokens": 4}},
        "revisit": {"channel": "short", "right": 1.0, "solved": 0.3, "unsolved": 0.3},
        "credit": "rloo",
        "steps": 6,
        "batch_size": 2,
        "save_every": 2,
    }
    assert_resumes_the_same(tmp_path, monkeypatch, {"online": stage}, stopped_after=3)
    assert logged(tmp_path / "whole")[-1]["prompts_left_out"] > 0


def test_a_channel_that_is_not_there_is_said(tmp_path: Path) -> None:
    stage = {
        "model": str(save_tiny_model(tmp_path / "model")),
        "prompts": write_records(tmp_path / "prompts.jsonl", PROMPTS),
        "rewards": {"short": "length"},
        "credit": "reinforce",
        "revisit": {"channel": "shrot"},
    }
    with pytest.raises(ValueError, match="there is no reward 'shrot'; did you mean 'short'"):
        run_stages(tmp_path / "run", {"online": stage})
