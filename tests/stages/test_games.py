"""Preference games in the online stage: an interrupted game is the one that was not, and what fits together."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fairlead.recipes.execute import resume
from fairlead.runs import Interrupted, StageRun
from fairlead.worlds import TokenWorld
from tiny_runs import assert_same_run, logged, run_stages, tiny_recipe

OPPONENTS: dict[str, dict[str, Any]] = {
    "mixture": {"part": "mixture", "share": 0.25},
    "ema": {"part": "ema", "keep": 0.9},
    "past": {"part": "past", "every": 2, "most": 3},
}


@pytest.fixture(scope="module")
def game(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("game")
    world = TokenWorld(symbols=3, maximum_tokens=2)
    world.save_model(folder / "world")
    world.save_prompts(folder / "world.jsonl")
    return folder


def stage(game: Path, opponent: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "online": {
            "model": str(game / "world"),
            "prompts": str(game / "world.jsonl"),
            "rewards": {"wins": {"part": "win-rate", "oracle": "cyclic"}},
            "rollout": {"part": "against-opponent", "opponent": opponent, "sampling": {"maximum_tokens": 2}},
            "regulariser": {"part": "kl", "coefficient": 0.05},
            "credit": "nash-pg",
            "objective": {"part": "reinforce", "aggregation": "sequence-mean-token-sum"},
            "steps": 7,
            "batch_size": 6,
            "save_every": 3,
            "optimiser": {"learning_rate": 1e-2},
            **changes,
        }
    }


@pytest.mark.parametrize("adapters", [False, True])
@pytest.mark.parametrize("opponent", OPPONENTS)
def test_an_interrupted_game(
    game: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opponent: str, adapters: bool
) -> None:
    model = {"path": str(game / "world"), "lora": {"rank": 2} if adapters else None}
    stages = stage(game, OPPONENTS[opponent], model=model)
    whole = run_stages(tmp_path / "whole", stages).directory
    moments = {2, 5}
    log = StageRun.log

    def watched(self: StageRun, step: int, *args: Any) -> None:
        log(self, step, *args)
        if step in moments:
            moments.discard(step)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(StageRun, "log", watched)
    with pytest.raises(Interrupted):
        run_stages(tmp_path / "run", stages)
    with pytest.raises(Interrupted):
        resume(tmp_path / "run", quiet=True)
    resume(tmp_path / "run", quiet=True)
    assert_same_run(whole, tmp_path / "run", ["online"])


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_the_ends_of_the_average_are_those_of_the_mixture(game: Path, tmp_path: Path, end: float) -> None:
    """Keep 0 is self-play, keep 1 the best response to the first policy."""
    for name, opponent in (("ema", {"part": "ema", "keep": end}), ("mixture", {"part": "mixture", "share": end})):
        run_stages(tmp_path / name, stage(game, opponent))
    assert_same_run(tmp_path / "ema", tmp_path / "mixture", ["online"])


def test_only_the_policys_own_responses_are_learned_from(game: Path, tmp_path: Path) -> None:
    """Six prompts with an answer each; the mean over both players' answers is ½ whatever they say."""
    rows = logged(run_stages(tmp_path / "run", stage(game, OPPONENTS["ema"])).directory, "online")
    for row in rows:
        assert row["counted_rows"] == 1
        assert row["anchor_score"] == pytest.approx(1 - row["score"], abs=1e-6)


def test_the_credit_needs_an_opponent(game: Path) -> None:
    with pytest.raises(ValidationError, match=r"set rollout\.part to against-opponent"):
        tiny_recipe(stage(game, OPPONENTS["ema"], rollout={"part": "sample", "n": 2}))
