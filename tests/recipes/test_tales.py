"""Stories told from frames: everything is filled in, stays what it was, and goes with what belongs to it."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from fairlead.recipes.tales import TELLINGS, asked_for, told

SIMPLE = Path(str(resources.files("fairlead"))) / "assets" / "simple"


def frames(split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (SIMPLE / f"frames.{split}.jsonl").read_text(encoding="ascii").splitlines()]


FRAMES = frames("train") + frames("validation")


def stories(text: str) -> list[str]:
    return [story["text"] for story in told({"id": "one", "about": "a thing", "text": text})]


def test_a_word_stays_what_it_was() -> None:
    for story in stories("{A} has a {color} {thing}. {A} gives the {color} {thing} to {B}."):
        found = re.fullmatch(r"(\w+) has a (\w+) ([\w ]+)\. (\w+) gives the (\w+) ([\w ]+) to (\w+)\.", story)
        assert found
        assert found.groups()[:3] == found.groups()[3:6] and found[7] != found[1]


def test_what_belongs_together_is_drawn_together() -> None:
    eats = {tuple(story.split(" likes ")) for story in stories("{animal} likes {food}")}
    assert ("rabbit", "carrots") in eats
    assert len({animal for animal, _ in eats}) == len(eats) > 10


def test_a_frame_brings_draws_of_its_own() -> None:
    frame = {
        "id": "one",
        "about": "a {job}",
        "text": "{tool} {job}",
        "draws": {"tool, job": ["saw, cut", "hammer, nail"]},
    }
    assert {story["text"] for story in told(frame)} == {"saw cut", "hammer nail"}
    assert {dialogue["messages"][0]["content"][-4:] for dialogue in asked_for(frame)} >= {"cut.", "ail."}


def test_people_keep_their_pronouns() -> None:
    assert {story for story in stories("{A} {he}") if story.startswith(("Tom", "Anna"))} == {"Tom he", "Anna she"}


def test_choices_are_made_and_articles_agree() -> None:
    assert set(stories("a [owl|bear|apple]")) == {"an owl", "a bear", "an apple"}


def test_a_name_that_nothing_fills_is_an_error() -> None:
    with pytest.raises(KeyError, match="nobody"):
        stories("{nobody}")


def test_every_telling_is_the_same_at_every_call_and_another_than_the_others() -> None:
    for frame in FRAMES:
        texts = [story["text"] for story in told(frame)]
        assert texts == [story["text"] for story in told(frame)]
        assert len(set(texts)) > 0.9 * TELLINGS


def test_shipped_stories_are_whole() -> None:
    for frame in FRAMES:
        asked = [dialogue["messages"] for dialogue in asked_for(frame)]
        assert all([turn["role"] for turn in turns] == ["user", "assistant"] for turns in asked)
        for text in [
            *(story["text"] for story in told(frame)),
            *(turn["content"] for turns in asked for turn in turns),
        ]:
            assert not re.search(r"[\[\]{}|]|  | [,.!?]|[,.!?]{2}", text), text
            assert text.count('"') % 2 == 0, text
            assert text[0].isupper() or text[0] == '"', text
            assert text[-1] in '.!?"', text


def test_held_out_frames_are_other_frames() -> None:
    learned, held_out = ({frame["id"] for frame in frames(split)} for split in ("train", "validation"))
    assert held_out and not learned & held_out
