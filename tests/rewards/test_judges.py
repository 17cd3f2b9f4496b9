"""Judges that must all be satisfied, and a reward for each task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fairlead.batch import Samples, row_table
from fairlead.rewards import Judges, Reward, RewardByTask
from fairlead.worlds import TokenWorld
from tiny_runs import Cycle


class Down(Reward, name="down-for-judges"):
    """Answers once, then fails.

    Source: none; it exists for tests.
    """

    def __call__(self, samples: Samples) -> Tensor:
        if self._answered:
            raise ConnectionError("down")
        return torch.ones(len(samples))


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    """Four responses of the token world, the last of them cut."""
    world = TokenWorld(symbols=2, maximum_tokens=2, prompts=1)
    rows: Samples = world.batch[torch.tensor([0, 1, 2, 3])]
    tasks = [{**row, "task": task} for row, task in zip(rows.rows, ("math", "chat", "math", "chat"), strict=True)]
    return rows.replace(rows=row_table(tasks), truncated=torch.tensor([False, False, False, True]))


def judges(**fields: Any) -> Judges:
    said = {
        "format": {"reward": {"part": "test-cycle", "values": [1.0, 1.0, 0.5, 1.0]}},
        "polite": {"reward": {"part": "test-cycle", "values": [0.3, None, 0.3, 0.3]}, "threshold": 0.2},
    }
    return Judges(judges=said, **fields)


def test_every_judge_must_be_satisfied_and_a_failure_is_no_satisfaction(samples: Samples) -> None:
    part = judges()
    assert part(samples).tolist() == [1, 0, 0, 0]
    found = part.metrics()
    assert found["violation/format"] == found["violation/polite"] == found["failed/polite"] == 0.25
    assert found["violation/truncated"] == 0.25 and found["format/asked"] == 1
    assert judges(whole=False)(samples).tolist() == [1, 0, 0, 1]


def test_a_judge_that_is_down_satisfies_nobody(samples: Samples) -> None:
    part = Judges(judges={"down": {"reward": Down(), "threshold": -9.0}}, whole=False)
    assert part(samples).tolist() == [1] * 4 and part(samples).tolist() == [0] * 4


def test_the_weight_turns_a_cost_into_a_verdict(samples: Samples) -> None:
    cost = {"part": "test-cycle", "values": [0.1, 0.9], "weight": -1}
    part = Judges(judges={"cost": {"reward": cost, "threshold": -0.5}}, whole=False)
    assert part(samples).tolist() == [1, 0, 1, 0]


def test_a_reward_for_each_task(samples: Samples) -> None:
    part = RewardByTask(tasks={"math": Cycle(values=[1.0, 2.0])}, others=Cycle(values=[5.0, 6.0], weight=-1))
    assert part(samples).tolist() == [1, -5, 2, -6]
    assert part.metrics() == {"math/asked": 1, "math/mean": 1.5, "others/asked": 1, "others/mean": -5.5}
    with pytest.raises(ValueError, match="the task 'chat' is not named"):
        RewardByTask(tasks={"math": Cycle(values=[1.0])})(samples)


def test_what_is_inside_is_opened_and_told(samples: Samples, tmp_path: Path) -> None:
    opened, begun = [], []

    class Told(Reward, name="told-for-judges"):
        """Remembers what it is told.

        Source: none; it exists for tests.
        """

        def open(self, run: Any, name: str) -> None:
            opened.append(name)

        def begin(self, row: dict[str, Any]) -> None:
            begun.append(row["task"])

        def __call__(self, samples: Samples) -> Tensor:
            return torch.ones(len(samples))

    inner = Judges(judges={"one": {"reward": Told()}})
    part = RewardByTask(tasks={"math": inner}, others=Told())
    part.open(None, "feasible")  # type: ignore[arg-type]
    for row in samples.rows:
        part.begin(row)
    assert opened == ["feasible-math-one", "feasible-others"] and begun == ["math", "chat", "math", "chat"]
