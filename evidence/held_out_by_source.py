"""Held-out loss of checkpoints by the sources of the base model: `python evidence/held_out_by_source.py DATA CHECKPOINT…`.

DATA is what the recipe `pretrain-base` takes as data.root. Of each validation file the first 60 windows of 512 tokens are read, document after
document, in bfloat16 where the processor has it. Writes JSON to standard output: checkpoint → source → nats a token, bits a byte, tokens.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch

from fairlead.data import CompletionRecord, ConversationRecord, DataSource, TextCodec, read, to_conversations
from fairlead.models import ModelSpec, load_model, load_tokenizer
from fairlead.runtime.machine import hardware_precisions

WINDOWS, WINDOW = 60, 512
TIDY = "fairlead.recipes.corpus:tidy"
SOURCES: dict[str, tuple[str, str | None]] = {
    "simple English, stories": ("fairlead:simple/stories.validation", None),
    "simple English, dialogues": ("fairlead:simple/dialogues.validation", None),
    "simple English, longer stories": ("fairlead:simple/longer.validation", None),
    "simple English, answers": ("fairlead:simple/answers.validation", None),
    "simple English, plainer stories": ("fairlead:simple/everyday.validation", None),
    "simple English, replies": ("fairlead:simple/replies.validation", None),
    "simple English, picture book": ("fairlead:simple/picture-book.validation", None),
    "simple English, chats": ("fairlead:simple/chats.validation", None),
    "simple English, second picture book": ("fairlead:simple/second-picture-book.validation", None),
    "simple English, second chats": ("fairlead:simple/second-chats.validation", None),
    "simple English, told from frames": ("fairlead:simple/frames.validation", "fairlead.recipes.tales:told"),
    "simple English, talks from frames": ("fairlead:simple/talks.validation", "fairlead.recipes.tales:talked"),
    "plain English, prose": ("fairlead:plain/prose.validation", None),
    "plain English, dialogues": ("fairlead:plain/dialogues.validation", None),
    "stories": ("pretrain/stories.validation.jsonl.gz", TIDY),
    "service dialogues": ("pretrain/task-dialogues.validation.jsonl.gz", TIDY),
    "open chat": ("pretrain/topical-chat.validation.jsonl.gz", TIDY),
    "persona chat": ("personal/persona-chat.validation.jsonl.gz", TIDY),
    "film reviews": ("pretrain/movie-reviews.validation.jsonl.gz", TIDY),
}


def windows(codec: TextCodec, record: ConversationRecord | CompletionRecord) -> Iterator[tuple[list[int], int]]:
    """Token ids of a document in windows that overlap by one, and the bytes of the text of all but the first."""
    ids, _ = codec.encode_conversation(record, "all")
    for start in range(0, len(ids) - 1, WINDOW - 1):
        part = ids[start : start + WINDOW]
        yield part, len(codec.decode(part[1:]).encode())


@torch.no_grad()
def held_out(checkpoint: str, root: Path) -> dict[str, dict[str, float]]:
    """Source → its figures."""
    spec = ModelSpec(path=checkpoint)
    model, codec = load_model(spec), TextCodec(load_tokenizer(spec))
    found = {}
    for name, (path, transform) in SOURCES.items():
        nats, tokens, size = 0.0, 0, 0
        records, _ = to_conversations([read(DataSource(path=path, transform=transform), root)])
        for ids, length in islice((window for record in records for window in windows(codec, record)), WINDOWS):
            row = torch.tensor([ids])
            with torch.autocast("cpu", torch.bfloat16, enabled="bfloat16" in hardware_precisions()):
                loss = model(input_ids=row, labels=row).loss
            nats, tokens, size = nats + float(loss) * (len(ids) - 1), tokens + len(ids) - 1, size + length
        found[name] = {"loss": nats / tokens, "bits_per_byte": nats / size / math.log(2), "tokens": tokens}
    return found


if __name__ == "__main__":
    root, *checkpoints = sys.argv[1:]
    print(json.dumps({path: held_out(path, Path(root)) for path in checkpoints}, indent=1))
