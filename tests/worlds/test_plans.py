"""The language of plans: what its model says is what the language says, and stays so when it is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fairlead.data import PromptRecord, prompts_batch
from fairlead.models import ModelSpec
from fairlead.rollouts import SampleRollout
from fairlead.runtime import GroupSpec, LocalGroup
from fairlead.worlds import PlanProbability, PlanReward, PlanWorld, plan_of
from tiny_runs import exported, logged, run_stages


@pytest.fixture
def world() -> PlanWorld:
    return PlanWorld(decisions=2, segment=4)


def opened(path: Path) -> LocalGroup:
    return LocalGroup(GroupSpec(role="policy", model=ModelSpec(path=str(path))))


def test_the_model_says_what_the_language_says(world: PlanWorld, tmp_path: Path) -> None:
    policy = opened(world.save_model(tmp_path / "m"))
    torch.testing.assert_close(
        world.answers(policy), torch.tensor([[0.61, 0.39]] * 2, dtype=torch.float64), atol=1e-5, rtol=0
    )
    for word in ("start", "q1", "0.1.0", "0.1.1'", "1.0.3"):
        logits = policy.worker.model(torch.tensor([[world.vocabulary[word]]])).logits[0, -1].softmax(-1)
        for other, probability in world.following(word).items():
            assert float(logits[world.vocabulary[other]]) == pytest.approx(probability, abs=1e-5)


def test_responses_have_plans(world: PlanWorld, tmp_path: Path) -> None:
    policy = opened(world.save_model(tmp_path / "m"))
    prompts = prompts_batch([PromptRecord("start", {})], policy.codec, 0)
    samples = SampleRollout(n=200, sampling={"maximum_tokens": world.length})(policy, prompts)
    plans = [plan_of(row["response"]) for row in samples.rows]
    assert {len(plan) for plan in plans} == {2} and not samples.truncated.any()
    assert samples.mask.sum(1).unique().tolist() == [world.length]
    assert sum(plan == (1, 1) for plan in plans) / 200 == pytest.approx(0.39**2, abs=0.08)
    assert PlanReward(target=[1, 1])(samples).tolist() == [float(plan == (1, 1)) for plan in plans]
    found = PlanProbability(target=[1, 0], segment=4)(policy, samples)  # type: ignore[arg-type]
    assert found["probability"] == pytest.approx(0.39 * 0.61, abs=1e-5)


def test_training_leaves_the_last_token_all_that_matters(world: PlanWorld, tmp_path: Path) -> None:
    stage = {
        "model": str(world.save_model(tmp_path / "m")),
        "prompts": str(world.save_prompts(tmp_path / "prompts.jsonl")),
        "rewards": {"plan": {"part": "plan", "target": [1, 1]}},
        "diagnostics": {"plan": {"part": "plan", "target": [1, 1], "segment": 4}},
        "monitor_every": 1,
        "rollout": {"n": 16, "sampling": {"maximum_tokens": world.length}},
        "credit": "group-relative",
        "regulariser": {"part": "kl", "coefficient": 0},
        "steps": 8,
        "batch_size": 1,
        "optimiser": {"learning_rate": 5e-3},
    }
    run = run_stages(tmp_path / "run", {"online": stage})
    probabilities = [row["diagnostic/plan/probability"] for row in logged(run.directory, "online")]
    assert probabilities[-1] > 1.5 * probabilities[0]
    weights = exported(run.directory, "online")
    for name in ("self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"):
        assert not weights[f"model.layers.0.{name}.weight"].any()
