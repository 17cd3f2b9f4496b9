"""Checks of characters, worked by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fairlead.checks.texts import answer_of, block_of, exact, instructions, matches, valid_json


def test_what_is_looked_at() -> None:
    assert answer_of("<think>no</think> yes") == " yes" and answer_of("yes") == "yes"
    assert block_of("```\na\n```\nand\n```json\nb\n```") == "b\n" and block_of("plain") == "plain"


@pytest.mark.parametrize(
    ("response", "reference", "extract", "ignore_case", "value"),
    [
        (" a  b\n", "a b", None, False, 1.0),
        ("A", "a", None, False, 0.0),
        ("A", "a", None, True, 1.0),
        ("7", 7, None, False, 1.0),
        ("b", ["a", "b"], None, False, 1.0),
        ("", "", None, False, 1.0),
        ("The answer is 4. No, the answer is 5.", "5", r"answer is (\d+)", False, 1.0),
        ("The answer is 5. No, the answer is 4.", "5", r"answer is (\d+)", False, 0.0),
        ("so 12", "12", r"\d+", False, 1.0),
        ("nothing", "", r"\d+", False, 0.0),
        ("<think>5</think>6", "5", r"\d+", False, 0.0),
    ],
)
def test_exact(response: str, reference: Any, extract: str | None, ignore_case: bool, value: float) -> None:
    assert exact(response, reference, extract, ignore_case) == value


def test_patterns() -> None:
    assert matches("so <a>1</a>.", "<a>.*</a>", whole=False) == 1.0
    assert matches("so <a>1</a>.", "<a>.*</a>", whole=True) == 0.0
    assert matches(" <a>1</a>\n", "<a>.*</a>", whole=True) == 1.0


@pytest.mark.parametrize(
    ("response", "value"),
    [
        ('{"a": 1}', 1.0),
        ('Here:\n```json\n{"a": 1}\n```', 1.0),
        ('<think>x</think>{"a": 1}', 1.0),
        ('{"a": "1"}', 0.0),
        ('{"b": 1}', 0.0),
        ("{'a': 1}", 0.0),
        ('{"a": NaN}', 0.0),
        ("[" * 100_000, 0.0),
        ("", 0.0),
    ],
)
def test_json(response: str, value: float) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    assert valid_json(response, schema) == value
    if value:
        assert valid_json(response, None) == 1.0


def test_a_schema_that_is_none_is_an_error() -> None:
    assert valid_json(json.dumps([1]), None) == 1.0
    with pytest.raises(Exception, match="is not valid under any"):
        valid_json("1", {"type": 3})


@pytest.mark.parametrize(
    ("wanted", "text", "follows"),
    [
        ({"words": {"at_least": 2, "at_most": 3}}, "one two", True),
        ({"words": {"at_least": 2, "at_most": 3}}, "one", False),
        ({"words": {"at_most": 3}}, "one two three four", False),
        ({"sentences": {"at_least": 2, "at_most": 2}}, "One? Two, 3.5 of them!", True),
        ({"sentences": {"at_least": 2}}, "Only one...", False),
        ({"sentences": {"at_least": 2, "at_most": 2}}, "一つ。二つ。", True),
        ({"lines": {"at_most": 1}}, "a\n\n", True),
        ({"lines": {"at_most": 1}}, "a\nb", False),
        ({"paragraphs": {"at_least": 2}}, "a\n \nb", True),
        ({"paragraphs": {"at_least": 2}}, "a\nb", False),
        ({"include": ["cat", "Hund"]}, "Cat, hund", True),
        ({"include": ["cat"]}, "concatenate", False),
        ({"any": ["cat", "dog"]}, "a dog", True),
        ({"any": ["cat", "dog"]}, "a cow", False),
        ({"exclude": ["cat"]}, "a cow", True),
        ({"exclude": ["cat", "cow"]}, "a cow", False),
        ({"count": {"word": "so", "at_least": 2}}, "So so also", True),
        ({"count": {"word": "so", "at_least": 3}}, "So so also", False),
        ({"starts": "Dear"}, "dear Ann", True),
        ({"starts": "Dear"}, "Oh dear", False),
        ({"ends": "bye."}, "Bye.", True),
        ({"ends": "bye."}, "Bye. x", False),
        ({"format": "json"}, "[1]", True),
        ({"format": "json"}, "[1", False),
        ({"format": "bullets"}, "- a\n* b", True),
        ({"format": "bullets"}, "- a\nb", False),
        ({"format": "numbered"}, "1. a\n2) b", True),
        ({"format": "upper"}, "ABC 1", True),
        ({"format": "lower"}, "abC", False),
        ({"format": "no-commas"}, "a b", True),
        ({"format": "no-commas"}, "a、b", False),
        ({"format": "quoted"}, "«a»", True),
        ({"format": "quoted"}, '"', False),
    ],
)
def test_instructions(wanted: dict[str, Any], text: str, follows: bool) -> None:
    assert instructions(f"<think>hm</think> {text} ", [wanted], partial=False) == float(follows)


def test_shares_of_instructions() -> None:
    wanted = [{"words": {"at_most": 2}, "starts": "a"}, {"ends": "x"}]
    assert instructions("a b", wanted, partial=True) == pytest.approx(2 / 3)
    assert instructions("a b", wanted, partial=False) == 0.0


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ([], "list of mappings"),
        ({"words": {}}, "list of mappings"),
        ([{"wrods": {"at_most": 1}}], "unknown instruction 'wrods'; use words,"),
        ([{"words": {"maximum": 1}}], "bounds are at_least and at_most"),
        ([{"words": 3}], "instruction words cannot be 3"),
        ([{"include": "cat"}], "instruction include cannot be"),
        ([{"include": [3]}], "instruction include cannot be"),
        ([{"count": {"at_least": 1}}], "instruction count cannot be"),
        ([{"format": "poem"}], "unknown format 'poem'; use json,"),
        ([{"starts": 3}], "instruction starts cannot be 3"),
    ],
)
def test_instructions_that_are_none(wanted: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        instructions("x", wanted, partial=False)
