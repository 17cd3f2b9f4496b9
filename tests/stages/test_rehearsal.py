"""Text that is rehearsed while a policy learns from reward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tiny_runs import assert_resumes_the_same, logged, run_stages, tiny_recipe, write_records


def online(shelf: Path, tmp_path: Path, **fields: Any) -> dict[str, Any]:
    text = write_records(tmp_path / "text.jsonl", [{"text": text} for text in ("a b c a b c", "b c a", "c a b c")])
    stage: dict[str, Any] = {
        "model": str(shelf / "world"),
        "prompts": str(shelf / "world.jsonl"),
        "rewards": {"share": {"part": "test-share-of"}},
        "credit": "rloo",
        "steps": 4,
        "batch_size": 3,
        "minibatches": 2,
        "rollout": {"part": "sample", "n": 4, "sampling": {"maximum_tokens": 4}},
        "optimiser": {"learning_rate": 3e-2},
        "rehearsal": {"data": str(text), "batch_size": 2, "maximum_length": 8, "coefficient": 5.0},
    }
    return {"online": stage | fields}


def test_the_text_is_learned_beside_the_reward(shelf: Path, tmp_path: Path) -> None:
    rows = logged(run_stages(tmp_path / "run", online(shelf, tmp_path)).directory, "online")
    assert rows[-1]["policy/rehearsal/loss"] < rows[0]["policy/rehearsal/loss"] - 0.05
    assert (
        "policy/ratio" in rows[0] and rows[0]["policy/max/ratio"] > 1
    )  # the second minibatch of the policy's own loss


def test_resuming_is_the_same_to_the_last_bit(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_resumes_the_same(tmp_path, monkeypatch, online(shelf, tmp_path, save_every=2), stopped_after=2)


def test_a_wrong_key_is_told_with_its_path(shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"rehearsal\.coeficient|rehearsal.*coeficient"):
        tiny_recipe(online(shelf, tmp_path, rehearsal={"data": "x.jsonl", "coeficient": 1.0}))
