"""Rollouts: groups, seeds, settings of the sampler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from fairlead.data import PromptRecord, prompts_batch
from fairlead.models import ModelSpec
from fairlead.rollouts import GreedyBaseline, LookaheadTree, SampleRollout, ThinkRollout
from fairlead.runtime import GroupSpec, LocalGroup
from tiny_models import save_tiny_model


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> LocalGroup:
    folder: Path = save_tiny_model(tmp_path_factory.mktemp("policy"))
    return LocalGroup(GroupSpec(role="policy", model=ModelSpec(path=str(folder))))


def draw(policy: LocalGroup, texts: tuple[str, ...] = ("ab", "c"), seed: int = 1, **fields: Any) -> Any:
    prompts = prompts_batch([PromptRecord(text, {"kind": text}) for text in texts], policy.codec, seed)
    sampling = {"maximum_tokens": 6} | fields.pop("sampling", {})
    return SampleRollout(sampling=sampling, **fields)(policy, prompts)


def test_samples_of_a_prompt_are_neighbours_and_differ(policy: LocalGroup) -> None:
    samples = draw(policy, n=3)
    assert samples.group.tolist() == [0, 0, 0, 1, 1, 1]
    assert len(set(samples.seed.tolist())) == 6
    texts = [row["response"] for row in samples.rows]
    assert len(set(texts)) > 2
    assert [row["kind"] for row in samples.rows] == ["ab"] * 3 + ["c"] * 3


def test_a_sample_depends_on_its_prompt_and_seed_only(policy: LocalGroup) -> None:
    three, one = draw(policy, n=3), draw(policy, n=1)
    assert torch.equal(three.tokens[0][three.mask[0]], one.tokens[0][one.mask[0]])
    assert three.rows[3]["response"] == one.rows[1]["response"]
    again, other = draw(policy, n=3), draw(policy, n=3, seed=2)
    assert torch.equal(three.tokens, again.tokens) and not torch.equal(three.seed, other.seed)


def test_the_temperature_of_training(policy: LocalGroup) -> None:
    assert SampleRollout(sampling={"temperature": 0.7}).temperature == 0.7
    assert SampleRollout(sampling={"temperature": 0}).temperature == 1.0
    greedy = draw(policy, n=2, sampling={"temperature": 0})
    assert greedy.rows[0]["response"] == greedy.rows[1]["response"]


def test_the_limit(policy: LocalGroup) -> None:
    samples = draw(policy, n=4, sampling={"maximum_tokens": 2, "minimum_tokens": 2})
    assert samples.tokens.shape[1] == 2 and samples.truncated.all()


def test_a_greedy_response_behind_the_samples_of_its_prompt(policy: LocalGroup) -> None:
    prompts = prompts_batch([PromptRecord(text, {}) for text in ("ab", "c")], policy.codec, 1)
    settings = {"maximum_tokens": 6, "temperature": 0.8, "top_k": 5}
    samples = GreedyBaseline(n=2, sampling=settings)(policy, prompts)
    assert samples.group.tolist() == [0, 0, 0, 1, 1, 1]
    assert samples.anchor.tolist() == [False, False, True] * 2
    alone = SampleRollout(n=2, sampling=settings)(policy, prompts)
    best = SampleRollout(sampling={"maximum_tokens": 6, "temperature": 0})(policy, prompts)
    texts = [row["response"] for row in samples.rows]
    assert [texts[i] for i in (0, 1, 3, 4)] == [row["response"] for row in alone.rows]
    assert [texts[i] for i in (2, 5)] == [row["response"] for row in best.rows]


def grow(
    policy: LocalGroup, step: int, texts: tuple[str, ...] = ("ab", "c"), **fields: Any
) -> tuple[LookaheadTree, Any]:
    prompts = prompts_batch([PromptRecord(text, {}) for text in texts], policy.codec, 1)
    tree = {"least_probability": 0.0, "largest_gap": 1.0, "lookahead": [2], "longest": 4}
    rollout = LookaheadTree(**({"n": 4, "tree": tree, "sampling": {"maximum_tokens": 6}} | fields))
    rollout.at_step(step)
    return rollout, rollout(policy, prompts)


def test_the_schedule_of_countdown() -> None:
    rollout = LookaheadTree(n=8)
    widths = {}
    for step in (0, 9, 10, 20, 79, 80, 200, 1000):
        rollout.at_step(step)
        widths[step] = rollout.width
    assert widths == {0: 8, 9: 8, 10: 6, 20: 4, 79: 4, 80: 2, 200: 0, 1000: 0}
    for schedule in ({10: 1.0}, {0: 1.0, -1: 0.5}, {0: 1.5}):
        with pytest.raises(ValidationError):
            LookaheadTree(schedule=schedule)


def test_a_share_of_nothing_is_plain_sampling(policy: LocalGroup) -> None:
    rollout, samples = grow(policy, 5, schedule={0: 1.0, 5: 0.0})
    assert torch.equal(samples.tokens, draw(policy, n=4).tokens)
    assert rollout.metrics() == {"tree_share": 0.0}


def test_branches_and_independent_samples_of_a_prompt_are_neighbours(policy: LocalGroup) -> None:
    rollout, samples = grow(policy, 1, schedule={0: 0.5})
    assert samples.group.tolist() == [0] * 4 + [1] * 4 and samples.extras is None
    alone = draw(policy, n=4)
    for rows in ([2, 3], [6, 7]):
        assert [samples.rows[i]["response"] for i in rows] == [alone.rows[i]["response"] for i in rows]
    for first in (0, 4):
        assert not torch.equal(samples.tokens[first], samples.tokens[first + 1])
    metrics = rollout.metrics()
    assert metrics["tree_share"] == 0.5 and metrics["saturation_length"] == 3.0  # two branches, older than 2
    assert metrics["branching_ratio"] == pytest.approx(2 / 12) and metrics["empty_ratio"] == 0.0


def test_the_whole_group_as_a_tree(policy: LocalGroup) -> None:
    rollout, samples = grow(policy, 1)
    assert len({tuple(row) for row in samples.tokens[:4, :3].tolist()}) == 4
    assert rollout.metrics()["tree_share"] == 1.0 and samples.seed.tolist() == draw(policy, n=4).seed.tolist()
    assert rollout.logprobs(samples) is not None


@pytest.mark.parametrize(
    ("tree", "moves", "threshold"),
    [
        ({"least_probability": 0.0, "largest_gap": 1.0}, 1, 0.01),  # every token branches, most find no place
        ({"least_probability": 0.9, "largest_gap": 0.0}, -1, 0.89),  # none does
    ],
)
def test_thresholds_follow_the_trees(policy: LocalGroup, tree: dict[str, float], moves: int, threshold: float) -> None:
    shape = {"lookahead": [2], "longest": 4}
    rollout, _ = grow(policy, 1, tree=tree | shape, adaptive={"most": 1})
    assert rollout.metrics()["least_probability"] == tree["least_probability"]
    for _ in range(2):  # no further than `most`
        rollout.learned(policy)
        assert rollout.state_dict() == {"moves": moves}
        assert rollout.metrics()["least_probability"] == pytest.approx(threshold)
    resumed = LookaheadTree(n=4, tree=tree | shape, adaptive={})
    resumed.load_state_dict(rollout.state_dict())
    assert resumed.state_dict() == rollout.state_dict()


def test_thresholds_stay_unless_they_are_told_to_move(policy: LocalGroup) -> None:
    rollout, _ = grow(policy, 1)
    rollout.learned(policy)
    assert rollout.state_dict() == {"moves": 0} and "least_probability" not in rollout.metrics()


def think(policy: LocalGroup, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> tuple[ThinkRollout, Any]:
    """What the policy would have drawn, with delimiters written into three of four responses."""
    prompts = prompts_batch([PromptRecord(text, {}) for text in ("ab", "c")], policy.codec, 1)
    drawn = SampleRollout(n=2, sampling={"maximum_tokens": 12, "minimum_tokens": 12})(policy, prompts)
    mark = policy.codec.tokenizer.encode("</t>", add_special_tokens=False)
    assert len(mark) == 4  # a byte a token
    for row, place in ((0, 3), (1, 0), (3, 8)):
        drawn.tokens[row, place : place + 4] = torch.tensor(mark)
    monkeypatch.setattr(policy, "generate", lambda prompts, sampling: drawn)
    rollout = ThinkRollout(n=2, delimiter="</t>", **fields)
    return rollout, rollout(policy, prompts)


def test_thoughts_are_told_from_answers(policy: LocalGroup, monkeypatch: pytest.MonkeyPatch) -> None:
    rollout, samples = think(policy, monkeypatch)
    assert samples.mask.all() and samples.present is None
    assert rollout.metrics() == {
        "thought_length": pytest.approx((7 + 4 + 12) / 3),
        "answer_length": pytest.approx((5 + 8 + 0) / 3),
        "without_answer": 0.25,
    }


def test_answers_alone_may_be_learned(policy: LocalGroup, monkeypatch: pytest.MonkeyPatch) -> None:
    _, samples = think(policy, monkeypatch, learn="answer")
    assert samples.mask.sum(1).tolist() == [5, 8, 12, 0] and samples.present.all()
    assert samples.mask[0].tolist() == [False] * 7 + [True] * 5
    assert not samples.logprobs[~samples.mask].any() and not samples.sampling_logprobs[~samples.mask].any()
