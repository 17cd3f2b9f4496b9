"""Real data, when it is there: forms, counts, and a walk from file to batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fairlead.data import (
    DataSource,
    TextCodec,
    pack,
    pairs_batch,
    prompts_batch,
    read,
    sequences_batch,
    to_completions,
    to_conversations,
    to_pairs,
    to_prompts,
)

from .conftest import CHATML, GEMMA, LLAMA3

N = 40


def load(root: Path, name: str, **others: Any) -> Any:
    return read(DataSource(path=name, **({"limit": N} | others)), root)


@pytest.mark.parametrize(
    "name",
    ["polite-short", "hh-harmless", "convincing-arguments", "alpaca-eval-short", "scenario-pairs", "dpo-demo"],
)
@pytest.mark.parametrize("template", [CHATML, LLAMA3])
def test_pairs(shared_data: Path, tokenizers: Any, name: str, template: str) -> None:
    records, report = to_pairs(load(shared_data, f"preference/{name}"))
    assert report.kept == len(records) > 0.9 * N
    codec = TextCodec(tokenizers["byte"], template)
    batch = pairs_batch(records[:8], codec)
    for row, record in enumerate(records[:8]):
        for side, text in enumerate((record.chosen, record.rejected)):
            ids = batch.tokens[row, side][batch.mask[row, side]].tolist()
            assert ids[-1] == codec.end_ids[0]
            assert codec.decode(ids) == (text.strip() if template == LLAMA3 else text)


def test_every_vote_is_kept(shared_data: Path) -> None:
    records, _ = to_pairs(load(shared_data, "preference/convincing-arguments"))
    assert all("votes" in record.columns and "agreement" in record.columns for record in records)


@pytest.mark.parametrize(
    "name", ["pretrain/stories", "pretrain/task-dialogues", "sft/tool-calls", "sft/instruct-short"]
)
def test_conversations(shared_data: Path, tokenizers: Any, name: str) -> None:
    records, report = to_conversations(load(shared_data, name, limit=12))
    assert report.kept == len(records) == 12
    codec = TextCodec(tokenizers["byte"], CHATML)
    documents = [codec.encode_conversation(record) for record in records]
    rows = pack(documents, 512)
    assert sum(len(row.ids) for row in rows) == sum(len(ids) for ids, _ in documents)
    assert sequences_batch(rows, codec.padding_id).tokens.shape == (len(rows), 512)


def test_persona_chat_masks(shared_data: Path, tokenizers: Any) -> None:
    records, _ = to_conversations(load(shared_data, "personal/persona-chat", limit=5))
    codec = TextCodec(tokenizers["byte"], CHATML)
    for record in records:
        ids, mask = codec.encode_conversation(record)
        answers = [m["content"] + "<|im_end|>" for m in record.messages or [] if m["role"] == "assistant"]
        learned = [token for token, keep in zip(ids, mask, strict=True) if keep]
        assert tokenizers["byte"].decode(learned) == "".join(answers)


def test_prompts_with_their_columns(shared_data: Path, tokenizers: Any) -> None:
    records, _ = to_prompts(load(shared_data, "verifiable/gsm8k", where={"short": True}, split="validation"))
    batch = prompts_batch(records, TextCodec(tokenizers["byte"], GEMMA), seed=0)
    assert len(batch) == N and all(row["answer"] and row["short"] for row in batch.rows)


def test_prompts_from_a_template(shared_data: Path) -> None:
    source = {"template": {"prompt": "Review: {text}"}, "where": {"label": "positive"}}
    records, _ = to_prompts(load(shared_data, "classify/review-sentences", **source))
    assert all(isinstance(r.prompt, str) and r.prompt.startswith("Review: ") for r in records)


def test_completions(shared_data: Path) -> None:
    for name in (
        "preference/unpaired-demo",
        "summarise/dialogsum",
        "safety/safe-answers",
        "feedback/topical-turn-ratings",
    ):
        assert len(to_completions(load(shared_data, name))[0]) == N
