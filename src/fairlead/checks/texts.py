"""Checks of a text by its characters: equality, patterns, JSON, and instructions that can be verified.

Knows: one text and what is asked of it. Nothing depends on a language: words are what white space separates, and
sentences end at the marks of many scripts.
Does not know: rewards, records.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable
from typing import Any

__all__ = [
    "KINDS",
    "NO_ANSWER",
    "answer_of",
    "answer_within",
    "block_of",
    "check_instructions",
    "exact",
    "instructions",
    "matches",
    "passes_check",
    "valid_json",
]

_SENTENCE_END = re.compile(r"(?:[.!?]+(?=[\s\"'”’)\]]|$))|[。！？۔।…]+")
_FENCE = re.compile(r"```[^\n`]*\n(.*?)```", re.DOTALL)
_THOUGHT_END = "</think>"


def answer_of(text: str) -> str:
    """The text behind the last end-of-thinking marker; all of it where there is none."""
    return text.rpartition(_THOUGHT_END)[2]


NO_ANSWER = "[NULL]"
"""What stands for an answer that is not there."""


def answer_within(text: str, delimiter: str | None, end: str | None, strict: bool) -> tuple[str, bool]:
    """What stands between the first `delimiter` and the first `end` behind it, and whether both are there.

    Where one is missing, the answer reaches to that end of the text; with `strict` there is no answer, which is `NO_ANSWER`. None
    asks for no such mark. White space around the answer is left out, unless it is the whole text.
    """
    whole = True
    for mark, behind in ((delimiter, True), (end, False)):
        if mark is None:
            continue
        before, found, after = text.partition(mark)
        if found:
            text = (after if behind else before).strip()
        else:
            whole = False
    return (NO_ANSWER if strict and not whole else text), whole


def block_of(text: str) -> str:
    """What stands in the last fenced block of a text, or the whole text where there is none."""
    blocks = _FENCE.findall(text)
    return blocks[-1] if blocks else text


# -- equality and patterns -----------------------------------------------------------------------------------------------


def exact(response: str, reference: Any, extract: str | None, ignore_case: bool) -> float:
    """1 when the response, or what `extract` finds last in it, is the reference (or one of a list of them).

    White space at the ends and its amount in between do not count. `extract` is a regular expression; its first group is
    compared, or the whole match where it has none. Nothing found is 0.
    """
    found: str | None = answer_of(response)
    if extract is not None and found is not None:
        matched = list(re.finditer(extract, found))
        found = matched[-1].group(1 if matched[-1].re.groups else 0) if matched else None

    def plain(value: Any) -> str:
        text = " ".join(str(value).split())
        return text.casefold() if ignore_case else text

    references = reference if isinstance(reference, list) else [reference]
    return float(found is not None and plain(found) in [plain(value) for value in references])


def matches(response: str, pattern: str, whole: bool) -> float:
    """1 when the pattern is found in the response, or matches all of it with `whole`."""
    text = answer_of(response)
    return float((re.fullmatch(pattern, text.strip()) if whole else re.search(pattern, text)) is not None)


# -- JSON ----------------------------------------------------------------------------------------------------------------


def valid_json(response: str, schema: dict[str, Any] | None) -> float:
    """1 when the response, or the last fenced block in it, is JSON (RFC 8259), and meets the JSON Schema if there is one.

    Raises: jsonschema.SchemaError for a schema that is none.
    """
    try:
        value = json.loads(block_of(answer_of(response)), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return 0.0
    if schema is None:
        return 1.0
    validator = importlib.import_module("jsonschema").validators.validator_for(schema)
    validator.check_schema(schema)
    return float(validator(schema).is_valid(value))


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


# -- instructions --------------------------------------------------------------------------------------------------------


def passes_check(check: dict[str, Any], text: str) -> bool:
    """Whether a text contains all / any of the check's words (whole words, any case) and is no longer than its limit."""
    unknown = set(check) - {"all", "any", "max_words"}
    if unknown:
        raise ValueError(f"unknown check {sorted(unknown)}; use all, any, max_words")
    return (
        _include(text, check.get("all", ()))
        and (not check.get("any") or _any(text, check["any"]))
        and ("max_words" not in check or _words(text, {"at_most": check["max_words"]}))
    )


def instructions(response: str, wanted: list[dict[str, Any]], partial: bool) -> float:
    """Share of the instructions that the response follows with `partial`, else 1 when it follows all of them.

    Raises: ValueError for instructions that `check_instructions` refuses.
    """
    check_instructions(wanted)
    text = answer_of(response).strip()
    followed = [KINDS[kind](text, value) for item in wanted for kind, value in item.items()]
    return sum(followed) / len(followed) if partial else float(all(followed))


