"""Learning from rollouts of an earlier policy: what the ratio compares with, and a run that is stopped in between."""

from __future__ import annotations

import importlib.util
import json
import pickle
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from fairlead import functional
from fairlead.batch import Experience
from fairlead.runs import RunError
from fairlead.runtime import ModelGroup, RuntimeSpec
from fairlead.stages import Online
from fairlead.stages.ahead import Ahead, Draw
from tiny_runs import assert_resumes_the_same, logged, run_stages

LAG = 2
BESIDE = RuntimeSpec(samplers=1, threads=1)


def online(shelf: Path, **fields: Any) -> dict[str, Any]:
    """A fast learner, so that two steps make a difference."""
    stage: dict[str, Any] = {
        "model": str(shelf / "world"),
        "prompts": str(shelf / "world.jsonl"),
        "rewards": {"share": {"part": "test-share-of"}},
        "credit": "rloo",
        "steps": 5,
        "batch_size": 3,
        "rollout": {"part": "sample", "n": 4, "sampling": {"maximum_tokens": 4}},
        "optimiser": {"learning_rate": 3e-2},
    }
    return {"online": stage | fields}


def course(shelf: Path, folder: Path, **fields: Any) -> list[dict[str, Any]]:
    return logged(run_stages(folder, online(shelf, **fields)).directory, "online")


def test_rollouts_wait_so_many_steps_and_none_is_drawn_in_vain() -> None:
    asked: list[int] = []

    def draw(policy: Any, prompts: Any) -> Draw:
        asked.append(prompts)
        return Draw(prompts, None, {"weights": policy})

    policy: Any = 0
    rollouts = Ahead(2, policy)
    course = []
    for step in range(1, 6):
        rollouts._policy = step  # type: ignore[assignment]
        draw_ = rollouts(count(len(asked)), draw, 5 - step)  # type: ignore[arg-type]
        course.append((draw_.samples, draw_.metrics["weights"], len(asked)))
        if step == 2:
            state = pickle.loads(pickle.dumps(rollouts.state_dict()))  # as a checkpoint does
            rollouts = Ahead(2, policy)
            rollouts.load_state_dict(state)
    assert course == [(0, 1, 3), (1, 1, 4), (2, 1, 5), (3, 2, 5), (4, 3, 5)]


def test_the_ratio_compares_with_the_policy_that_sampled(shelf: Path, tmp_path: Path) -> None:
    rows = course(shelf, tmp_path / "run", ahead=LAG)
    assert rows[0]["policy/ratio"] == pytest.approx(1, abs=1e-6)
    assert rows[-1]["policy/max/ratio"] > 1.02 and rows[-1]["mismatch"] == pytest.approx(0, abs=1e-5)


def test_weights_correct_for_the_wait_and_the_ratio_begins_at_one(shelf: Path, tmp_path: Path) -> None:
    objective = {"part": "ppo-clip", "mismatch": {"high": 2.0}}
    rows = course(shelf, tmp_path / "run", ahead=LAG, objective=objective)
    assert rows[0]["policy/mismatch_weight"] == pytest.approx(1, abs=1e-5)
    assert rows[-1]["policy/max/ratio"] == pytest.approx(1, abs=1e-5)
    assert rows[-1]["mismatch"] > 0.01


@pytest.mark.parametrize(("old", "stays"), [("sampler", True), ("recompute", False)])
def test_the_penalty_is_that_of_the_policy_that_learns(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, stays: bool
) -> None:
    """k1 of the policy of now, whatever the ratio compares with: the gradient of its regularised return has no other penalty."""
    seen: list[tuple[Experience, torch.Tensor]] = []
    inner = Online._with_proximal

    def watched(self: Online, experience: Experience, policy: ModelGroup) -> Experience:
        seen.append((inner(self, experience, policy), policy.token_logprobs(experience)))
        return seen[-1][0]

    monkeypatch.setattr(Online, "_with_proximal", watched)
    kl = {"part": "kl", "coefficient": 0.3}
    course(shelf, tmp_path / "run", ahead=LAG, regulariser=kl, old_logprobs=old)
    last, now = seen[-1]
    assert last.reference_logprobs is not None
    penalty = torch.where(last.mask, 0.3 * (now - last.reference_logprobs), 0.0)
    torch.testing.assert_close(last.rewards, functional.place_at_last_token(last.score, last.mask) - penalty)
    assert torch.allclose(last.logprobs, last.behaviour_logprobs, atol=1e-4) == stays
    assert torch.allclose(last.logprobs, now, atol=1e-4) != stays


def test_resuming_is_the_same_to_the_last_bit(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_resumes_the_same(tmp_path, monkeypatch, online(shelf, ahead=LAG, save_every=2), stopped_after=2)


def test_an_opponent_made_from_the_policy_needs_it_in_its_own_place(shelf: Path, tmp_path: Path) -> None:
    fields = {"rollout": {"part": "against-opponent", "n": 4, "sampling": {"maximum_tokens": 4}}}
    with pytest.raises(
        RunError, match=r"stage online: rollout against-opponent asks models .*set runtime\.samplers to 0"
    ):
        run_stages(tmp_path, online(shelf, **fields), runtime=BESIDE)


@pytest.mark.ray
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
@pytest.mark.parametrize("steps", [0, 2])
def test_a_sampler_of_its_own_draws_the_same(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    stages = online(shelf, ahead=steps, save_every=2)
    run_stages(tmp_path / "in turn", stages)
    run_stages(tmp_path / "beside", stages, runtime=BESIDE)
    one, other = (logged(tmp_path / name, "online") for name in ("in turn", "beside"))
    for name in ("score", "length", "policy/entropy", "policy/gradient_norm", "kl/k1"):
        assert [row[name] for row in other] == pytest.approx([row[name] for row in one], rel=1e-3, abs=1e-4), name
    told = [(tmp_path / name / "samples.jsonl").read_text().splitlines() for name in ("in turn", "beside")]
    assert [json.loads(line)["response"] for line in told[0]] == [json.loads(line)["response"] for line in told[1]]
