"""The plain and the simple English that ship with the package: its form, its card, and that it holds nothing of the starter feedback."""

from __future__ import annotations

import gzip
import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from fairlead.data import read
from fairlead.recipes.tales import asked_for, talked

ASSETS = Path(str(resources.files("fairlead"))) / "assets"
FORMS = {
    "plain": ("prose", "dialogues"),
    "simple": (
        *("stories", "longer", "everyday", "picture-book", "second-picture-book", "twins"),
        *("dialogues", "answers", "replies", "chats", "second-chats"),
    ),
}
SPLITS = ("train", "validation")
FILES = [(corpus, form, split) for corpus, forms in FORMS.items() for form in forms for split in SPLITS]


def items(corpus: str, form: str, split: str) -> list[dict[str, Any]]:
    with gzip.open(ASSETS / corpus / f"{form}.{split}.jsonl.gz", "rt", encoding="ascii") as file:
        return [json.loads(line) for line in file]


def words(text: str) -> str:
    return re.sub(r"\W+", " ", text.lower()).strip()


def texts(item: dict[str, Any]) -> list[str]:
    return [item["text"]] if "text" in item else [turn["content"] for turn in item["messages"]]


@pytest.mark.parametrize("corpus", FORMS)
def test_the_card_counts_what_is_there(corpus: str) -> None:
    card = (ASSETS / corpus / "README.md").read_text(encoding="utf-8")
    every = {split: [item for form in FORMS[corpus] for item in items(corpus, form, split)] for split in SPLITS}
    count = sum(len(text.split()) for split in SPLITS for item in every[split] for text in texts(item))
    assert f"| all | | | {len(every['train']):,} | {len(every['validation']):,} | {count:,} |" in card


def test_items_are_whole_and_stand_there_once() -> None:
    seen: set[str] = set()
    for corpus, form, split in FILES:
        for item in items(corpus, form, split):
            said = texts(item)
            assert all(said)
            if "messages" in item:
                roles = [turn["role"] for turn in item["messages"]]
                assert roles == ["user", "assistant"] * (len(roles) // 2) != []
            key = words(" ".join(said))
            assert key not in seen
            seen.add(key)


def test_nothing_of_the_starter_feedback() -> None:
    """No prompt of it, and no response of more than six words."""
    prompts, responses = set(), set()
    for split in ("train", "judge", "validation"):
        for line in (ASSETS / "starter" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            prompts |= {words(turn["content"]) for turn in record["prompt"] if turn["role"] == "user"}
            responses |= {words(r["text"]) for r in record["responses"] if len(r["text"].split()) > 6}
    dialogues = [item for file in FILES for item in items(*file) if "messages" in item]
    for name, dialogues_of in (("frames", asked_for), ("talks", talked)):
        for split in SPLITS:
            for frame in items("simple", name, split):
                dialogues += dialogues_of(frame)
    for dialogue in dialogues:
        for turn in dialogue["messages"]:
            assert words(turn["content"]) not in (prompts if turn["role"] == "user" else responses)


def test_recipes_can_read_it() -> None:
    for corpus, form, split in FILES:
        assert read(f"fairlead:{corpus}/{form}.{split}").records