def check_instructions(wanted: Any) -> None:
    """Raises ValueError where `wanted` is no list of instructions, and says which are known."""
    if not isinstance(wanted, list) or not wanted or not all(isinstance(item, dict) and item for item in wanted):
        raise ValueError(
            f"instructions are a list of mappings such as [{{words: {{at_most: 20}}}}], not {wanted!r:.80}"
        )
    for item in wanted:
        for kind, value in item.items():
            if kind not in KINDS:
                raise ValueError(f"unknown instruction {kind!r}; use {', '.join(KINDS)}")
            try:
                KINDS[kind]("", value)
            except (TypeError, KeyError, AttributeError) as error:
                raise ValueError(f"instruction {kind} cannot be {value!r:.80}") from error


def _has(text: str, word: str) -> bool:
    return _times(text, word) > 0


def _times(text: str, word: str) -> int:
    """How often the word stands in the text as a whole word, in any case."""
    return len(re.findall(rf"(?<!\w){re.escape(word)}(?!\w)", text, flags=re.IGNORECASE))


def _include(text: str, words: list[str]) -> bool:
    return all(_has(text, word) for word in _listed(words))


def _any(text: str, words: list[str]) -> bool:
    return any(_has(text, word) for word in _listed(words))


def _listed(words: Any) -> Any:
    """Refuse a bare string, which would be read letter by letter."""
    if isinstance(words, str):
        raise TypeError("a list of words is wanted")
    return [word + "" for word in words]  # TypeError for what is no word


def _within(count: int, bounds: dict[str, int]) -> bool:
    unknown = set(bounds) - {"at_least", "at_most"}
    if unknown or not bounds:
        raise ValueError(f"bounds are at_least and at_most, not {sorted(bounds)}")
    return bounds.get("at_least", 0) <= count <= bounds.get("at_most", float("inf"))


def _words(text: str, bounds: dict[str, int]) -> bool:
    return _within(len(text.split()), bounds)


def _sentences(text: str, bounds: dict[str, int]) -> bool:
    pieces = [piece for piece in _SENTENCE_END.split(text) if re.search(r"\w", piece)]
    return _within(len(pieces), bounds)


def _lines(text: str, bounds: dict[str, int]) -> bool:
    return _within(sum(bool(line.strip()) for line in text.splitlines()), bounds)


def _paragraphs(text: str, bounds: dict[str, int]) -> bool:
    return _within(sum(bool(part.strip()) for part in re.split(r"\n\s*\n", text)), bounds)


def _count(text: str, wanted: dict[str, Any]) -> bool:
    bounds = dict(wanted)
    return _within(_times(text, bounds.pop("word")), bounds)


_FORMATS: dict[str, Callable[[str], bool]] = {
    "json": lambda text: valid_json(text, None) == 1.0,
    "bullets": lambda text: _every_line(text, r"[-*•] +\S"),
    "numbered": lambda text: _every_line(text, r"\d+[.)] +\S"),
    "upper": str.isupper,
    "lower": str.islower,
    "no-commas": lambda text: not re.search("[,،，、]", text),
    "quoted": lambda text: len(text) > 1 and (text[0], text[-1]) in {('"', '"'), ("“", "”"), ("«", "»"), ("「", "」")},
}


def _every_line(text: str, pattern: str) -> bool:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return bool(lines) and all(re.match(pattern, line) for line in lines)


def _format(text: str, name: str) -> bool:
    if name not in _FORMATS:
        raise ValueError(f"unknown format {name!r}; use {', '.join(_FORMATS)}")
    return _FORMATS[name](text)


KINDS: dict[str, Callable[[str, Any], bool]] = {
    "words": _words,
    "sentences": _sentences,
    "lines": _lines,
    "paragraphs": _paragraphs,
    "include": _include,
    "any": _any,
    "exclude": lambda text, words: not _any(text, words),
    "count": _count,
    "starts": lambda text, start: text.casefold().startswith(start.casefold()),
    "ends": lambda text, end: text.casefold().endswith(end.casefold()),
    "format": _format,
}
"""Kind of instruction → whether a text follows one: bounds (`at_least`, `at_most`) of words, sentences, lines and paragraphs;
lists of whole words to include (all of them, or any) or exclude; a word's count; how the text starts and ends; its format."""
