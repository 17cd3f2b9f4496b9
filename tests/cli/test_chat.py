"""Talking to a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from fairlead.chat import Conversation, last_model
from fairlead.cli import app
from fairlead.generation import Sampling
from fairlead.runs import RunError, write_json
from tiny_models import save_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), "llama")


def talk(place: Any, words: str, *options: str) -> Any:
    return CliRunner().invoke(app, ["chat", str(place), "--maximum-tokens", "6", *options], input=words)


def test_reads_lines_and_prints_answers_when_nobody_types(model: Path) -> None:
    result = talk(model, "hello\n\nand then?\n")
    assert result.exit_code == 0, result.output
    assert "you" not in result.stdout.split()
    assert talk(model, "hello\n\nand then?\n").stdout == result.stdout
    assert talk(model, "hello\n\nand then?\n", "--seed", "1").stdout != result.stdout
    assert talk(model, "").stdout == ""


def test_commands(model: Path) -> None:
    once = talk(model, "hello\n", "--temperature", "0").stdout
    assert once
    assert talk(model, "hello\n/quit\nmore\n", "--temperature", "0").stdout == once
    assert talk(model, "hello\n/reset\nhello\n", "--temperature", "0").stdout == once * 2
    result = talk(model, "/reste\n")
    assert "no command '/reste'" in result.stderr and result.stdout == ""


def test_what_was_said_and_the_system_message_count(model: Path) -> None:
    plain = Conversation(str(model), Sampling(maximum_tokens=6, temperature=0))
    first = plain.answer("a")
    told = Conversation(str(model), Sampling(maximum_tokens=6, temperature=0), system="be brief")
    assert told.answer("a") != first
    assert [turn["role"] for turn in plain._turns] == ["user", "assistant"]
    again = plain.answer("a")
    plain.reset()
    assert plain.answer("a") == first != again


def test_a_long_conversation_forgets_its_oldest_turns(model: Path) -> None:
    """The tiny model has a context of 128 tokens, a token a byte."""
    talker = Conversation(str(model), Sampling(maximum_tokens=6, temperature=0), system="s")
    for turn in range(8):
        talker.answer(f"turn number {turn}")
    assert talker._turns[0]["role"] == "user" and talker._turns[-2]["content"] == "turn number 7"
    assert len(talker._turns) < 16
    talker.answer("x" * 500)  # longer than the whole context


def test_a_run_directory_stands_for_its_last_language_model(tmp_path: Path) -> None:
    stages = ("tokenizer", "sft", "reward", "online")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"stages": dict.fromkeys(stages)}, sort_keys=False))
    with pytest.raises(RunError, match="made a language model yet"):
        last_model(str(tmp_path))
    (tmp_path / "stages" / "tokenizer" / "model").mkdir(parents=True)
    for stage, architecture in (("sft", "LlamaForCausalLM"), ("reward", "LlamaForSequenceClassification")):
        write_json(tmp_path / "stages" / stage / "model" / "config.json", {"architectures": [architecture]})
    assert last_model(str(tmp_path)) == str(tmp_path / "stages" / "sft" / "model")
    assert last_model("fairlead:base") == "fairlead:base"


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    result = talk(tmp_path / "nothing", "hello\n")
    assert result.exit_code == 2 and "error: " in result.stderr and "Traceback" not in result.output
