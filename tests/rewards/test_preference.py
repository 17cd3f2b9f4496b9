"""A language model as the judge of pairs: what it is taught from, and what it is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fairlead.data import comparison, comparisons, responses_batch
from fairlead.models import ModelSpec
from fairlead.rewards import ModelOracle, QuestionReward
from fairlead.runtime import GroupSpec, LocalGroup
from tiny_models import save_tiny_model
from tiny_runs import run_stages, write_records

RANKED = {
    "prompt": [{"role": "user", "content": "hi"}],
    "responses": [{"id": name, "text": name * 2} for name in "abc"],
    "choices": [{"annotator": "x", "ranking": [["a"], ["b", "c"]]}],
}


class House:
    """Opens groups as a run does."""

    def open(self, role: str, model: ModelSpec, kind: Any = "causal") -> LocalGroup:
        return LocalGroup(GroupSpec(role=role, model=model, kind=kind))


def test_pairs_become_questions_in_both_orders() -> None:
    pair = {"prompt": "hi", "chosen": "yes", "rejected": "no"}
    assert comparisons(pair) == [
        {"prompt": comparison("hi", "yes", "no"), "response": "A"},
        {"prompt": comparison("hi", "no", "yes"), "response": "B"},
    ]
    assert comparison("hi", "yes", "no") == [
        {"role": "user", "content": "hi\n\nA: yes\n\nB: no\n\nWhich answer is better, A or B?"}
    ]


def test_of_ranked_feedback_ties_are_left_out() -> None:
    asked = [(row["prompt"][0]["content"].split("\n\n")[1:3], row["response"]) for row in comparisons(RANKED)]
    assert asked == [
        (["A: aa", "B: bb"], "A"),
        (["A: bb", "B: aa"], "B"),
        (["A: aa", "B: cc"], "A"),
        (["A: cc", "B: aa"], "B"),
    ]


def samples_of(group: LocalGroup, texts: list[str]) -> Any:
    rows = [{"prompt": "hi", "response": text} for text in texts]
    return responses_batch(["hi"] * len(texts), texts, group.codec, rows)


def test_a_judge_that_was_taught_a_circle(tmp_path: Path) -> None:
    """a beats b, b beats c, c beats a: no score says so, a model of pairs does; the two orders add up to one."""
    pairs = [{"prompt": "hi", "chosen": a, "rejected": b} for a, b in ("ab", "bc", "ca")]
    teach = {
        "model": str(save_tiny_model(tmp_path / "tiny")),
        "data": {
            "path": write_records(tmp_path / "pairs.jsonl", pairs),
            "transform": "fairlead.data:comparisons",
        },
        "learn": "last",
        "packed": False,
        "maximum_length": 128,
        "steps": 120,
        "batch_size": 6,
        "optimiser": {"learning_rate": 5e-3},
    }
    run = run_stages(tmp_path / "run", {"sft": teach})
    oracle = ModelOracle(model={"path": str(run.directory / "stages" / "sft" / "model")})
    oracle.open(House(), "judge")
    assert oracle._group is not None
    samples = samples_of(oracle._group, ["a", "b", "c"])
    first, second = torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0])
    wins = oracle(samples, first, second)
    assert wins.min() > 0.8
    assert (wins + oracle(samples, second, first)).tolist() == pytest.approx([1, 1, 1])


def test_what_the_judge_is_asked(tmp_path: Path) -> None:
    oracle = ModelOracle(model={"path": str(save_tiny_model(tmp_path))})
    oracle.open(House(), "judge")
    group = oracle._group
    assert group is not None
    found = oracle.prefers(samples_of(group, ["x", "yy"]), torch.tensor([0]), torch.tensor([1]))
    batch = responses_batch([comparison("hi", "x", "yy")] * 2, ["A", "B"], group.codec)
    share = group.token_logprobs(batch).sum(1).softmax(0)[0]
    assert found.tolist() == pytest.approx([float(share)])


def test_a_question_about_the_response(tmp_path: Path) -> None:
    reward = QuestionReward(
        model={"path": str(save_tiny_model(tmp_path))}, question="To {prompt}: is {response} right?"
    )
    reward.open(House(), "judge")
    group = reward._group
    assert group is not None
    found = reward(samples_of(group, ["x", "yy"]))
    asked = [[{"role": "user", "content": f"To hi: is {response} right?"}] for response in ("x", "yy") for _ in "ab"]
    both = group.token_logprobs(responses_batch(asked, ["yes", "no"] * 2, group.codec)).sum(1).reshape(2, 2)
    assert found.tolist() == pytest.approx(both.softmax(1)[:, 0].tolist())
    with pytest.raises(ValueError, match="it needs 'answer', and a record has"):
        QuestionReward(model="m", question="{answer}?")._question({"prompt": "hi", "response": "x"})
