"""Models and data of the stage tests, written once."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairlead.worlds.token_world import TokenWorld
from tiny_models import save_tiny_model
from tiny_runs import CHATS, PAIRS, PROMPTS, write_records


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model `tiny`, the token world `world`, and chats, pairs and prompts as JSON lines."""
    folder = tmp_path_factory.mktemp("shelf")
    save_tiny_model(folder / "tiny")
    world = TokenWorld(symbols=4, maximum_tokens=4)
    world.save_model(folder / "world")
    world.save_prompts(folder / "world.jsonl")
    write_records(folder / "chats.jsonl", CHATS)
    write_records(folder / "pairs.jsonl", PAIRS)
    write_records(folder / "prompts.jsonl", PROMPTS)
    return folder


@pytest.fixture
def tiny(shelf: Path) -> str:
    """The model directory."""
    return str(shelf / "tiny")
