"""Several samplers: whose responses, with which seeds, and what is said of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fairlead.data import PromptRecord, prompts_batch
from fairlead.models import ModelSpec
from fairlead.rollouts import FixedPolicy, SampleRollout, SeveralSamplers
from fairlead.runtime import LocalGroup
from tiny_groups import House
from tiny_models import save_tiny_model

PLAIN = {"maximum_tokens": 6}
WIDE = {"maximum_tokens": 8, "temperature": 1.5}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    folder: Path = save_tiny_model(tmp_path_factory.mktemp("policy"))
    return ModelSpec(path=str(folder))


@pytest.fixture
def policy(model: ModelSpec) -> LocalGroup:
    return House().open("policy", model)


def requests(policy: LocalGroup) -> Any:
    return prompts_batch([PromptRecord(text, {}) for text in ("ab", "c")], policy.codec, 1)


def texts(samples: Any) -> list[str]:
    return [row["response"] for row in samples.rows]


def test_each_sampler_answers_every_prompt(policy: LocalGroup) -> None:
    rollout = SeveralSamplers(samplers=[{"n": 2, "sampling": PLAIN}, {"n": 3, "sampling": WIDE}])
    assert rollout.n == 5 and rollout.maximum_tokens == 8 and rollout.temperature == 1.0
    samples = rollout(policy, requests(policy))
    assert samples.group.tolist() == [0] * 5 + [1] * 5 and len(set(samples.seed.tolist())) == 10
    first = SampleRollout(n=2, sampling=PLAIN)(policy, requests(policy))
    assert [texts(samples)[i] for i in (0, 1, 5, 6)] == texts(first)
    wider = SampleRollout(n=5, sampling=WIDE)(policy, requests(policy))
    assert [texts(samples)[i] for i in (2, 3, 4, 7, 8, 9)] == [texts(wider)[i] for i in (2, 3, 4, 7, 8, 9)]
    assert rollout.logprobs(samples) is None and not rollout.beside_policy


def test_another_checkpoint_and_a_policy_of_the_past(policy: LocalGroup, model: ModelSpec) -> None:
    first = {name: tensor.clone() for name, tensor in policy.weights().items()}
    rollout = SeveralSamplers(
        samplers=[
            {"n": 1, "sampling": PLAIN},
            {"n": 2, "sampling": PLAIN, "who": {"part": "model", "model": model.path}},
            {"n": 1, "sampling": PLAIN, "who": {"part": "past", "every": 1, "most": 1}},
        ]
    )
    assert rollout.beside_policy and not rollout.needs_reference
    rollout.open(House(), model, None)
    before = rollout(policy, requests(policy))
    policy.load_weights({name: tensor * 1.5 for name, tensor in first.items()})
    moved = rollout(policy, requests(policy))
    stands = [texts(before)[i] == texts(moved)[i] for i in range(8)]
    assert stands[1:4] == stands[5:8] == [True] * 3 and not (stands[0] and stands[4])
    rollout.learned(policy)  # the policy of now is the newest one of the past
    policy.load_weights(first)
    again = rollout(policy, requests(policy))
    assert [texts(again)[i] for i in (1, 2, 5, 6)] == [texts(before)[i] for i in (1, 2, 5, 6)]
    assert [texts(again)[i] for i in (3, 7)] != [texts(before)[i] for i in (3, 7)]


def test_the_policy_comes_first() -> None:
    with pytest.raises(ValidationError, match="the first sampler is the policy itself"):
        SeveralSamplers(samplers=[{"who": {"part": "ema"}}, {}])


def test_a_model_with_other_tokens(policy: LocalGroup, tmp_path: Path) -> None:
    other = FixedPolicy(model=str(save_tiny_model(tmp_path, tokenizer="words")))
    other.open(House(), ModelSpec(path="unused"), None)
    with pytest.raises(ValueError, match="has other tokens than the policy"):
        other(policy, requests(policy), SampleRollout(sampling=PLAIN).sampling)
