"""PPO with the critic on the policy's trunk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fairlead.models import ModelSpec
from fairlead.stages import Online
from fairlead.stages.critics import Trunk
from tiny_runs import assert_resumes_the_same, exported, logged, run_stages, tiny_recipe


def online(shelf: Path, **fields: Any) -> dict[str, Any]:
    stage: dict[str, Any] = {
        "part": "online",
        "model": str(shelf / "world"),
        "prompts": str(shelf / "world.jsonl"),
        "rewards": {"share": {"part": "test-share-of"}},
        "rollout": {"part": "sample", "n": 4, "sampling": {"maximum_tokens": 4}},
        "credit": "gae",
        "critic": {"trunk": "policy"},
        "steps": 3,
        "batch_size": 4,
        "epochs": 2,
        "minibatches": 2,
        "optimiser": {"learning_rate": 1e-2},
    }
    return {"online": stage | fields}


def test_a_bandit_is_learned(shelf: Path, tmp_path: Path) -> None:
    stages = online(
        shelf,
        critic={"trunk": "policy", "coefficient": 0.5},
        steps=12,
        batch_size=6,
        regulariser={"part": "kl", "coefficient": 0.0},
    )
    run = run_stages(tmp_path / "run", stages)
    rows = logged(run.directory, "online")
    assert rows[0]["score"] < 0.4 and sum(row["score"] for row in rows[-3:]) / 3 > 0.85
    assert rows[-1]["critic/error"] < rows[0]["critic/error"]
    assert "critic/loss" in rows[0] and "critic/gradient_norm" not in rows[0]  # there is one gradient
    assert not any("value_head" in name for name in exported(run.directory, "online"))


@pytest.mark.parametrize("fields", [{}, {"reference": None, "model": {"path": "world", "lora": {"rank": 2}}}])
def test_stopped_and_resumed(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    if "model" in fields:
        fields = fields | {"model": fields["model"] | {"path": str(shelf / "world")}}
    assert_resumes_the_same(tmp_path, monkeypatch, online(shelf, save_every=2, **fields), stopped_after=2)


def test_a_constraint_keeps_a_critic_of_its_own(shelf: Path, tmp_path: Path) -> None:
    stages = online(
        shelf,
        rewards={"share": {"part": "test-share-of"}, "harm": {"part": "test-share-of", "symbol": "b", "weight": 0}},
        constraints={"harm": {"part": "lagrangian", "channel": "harm", "limit": 0.1}},
        steps=2,
    )
    row = logged(run_stages(tmp_path / "run", stages).directory, "online")[-1]
    assert {"critic/loss", "constraint/harm/critic/loss", "constraint/harm/critic/gradient_norm"} <= row.keys()


def test_what_a_recipe_says(shelf: Path) -> None:
    def critic(value: Any) -> Any:
        stage = tiny_recipe(online(shelf, critic=value)).stages["online"]
        assert isinstance(stage, Online)
        return stage.critic

    assert critic({"trunk": "policy", "coefficient": 0.2}) == Trunk(trunk="policy", coefficient=0.2)
    assert critic("somewhere") == critic({"path": "somewhere"}) == ModelSpec(path="somewhere")
    assert critic(None) is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"credit": "rloo"}, "credit rloo has no critic: leave critic out"),
        ({"critic_warmup": 1}, "leave critic_warmup out"),
        ({"critic_optimiser": {"learning_rate": 1e-3}}, "leave critic_optimiser out"),
        ({"critic": {"trunk": "reward"}}, r"critic\.trunk"),
        ({"critic": {"trunk": "policy", "path": "x"}}, r"critic\.path"),
        ({"critic": {"pth": "x"}}, r"critic\.pth"),
    ],
)
def test_what_a_recipe_cannot_ask(shelf: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        tiny_recipe(online(shelf, **fields))
