"""A baseline answer beside the samples, and rollouts of tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from fairlead.batch import Samples
from fairlead.data import PromptRecord, prompts_batch
from fairlead.models import ModelSpec
from fairlead.rollouts import RolloutByTask, SampleRollout, WithBaseline
from fairlead.runtime import GroupSpec, LocalGroup
from tiny_models import save_tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def policy(folder: Path) -> LocalGroup:
    return LocalGroup(GroupSpec(role="policy", model=ModelSpec(path=str(folder))))


class Opens:
    """Stands for the run of a stage."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def open(self, role: str, model: ModelSpec, kind: Any = "causal") -> LocalGroup:
        self.asked.append((role, model.path))
        return LocalGroup(GroupSpec(role=role, model=model))


def draw(part: Any, policy: LocalGroup, texts: tuple[str, ...] = ("ab", "c"), seed: int = 1) -> Samples:
    records = [PromptRecord(text, {"task": text, "golden": f"{text}!"}) for text in texts]
    made: Samples = part(policy, prompts_batch(records, policy.codec, seed))
    return made


def test_the_column_as_a_baseline(policy: LocalGroup) -> None:
    part = WithBaseline(n=2, column="golden", sampling={"maximum_tokens": 6})
    samples = draw(part, policy)
    assert samples.anchor is not None and samples.anchor.tolist() == [False, False, True] * 2
    assert samples.group.tolist() == [0, 0, 0, 1, 1, 1]
    assert [samples.rows[row]["response"] for row in (2, 5)] == ["ab!", "c!"] and not samples.truncated[2]
    assert samples.tokens[5][samples.mask[5]].tolist() == policy.codec.encode_response("c!", "c")
    torch.testing.assert_close(samples.logprobs, policy.token_logprobs(samples), rtol=1e-4, atol=1e-5)
    plain = draw(SampleRollout(n=2, sampling={"maximum_tokens": 6}), policy)
    assert [samples.rows[row]["response"] for row in (0, 1)] == [plain.rows[row]["response"] for row in (0, 1)]


def test_a_long_baseline_is_cut_as_a_sample_would_be(policy: LocalGroup) -> None:
    samples = draw(WithBaseline(column="golden", sampling={"maximum_tokens": 2}), policy)
    assert samples.rows[1]["response"] == "ab" and bool(samples.truncated[1])


def test_a_column_that_is_not_there_is_told(policy: LocalGroup) -> None:
    with pytest.raises(ValueError, match="from the column 'gold'"):
        draw(WithBaseline(column="gold"), policy)


def test_the_baseline_is_drawn_once_from_the_policy_as_it_begins(policy: LocalGroup, folder: Path) -> None:
    part, run = WithBaseline(n=1, sampling={"maximum_tokens": 6}), Opens()
    part.open(run, ModelSpec(path=str(folder)), None)
    assert run.asked == [("baseline", str(folder))]
    first, later = draw(part, policy, seed=1), draw(part, policy, ("c", "d", "ab"), seed=9)
    assert first.rows[1]["response"] == later.rows[5]["response"]
    assert first.rows[3]["response"] == later.rows[1]["response"]
    fresh = WithBaseline(n=1, sampling={"maximum_tokens": 6})  # as after a resumption
    fresh.open(run, ModelSpec(path=str(folder)), None)
    again = draw(fresh, policy, ("d",), seed=5)
    assert again.rows[1]["response"] == later.rows[3]["response"]
    other = WithBaseline(model="elsewhere")
    with pytest.raises(Exception, match="elsewhere"):
        other.open(run, ModelSpec(path=str(folder)), None)
    assert run.asked[-1] == ("baseline", "elsewhere")


def test_every_task_has_as_many_samples_as_its_rollout_draws(policy: LocalGroup) -> None:
    hard = {"part": "sample", "n": 3, "sampling": {"maximum_tokens": 6}}
    part = RolloutByTask(tasks={"c": hard}, others={"part": "sample", "sampling": {"maximum_tokens": 3}})
    samples = draw(part, policy, ("ab", "c", "d"))
    assert samples.group.tolist() == [0, 1, 1, 1, 2]
    assert (part.n, part.maximum_tokens, part.temperature, part.draws_anchor) == (1, 6, 1.0, False)
    found = part.logprobs(samples)
    assert found is not None and torch.equal(found, samples.sampling_logprobs)
    assert draw(SampleRollout(n=3, sampling={"maximum_tokens": 6}), policy, ("c",)).tokens.shape[1] <= 6
    with pytest.raises(ValidationError, match="one temperature"):
        RolloutByTask(tasks={"a": "sample", "b": {"part": "sample", "sampling": {"temperature": 0.5}}})
    with pytest.raises(ValidationError, match="or none does"):
        RolloutByTask(tasks={"a": "sample", "b": "with-baseline"})


def test_tasks_open_what_they_need(folder: Path) -> None:
    run = Opens()
    RolloutByTask(tasks={"a": "with-baseline"}, others="with-baseline").open(run, ModelSpec(path=str(folder)), None)
    assert len(run.asked) == 2
