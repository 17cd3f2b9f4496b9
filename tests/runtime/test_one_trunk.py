"""A policy with a value head: one reading for both losses, and an ordinary language model to everybody else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fairlead.batch import Experience
from fairlead.models import LoraSpec, ModelSpec, backbone, head_of
from fairlead.objectives import OneTrunk, PPOClip, ValueClip
from fairlead.runtime import GroupSpec, Lesson, LocalGroup, Trainable
from fairlead.runtime.worker import ModelWorker

Maker = Callable[..., GroupSpec]
PPO = PPOClip(entropy_coefficient=0.01).at_temperature(0.7).with_kl(0.1, "k3")
BOTH = OneTrunk(PPO, ValueClip(), 0.3)


def opened(spec: GroupSpec) -> ModelWorker:
    """A worker whose value head is not zero: nothing below a zero head has a gradient."""
    worker = ModelWorker(spec)
    assert not bool(head_of(worker.model).weight.any())  # type: ignore[operator]
    nn.init.normal_(head_of(worker.model).weight, generator=torch.Generator().manual_seed(3))  # type: ignore[arg-type]
    return worker


def gradients(worker: ModelWorker, *lessons: tuple[Trainable, float], batch: Any) -> tuple[dict[str, Tensor], Any]:
    metrics: dict[str, float] = {}
    for objective, weight in lessons:
        metrics |= worker.accumulate(Lesson(objective.prepare(batch), objective, weight))
    return {name: p.grad for name, p in worker.model.named_parameters() if p.grad is not None}, metrics


@pytest.mark.parametrize("attention", ["auto", "eager"])  # without padding, and with it
@pytest.mark.parametrize("budget", [10**6, 70])
def test_gradients_are_those_of_the_two_losses_added(
    spec: Maker, experience: Experience, attention: str, budget: int
) -> None:
    made = spec(value_head=True, model__attention=attention, tokens_per_microbatch=budget)
    apart, _ = gradients(opened(made), (PPO, 1.0), (ValueClip(), 0.3), batch=experience)
    found, metrics = gradients(opened(made), (BOTH, 1.0), batch=experience)
    largest = max(float(gradient.abs().max()) for gradient in apart.values())
    assert found.keys() == apart.keys() and float(found["value_head.weight"].abs().max()) > 0
    for name, gradient in apart.items():
        assert float((found[name] - gradient).abs().max()) <= 2e-6 * largest, name
    policy, value = (gradients(opened(made), (loss, 1.0), batch=experience)[1] for loss in (PPO, ValueClip()))
    assert metrics["loss"] == pytest.approx(policy["loss"] + 0.3 * value["loss"], rel=1e-5)
    assert metrics["max/ratio"] == pytest.approx(policy["max/ratio"], rel=1e-5)
    assert {name: metrics[f"critic/{name}"] for name in value} == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize("attention", ["auto", "eager"])
def test_one_forward_pass(spec: Maker, experience: Experience, attention: str) -> None:
    worker = opened(spec(value_head=True, model__attention=attention, tokens_per_microbatch=10**6))
    gradients(worker, (BOTH, 1.0), batch=experience)  # finds out how the model can be read
    passes: list[int] = []
    backbone(worker.model).get_input_embeddings().register_forward_hook(lambda *_: passes.append(1))  # type: ignore[operator]
    gradients(worker, (BOTH, 1.0), batch=experience)
    assert len(passes) == 1


def test_values_of_the_same_hidden_states(spec: Maker, experience: Experience) -> None:
    """Read with the log-probabilities or alone, and as a critic of the same weights and head says them."""
    worker = opened(spec(value_head=True))
    both = worker.outputs(experience, ("logprobs", "values"))
    alone = worker.outputs(experience, ("values",)).values
    critic = ModelWorker(spec(kind="scalar"))
    critic.model.score.weight.data.copy_(head_of(worker.model).weight)  # type: ignore[arg-type]
    torch.testing.assert_close(both.values, alone)
    torch.testing.assert_close(alone, critic.outputs(experience, ("values",)).values)
    assert float(alone.abs().max()) > 0


@pytest.mark.parametrize("lora", [None, LoraSpec(rank=2, alpha=8.0)])
def test_an_ordinary_checkpoint_and_a_training_state_with_the_head(
    spec: Maker, experience: Experience, tmp_path: Path, lora: LoraSpec | None
) -> None:
    made = spec(value_head=True, model__lora=lora)
    group, plain = LocalGroup(made), LocalGroup(spec(model__lora=lora))
    for _ in range(2):
        group.update(experience, BOTH)
    head: Any = head_of(group.worker.model).weight
    assert bool(head.any())
    assert group.weights().keys() == plain.weights().keys()
    group.export(tmp_path / "model")
    plain.export(tmp_path / "plain")
    files = [load_file(tmp_path / name / "model.safetensors") for name in ("model", "plain")]
    assert files[0].keys() == files[1].keys()
    exported = LocalGroup(GroupSpec(role="policy", model=ModelSpec(path=str(tmp_path / "model"))))
    torch.testing.assert_close(exported.token_logprobs(experience), group.token_logprobs(experience))

    group.save(tmp_path / "state")
    other = LocalGroup(made)
    other.load(tmp_path / "state")
    for one in (group, other):
        one.update(experience, BOTH)
    assert group.worker.checksum() == other.worker.checksum()

    if lora is None:
        before = head.clone()
        group.load_weights(plain.weights())
        torch.testing.assert_close(group.token_logprobs(experience), plain.token_logprobs(experience))
        assert torch.equal(head_of(group.worker.model).weight, before)  # type: ignore[arg-type]
