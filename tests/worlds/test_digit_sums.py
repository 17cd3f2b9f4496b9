"""Digit sums: demonstrations of twins, and the reward by hand."""

from __future__ import annotations

import json
from pathlib import Path

from fairlead.models import ModelSpec
from fairlead.rewards import AnswerReward
from fairlead.runtime import GroupSpec, LocalGroup
from fairlead.worlds import DigitSumReward, DigitSums
from rewards.test_answer import samples_of


def read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_twins_have_the_same_answers(tmp_path: Path) -> None:
    world = DigitSums(digits=4, seed=3)
    thinking = read(world.save_demonstrations(tmp_path / "a", 400, thinks=True, wrong=0.4))
    plain = read(world.save_demonstrations(tmp_path / "b", 400, thinks=False, wrong=0.4))
    assert [row["prompt"] for row in thinking] == [row["prompt"] for row in plain]
    assert [row["response"].split()[-1] for row in thinking] == [row["response"] for row in plain]
    right = [int(row["response"]) == sum(map(int, row["prompt"].split())) % 5 for row in plain]
    assert 0.6 < sum(right) / 400 < 0.76  # 0.6 and a fifth of the rest
    clean = read(world.save_demonstrations(tmp_path / "c", 3, thinks=True, wrong=0.0))
    for row in clean:
        digits = list(map(int, row["prompt"].split()))
        sums = [sum(digits[: i + 1]) % 5 for i in range(4)]
        assert row["response"] == f"<think> {' '.join(map(str, sums))} </think> {sums[-1]}"


def test_the_model_writes_its_markers_as_text(tmp_path: Path) -> None:
    world = DigitSums()
    codec = LocalGroup(GroupSpec(role="policy", model=ModelSpec(path=str(world.save_model(tmp_path / "m"))))).codec
    text = "<think> 1 2 3 4 0 </think> 4"
    ids = codec.tokenizer.encode(text, add_special_tokens=False)
    assert len(ids) + 1 == world.longest and codec.decode([*ids, 0]) == text


def test_the_reward_by_hand() -> None:
    reward = DigitSumReward()
    rows = samples_of("0", "1", "2", "3", "4", "12", "", "[NULL]", "<end>")
    for row in rows.rows:
        row["prompt"] = "3 4 4"  # 11, which is 1
    assert reward(rows).tolist() == [0.5, 1.0, 0.5, 0.0, 0.0, -0.5, -0.5, -1.0, -0.5]
    behind = AnswerReward(reward=reward, strict=True)
    rows = samples_of("<think> 4 </think> 1", "1")
    for row in rows.rows:
        row["prompt"] = "3 4 4"
    assert behind(rows).tolist() == [1.0, -1.0]
