"""Shipped arithmetic, and the pairs of answers of the evidence."""

from __future__ import annotations

import json
from fractions import Fraction
from importlib import resources
from pathlib import Path

import pytest

from fairlead.data import read, to_conversations, to_prompts
from fairlead.worlds.arithmetic import (
    PAIR_KINDS,
    answer_pairs,
    claim,
    judged_with_calculator,
    questions,
    save_questions,
    with_calculator,
)

SHIPPED = Path(str(resources.files("fairlead"))) / "assets" / "arithmetic"


def test_what_is_shipped_is_what_is_generated(tmp_path: Path) -> None:
    save_questions(tmp_path)
    for split, records in zip(("train", "validation"), questions(), strict=True):
        assert (tmp_path / f"{split}.jsonl").read_bytes() == (SHIPPED / f"{split}.jsonl").read_bytes()
        assert f"`fairlead:arithmetic/{split}` ({len(records)}" in (SHIPPED / "README.md").read_text().replace(
            " records", ""
        )
    assert json.dumps(questions()[0][0])


def test_no_question_stands_in_both_sets() -> None:
    train, validation = ({record["prompt"][0]["content"] for record in records} for records in questions())
    assert not train & validation and len(train | validation) == 21 * 21 + 30 + 30


def test_the_records_are_conversations_and_prompts() -> None:
    table = read("fairlead:arithmetic/validation")
    assert len(to_conversations(table)[0]) == len(to_prompts([table])[0]) == len(questions()[1])
    assert all("answer" in record.columns for record in to_prompts([table])[0])


def test_every_demonstration_is_right() -> None:
    pytest.importorskip("math_verify")
    from fairlead.checks.judging import decide

    for record in questions()[1]:
        assert decide(record["response"], [record["answer"]], "reward", True, 1) == 1.0, record


def test_pairs() -> None:
    pairs = answer_pairs(10, 0)
    assert pairs == answer_pairs(10, 0) != answer_pairs(10, 1)
    for kind in PAIR_KINDS:
        right = [pair.right for pair in pairs if pair.kind == kind]
        assert len(right) == 10 and sum(right) == 5


def test_demonstrations_with_a_calculator() -> None:
    records = {record["kind"]: record for record in reversed(questions()[0])}
    for kind in ("sum", "half"):
        made = with_calculator(records[kind])
        call, result, final = made["messages"][1:]
        assert call["content"].startswith("[calc(") and result["role"] == "tool"
        assert final["content"] == f"It is \\boxed{{{result['content']}}}." and "response" not in made
        assert Fraction(result["content"]) == Fraction(records[kind]["answer"])


def test_claims_and_how_a_judge_decides_them() -> None:
    """A claim is right when its label says so, about half of them are, and the demonstration finds the difference."""
    records = [record for record in questions()[0] if record["kind"] != "length"]
    labels = []
    for record in records:
        made, task = judged_with_calculator(record), claim(record)
        call, result, final = made["messages"][1:]
        assert made["messages"][0] == task["prompt"][0] and task["shown"] in task["prompt"][0]["content"]
        assert task["label"] == (Fraction(task["shown"]) == Fraction(record["answer"])) == (result["content"] == "0")
        assert call["content"].endswith(f" - {task['shown']})]")
        assert final["content"] == ("Correct" if task["label"] else "Incorrect")
        labels.append(task["label"])
    assert 0.4 < sum(labels) / len(labels) < 0.6
