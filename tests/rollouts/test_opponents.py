"""Opponents: who they are, what they keep, and that a rollout marks their responses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fairlead.data import PromptRecord, prompts_batch
from fairlead.generation import Sampling
from fairlead.models import LoraSpec, ModelSpec
from fairlead.rollouts import AgainstOpponent, AveragedPolicy, MixedPolicy, PastPolicy, SampleRollout
from fairlead.runtime import LocalGroup, Mixture
from tiny_groups import House
from tiny_models import save_tiny_model

SAMPLING = Sampling(maximum_tokens=6)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    folder: Path = save_tiny_model(tmp_path_factory.mktemp("policy"))
    return ModelSpec(path=str(folder))


@pytest.fixture
def policy(model: ModelSpec) -> LocalGroup:
    return House().open("policy", model)


def moved(policy: LocalGroup, by: float = 0.5) -> LocalGroup:
    """The same group with other weights."""
    policy.load_weights({name: tensor + by * tensor.abs() for name, tensor in policy.weights().items()})
    return policy


def requests(policy: LocalGroup, texts: tuple[str, ...] = ("ab", "c")) -> Any:
    return prompts_batch([PromptRecord(text, {}) for text in texts], policy.codec, 1)


def texts(samples: Any) -> list[str]:
    return [row["response"] for row in samples.rows]


def test_the_opponents_responses_are_marked(policy: LocalGroup) -> None:
    """Self-play: other seeds than the policy's own, so that nobody is compared with what it says itself."""
    rollout = AgainstOpponent(n=2, opponent_n=3, opponent={"part": "mixture", "share": 0.0}, sampling=SAMPLING)
    samples = rollout(policy, requests(policy))
    assert samples.anchor.tolist() == [False, False, True, True, True] * 2
    assert samples.group.tolist() == [0] * 5 + [1] * 5
    assert len(set(samples.seed.tolist())) == 10
    own = SampleRollout(n=2, sampling=SAMPLING)(policy, requests(policy))
    assert [texts(samples)[i] for i in (0, 1, 5, 6)] == texts(own)


def test_shares_of_the_reference(policy: LocalGroup, model: ModelSpec) -> None:
    reference, prompts = House().open("reference", model), requests(policy)
    moved(policy)
    found = {}
    for share in (0.0, 0.4, 1.0):
        opponent = MixedPolicy(share=share)
        opponent.open(House(), model, reference)
        assert opponent.needs_reference == (share > 0)
        found[share] = opponent(policy, prompts, SAMPLING)
    assert texts(found[0.0]) == texts(policy.generate(prompts, SAMPLING))
    assert texts(found[1.0]) == texts(reference.generate(prompts, SAMPLING))
    expected = policy.generate(prompts, SAMPLING, Mixture(0.4, reference))
    torch.testing.assert_close(found[0.4].logprobs, expected.logprobs)


def test_without_a_reference_the_adapters_are_switched_off(model: ModelSpec, policy: LocalGroup) -> None:
    adapted = House().open("policy", model.model_copy(update={"lora": LoraSpec(rank=2)}))
    with torch.no_grad():
        for name, weight in adapted.worker.model.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.3)
    opponent, prompts = MixedPolicy(share=1.0), requests(policy)
    opponent.open(House(), model, None)
    assert texts(opponent(adapted, prompts, SAMPLING)) == texts(policy.generate(prompts, SAMPLING))
    assert texts(adapted.generate(prompts, SAMPLING)) != texts(policy.generate(prompts, SAMPLING))


@pytest.mark.parametrize("keep", [0.0, 0.75, 1.0])
def test_the_moving_average(policy: LocalGroup, model: ModelSpec, keep: float) -> None:
    opponent = AveragedPolicy(keep=keep)
    opponent.open(House(), model, None)
    first = policy.weights()
    second = moved(policy).weights()
    opponent.learned(policy)
    third = moved(policy).weights()
    opponent.learned(policy)
    for name, tensor in opponent.group.weights().items():
        expected = keep * (keep * first[name] + (1 - keep) * second[name]) + (1 - keep) * third[name]
        torch.testing.assert_close(tensor, expected)
    again = AveragedPolicy(keep=keep)
    again.open(House(), model, None)
    again.load_state_dict(opponent.state_dict())
    assert all(torch.equal(again.group.weights()[n], w) for n, w in opponent.group.weights().items())


def test_an_average_in_half_precision_does_not_stand_still(model: ModelSpec) -> None:
    """Steps that bfloat16 would round away add up in float32."""
    half = model.model_copy(update={"dtype": "bfloat16"})
    policy, opponent = House().open("policy", half), AveragedPolicy(keep=0.999)
    opponent.open(House(), half, None)
    before = opponent.group.weights()
    moved(policy, 0.5)
    for _ in range(60):
        opponent.learned(policy)
    after = opponent.group.weights()
    name = max(before, key=lambda n: before[n].numel())
    rise = ((after[name] - before[name]).float().abs().sum() / before[name].float().abs().sum()).item()
    assert rise == pytest.approx(0.5 * (1 - 0.999**60), rel=0.1)


def test_policies_of_the_past(policy: LocalGroup, model: ModelSpec) -> None:
    opponent = PastPolicy(every=2, most=2)
    opponent.open(House(), model, None)
    kept = [policy.weights()]
    for step in range(1, 6):
        weights = moved(policy, 0.1).weights()
        opponent.learned(policy)
        if step % 2 == 0:
            kept.append(weights)
    again = PastPolicy(every=2, most=2)
    again.open(House(), model, None)
    again.load_state_dict(opponent.state_dict())
    for player in (opponent, again):
        torch.manual_seed(0)
        seen = set()
        for _ in range(12):
            player(policy, requests(policy), SAMPLING)
            name = next(iter(kept[0]))
            seen |= {i for i, w in enumerate(kept) if torch.equal(player.group.weights()[name], w[name])}
        assert seen == {1, 2}  # the newest two of three
    everything = PastPolicy(every=1, most=None)
    everything.open(House(), model, None)
    for _ in range(3):
        everything.learned(policy)
    assert len(everything.state_dict()["past"]) == 4


@pytest.mark.parametrize("opponent", [MixedPolicy(share=0.5), AveragedPolicy(), PastPolicy()])
def test_stages_that_open_no_opponent(policy: LocalGroup, opponent: Any) -> None:
    if isinstance(opponent, PastPolicy):
        opponent.load_state_dict({"steps": 0, "past": [policy.weights()]})
    with pytest.raises(RuntimeError, match=f"the opponent {opponent.part_name} plays where a policy is trained only"):
        AgainstOpponent(opponent=opponent)(policy, requests(policy))
