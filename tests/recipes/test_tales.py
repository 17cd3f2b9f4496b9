"""Stories told from frames: everything is filled in, stays what it was, and goes with what belongs to it."""

from __future__ import annotations

import gzip
import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from fairlead.recipes import tales
from fairlead.recipes.tales import TELLINGS, asked_for, talked, told

SIMPLE = Path(str(resources.files("fairlead"))) / "assets" / "simple"


def frames(name: str, split: str) -> list[dict[str, Any]]:
    with gzip.open(SIMPLE / f"{name}.{split}.jsonl.gz", "rt", encoding="ascii") as file:
        return [json.loads(line) for line in file]


FRAMES = frames("frames", "train") + frames("frames", "validation")
TALKS = frames("talks", "train") + frames("talks", "validation")


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many tellings that every choice is made some time."""
    monkeypatch.setattr(tales, "TELLINGS", 100)
    monkeypatch.setattr(tales, "_ASKED_FOR", 30)


def stories(text: str) -> list[str]:
    return [story["text"] for story in told({"id": "one", "about": "a thing", "text": text})]


@pytest.mark.usefixtures("many")
def test_a_word_stays_what_it_was() -> None:
    for story in stories("{A} has a {color} {thing}. {A} gives the {color} {thing} to {B}."):
        found = re.fullmatch(r"(\w+) has a (\w+) ([\w ]+)\. (\w+) gives the (\w+) ([\w ]+) to (\w+)\.", story)
        assert found
        assert found.groups()[:3] == found.groups()[3:6] and found[7] != found[1]


@pytest.mark.usefixtures("many")
def test_what_belongs_together_is_drawn_together() -> None:
    eats = {tuple(story.split(" likes ")) for story in stories("{animal} likes {food}")}
    assert ("rabbit", "carrots") in eats
    assert len({animal for animal, _ in eats}) == len(eats) > 10


@pytest.mark.usefixtures("many")
def test_a_frame_brings_draws_of_its_own() -> None:
    frame = {
        "id": "one",
        "about": "a {job}",
        "text": "{tool} {job}",
        "draws": {"tool, job": ["saw, cut", "hammer, nail"]},
    }
    assert {story["text"] for story in told(frame)} == {"saw cut", "hammer nail"}
    assert {dialogue["messages"][0]["content"][-4:] for dialogue in asked_for(frame)} >= {"cut.", "ail."}


@pytest.mark.usefixtures("many")
def test_a_talk_keeps_its_words_over_all_turns() -> None:
    frame = {
        "id": "one",
        "turns": ["I have a {color} {thing}.", "[Nice|Fine]!", "[Really?|Is it?]", "Yes, a {color} {thing}."],
    }
    for talk in talked(frame):
        turns = [turn["content"] for turn in talk["messages"]]
        assert [turn["role"] for turn in talk["messages"]] == ["user", "assistant", "user", "assistant"]
        assert turns[0] == f"I have {turns[3].removeprefix('Yes, ')}"
    assert talked(frame) == talked(frame)


@pytest.mark.usefixtures("many")
def test_people_keep_their_pronouns() -> None:
    assert {story for story in stories("{A} {he}") if story.startswith(("Tom", "Anna"))} == {"Tom he", "Anna she"}


@pytest.mark.usefixtures("many")
def test_choices_are_made_and_articles_agree() -> None:
    assert set(stories("a [owl|bear|apple]")) == {"an owl", "a bear", "an apple"}


def test_a_name_that_nothing_fills_is_an_error() -> None:
    with pytest.raises(KeyError, match="nobody"):
        stories("{nobody}")


@pytest.mark.usefixtures("many")
def test_an_episode_is_put_in_with_its_thing_and_comes_once() -> None:
    for story in stories("{A} had no spoon. <get spoon> Then {A} ate. <way> <way>"):
        assert "<" not in story and story.count("spoon") > 1
        sentences = re.split(r"(?<=[.!?]) ", story[story.index(" ate. ") + 6 :])
        assert len(sentences) > 6


def test_every_telling_is_the_same_at_every_call() -> None:
    for frame in FRAMES[::50]:
        assert told(frame) == told(frame) and asked_for(frame) == asked_for(frame)


def test_shipped_stories_and_talks_are_whole_and_differ() -> None:
    for frame in FRAMES:
        stories = [story["text"] for story in told(frame)]
        assert len(set(stories)) == TELLINGS
        assert all(whole(story) for story in stories), frame["id"]
        request, story = asked_for(frame)[0]["messages"]
        assert (request["role"], story["role"]) == ("user", "assistant") and whole(request["content"])
    for frame in TALKS:
        talks = [talk["messages"] for talk in talked(frame)]
        assert len({str(talk) for talk in talks}) > 1
        assert all(whole(turn["content"]) for talk in talks for turn in talk), frame["id"]


def whole(text: str) -> bool:
    """Filled in, with marks where they belong, from the first capital letter to the full stop."""
    odd = re.search(r"[\[\]{}<>|]|  | [,.!?]|[,.!?]{2}", text) or text.count('"') % 2
    return not odd and (text[0].isupper() or text[0] in '"0123456789') and text[-1] in '.!?"'


@pytest.mark.parametrize("name", ["frames", "talks"])
def test_held_out_frames_are_other_frames(name: str) -> None:
    learned, held_out = ({frame["id"] for frame in frames(name, split)} for split in ("train", "validation"))
    assert held_out and not learned & held_out
