"""Drills: tasks and their reward by hand."""

from __future__ import annotations

import json
from pathlib import Path

from fairlead.worlds import DrillReward, Drills
from rewards.test_answer import samples_of


def read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_tasks_of_three_domains(tmp_path: Path) -> None:
    tasks = {row["prompt"]: row for row in read(Drills().save_tasks(tmp_path / "tasks"))}
    assert len(tasks) == 75
    assert tasks["repeat 3 4"] == {"kind": "repeat", "prompt": "repeat 3 4", "response": "3 3 3 3 3 3"}
    assert tasks["add 3 4"]["response"] == "2 2 2 2 2 2"
    assert tasks["count 3 4"]["response"] == "4 0 1 2 3 4"


def test_the_reward_counts_tokens_in_their_places() -> None:
    rows = samples_of("4 0 1 2 3 4", "4 0 1", "4 1 1 2 3 4", "4 0 1 2 3 4 0 0", "")
    for row in rows.rows:
        row["prompt"] = "count 3 4"
    assert [round(value, 4) for value in DrillReward()(rows).tolist()] == [1.0, 0.5, 0.8333, 0.75, 0.0]


def test_weak_demonstrations(tmp_path: Path) -> None:
    """A share is right, and of the rest every fifth token by chance: 0.3 + 0.7 / 5."""
    rows = read(Drills(seed=1).save_tasks(tmp_path / "weak", copies=20, right=0.3))
    samples = samples_of(*(row["response"] for row in rows))
    for sample, row in zip(samples.rows, rows, strict=True):
        sample["prompt"] = row["prompt"]
    assert abs(float(DrillReward()(samples).mean()) - 0.44) < 0.02
