"""What a record is once its form is known, where it came from, and the ledger of what was left out.

Knows: the record types that the rest of the house reads, origins (file and line), reports, the error of bad data.
Does not know: file formats, tokenizers, batches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, TypedDict

__all__ = [
    "CompletionRecord",
    "ConversationRecord",
    "DataError",
    "FilterReport",
    "Message",
    "Origin",
    "PairRecord",
    "Prompt",
    "PromptRecord",
    "as_messages",
    "before_response",
    "describe_kind",
]


class Message(TypedDict):
    """One turn of a conversation. Further keys (`name`, `tool_calls`, …) are passed on to the chat template."""

    role: str
    content: str


Prompt = str | list[Message]
"""A string is plain text and used without a chat template; messages go through the template."""


def as_messages(prompt: Prompt) -> list[Message]:
    """A prompt as messages; plain text is what a user says."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)


def before_response(row: dict[str, Any]) -> Prompt:
    """What stands before the `response` of a row of samples: its prompt, and in a dialogue all turns but the last."""
    turns = row.get("response_turns") or []
    return [*as_messages(row["prompt"]), *turns[:-1]] if len(turns) > 1 else row["prompt"]


class DataError(ValueError):
    """Data that cannot be used; the message says where (file:line), what was found and what was expected."""


def describe_kind(value: Any) -> str:
    """What a value is, in words of JSON."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"the truth value {str(value).lower()}"
    names = {dict: "an object", list: "a list", str: "a string", int: "a number", float: "a number"}
    shown = repr(value)
    return f"{names.get(type(value), type(value).__name__)} {shown if len(shown) <= 60 else shown[:57] + '…'}"


class Origin(NamedTuple):
    """Where a record stands."""

    file: str
    line: int
    """From 1; the number of the record in formats without lines."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class PromptRecord:
    """A prompt to answer."""

    prompt: Prompt
    columns: dict[str, Any] = field(default_factory=dict)
    """All other fields of the source record, here and in the other records."""


@dataclass(frozen=True, slots=True)
class CompletionRecord:
    """A prompt with one response; supervised learning trains on the response only."""

    prompt: Prompt
    response: str
    columns: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ConversationRecord:
    """A whole conversation (`messages`) or a plain document (`text`); exactly one of the two is given."""

    messages: list[Message] | None = None
    text: str | None = None
    columns: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.messages is None) == (self.text is None):
            raise ValueError("a conversation has either messages or text")


@dataclass(frozen=True, slots=True)
class PairRecord:
    """A prompt with a preferred and a rejected response."""

    prompt: Prompt
    chosen: str
    rejected: str
    margin: float = 0.0
    """By how much the chosen response was preferred; 0 where the data does not say."""
    columns: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class FilterReport:
    """How many records were kept, and how many were dropped or changed for which reason."""

    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    """Kept, yet not as they stood: truncated, split."""
    examples: dict[str, list[Origin]] = field(default_factory=dict)
    """For each reason where the first few such records stand."""
    sizes: list[int] = field(default_factory=list)
    """How many of the kept records came from each source, in order: what `SeededSampler` mixes."""
    weights: list[float] = field(default_factory=list)
    """The weight of each source."""

    EXAMPLES: ClassVar[int] = 3

    def drop(self, reason: str, origin: Origin | None = None, count: int = 1) -> None:
        """Count `count` records as left out."""
        self.dropped[reason] += count
        self._remember(reason, origin)

    def change(self, reason: str, origin: Origin | None = None, count: int = 1) -> None:
        """Count `count` records as kept in a changed form."""
        self.changed[reason] += count
        self._remember(reason, origin)

    def add(self, others: Iterable[FilterReport]) -> None:
        """Take over the counts of other reports; sizes and weights are of this report's own sources."""
        for other in others:
            self.kept += other.kept
            self.dropped.update(other.dropped)
            self.changed.update(other.changed)
            for reason, origins in other.examples.items():
                for origin in origins:
                    self._remember(reason, origin)

    def _remember(self, reason: str, origin: Origin | None) -> None:
        known = self.examples.setdefault(reason, [])
        if origin is not None and len(known) < self.EXAMPLES and origin not in known:
            known.append(origin)

    def __str__(self) -> str:
        """One line: `kept 90 of 97; dropped 7: 5 equal sides (a.jsonl:3, …), 2 empty response (a.jsonl:9)`."""
        gone = self.dropped.total()
        pieces = [f"kept {self.kept} of {self.kept + gone}" if gone else f"kept {self.kept}"]
        if gone:
            pieces.append(f"dropped {gone}: {self._reasons(self.dropped)}")
        if self.changed:
            pieces.append(f"changed {self.changed.total()}: {self._reasons(self.changed)}")
        return "; ".join(pieces)

    def _reasons(self, counts: Counter[str]) -> str:
        lines = []
        for reason, count in counts.most_common():
            known = self.examples.get(reason, [])
            where = ", ".join(str(origin) for origin in known) + (", …" if len(known) < count else "")
            lines.append(f"{count} {reason}" + (f" ({where})" if known else ""))
        return ", ".join(lines)
