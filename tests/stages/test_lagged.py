"""Learning from rollouts of an earlier policy: what the ratio compares with, and a run that is stopped in between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fairlead import functional
from fairlead.batch import Experience
from fairlead.runtime import ModelGroup
from fairlead.stages import Online
from tiny_runs import assert_resumes_the_same, assert_same_run, logged, run_stages

LAG: dict[str, Any] = {"part": "lagged", "steps": 2}


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


def test_no_lag_is_the_ordinary_loop(shelf: Path, tmp_path: Path) -> None:
    course(shelf, tmp_path / "once")
    course(shelf, tmp_path / "lagged", collection=LAG | {"steps": 0})
    assert_same_run(tmp_path / "once", tmp_path / "lagged", ["online"])


def test_the_ratio_compares_with_the_policy_that_sampled(shelf: Path, tmp_path: Path) -> None:
    rows = course(shelf, tmp_path / "run", collection=LAG)
    assert rows[0]["policy/ratio"] == pytest.approx(1, abs=1e-6)
    assert rows[-1]["policy/max/ratio"] > 1.02 and rows[-1]["mismatch"] == pytest.approx(0, abs=1e-5)


def test_weights_correct_for_the_wait_and_the_ratio_begins_at_one(shelf: Path, tmp_path: Path) -> None:
    objective = {"part": "ppo-clip", "mismatch": {"high": 2.0}}
    rows = course(shelf, tmp_path / "run", collection=LAG, objective=objective)
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
    course(shelf, tmp_path / "run", collection=LAG, regulariser=kl, old_logprobs=old)
    last, now = seen[-1]
    assert last.reference_logprobs is not None
    penalty = torch.where(last.mask, 0.3 * (now - last.reference_logprobs), 0.0)
    torch.testing.assert_close(last.rewards, functional.place_at_last_token(last.score, last.mask) - penalty)
    assert torch.allclose(last.logprobs, last.behaviour_logprobs, atol=1e-4) == stays
    assert torch.allclose(last.logprobs, now, atol=1e-4) != stays


def test_resuming_is_the_same_to_the_last_bit(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_resumes_the_same(tmp_path, monkeypatch, online(shelf, collection=LAG, save_every=2), stopped_after=2)
