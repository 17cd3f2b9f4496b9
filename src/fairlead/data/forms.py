"""From plain records to prompts, completions, conversations and preference pairs.

Knows: the forms and column names in which such data is published (TRL's, transcripts, ranked feedback) and their
errors. Does not know: files, tokenizers, batches.

Forms (a prompt or a side is a string or a list of messages `{role, content}`):

* prompt — `prompt`; or `messages`, whose last assistant turn is then left out
* completion — `prompt` with `response` or `completion`; or `messages`, whose last turn is the response
* conversation — `messages`; or `text`; or any completion form
* pair — `prompt`, `chosen`, `rejected`; or `chosen` and `rejected` as whole conversations that share a beginning
  (messages, or transcripts `Human: … Assistant: …`); optional `margin` and `weight`
* ranked feedback — `prompt`, `responses: [{id, text, …}]`, `choices: [{annotator, ranking: [["a"], ["b", "c"]]}]`,
  where a ranking lists groups of equally good responses, best first; a response that is not listed was not judged

Data of the wrong type raises DataError with file:line; data of the right type that cannot be learned from is dropped
and counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Any, Literal, TypeVar, cast

from fairlead.data.records import (
    CompletionRecord,
    ConversationRecord,
    DataError,
    FilterReport,
    Message,
    Origin,
    PairRecord,
    Prompt,
    PromptRecord,
    as_messages,
    describe_kind,
)
from fairlead.data.source import Table

__all__ = [
    "prompt_key",
    "prompt_keys",
    "to_completions",
    "to_conversations",
    "to_pair_groups",
    "to_pairs",
    "to_prompts",
]

Record = TypeVar("Record")
Tables = Table | Sequence[Table]


class _Drop(Exception):  # noqa: N818 - not an error, a verdict
    """This record (or pair) is left out, for the reason given."""


def to_prompts(tables: Tables) -> tuple[list[PromptRecord], FilterReport]:
    """Prompts from one or several tables, in order; raises DataError (file:line) for a wrong form."""
    return _convert(tables, lambda record, origin, report: iter([_prompt_record(record, origin)]))


def prompt_key(prompt: Prompt) -> str:
    """The words of a prompt with their roles, the same for a text and for a user's message that says it, whatever the case and blanks."""
    return "\n".join(f"{m['role']}: {' '.join(m['content'].casefold().split())}" for m in as_messages(prompt))


def prompt_keys(table: Table) -> tuple[set[str], int]:
    """Keys of all prompts in a table of any form, and how many records have none that could be told (documents, say)."""
    keys: set[str] = set()
    without = 0
    for record, origin in zip(table.records, table.origins, strict=True):
        try:
            keys.add(prompt_key(_prompt_record(record, origin).prompt))
        except (DataError, _Drop):
            without += 1
    return keys, without


def to_completions(
    tables: Tables, choose: Literal["best", "all"] = "best"
) -> tuple[list[CompletionRecord], FilterReport]:
    """Prompts with one response each.

    `choose` is for ranked feedback: the response that wins most comparisons by majority, or every response.
    """

    def convert(record: dict[str, Any], origin: Origin, report: FilterReport) -> Iterator[CompletionRecord]:
        if "responses" in record and "choices" in record:
            return _ranked_completions(record, origin, report, choose)
        return iter([_completion_record(record, origin)])

    return _convert(tables, convert)


def to_conversations(
    tables: Tables, choose: Literal["best", "all"] = "best"
) -> tuple[list[ConversationRecord | CompletionRecord], FilterReport]:
    """What supervised learning learns from: conversations, documents, and prompts with a response.

    The latter stay `CompletionRecord`s, so that assistant turns inside the prompt are not trained on.
    """

    def convert(
        record: dict[str, Any], origin: Origin, report: FilterReport
    ) -> Iterator[ConversationRecord | CompletionRecord]:
        if "responses" in record and "choices" in record:
            return iter(_ranked_completions(record, origin, report, choose))
        return iter([_conversation_record(record, origin)])

    return _convert(tables, convert)


def to_pairs(tables: Tables) -> tuple[list[PairRecord], FilterReport]:
    """Preference pairs.

    Ranked feedback gives a pair for every two responses of which more annotators prefer one than the other;
    `margin` is then (agreeing - disagreeing) / annotators who judged both, and the columns gain `chosen_id`,
    `rejected_id` and
    `votes` (annotator → 1, 0 or -1).
    """
    return _convert(tables, _pairs)


def to_pair_groups(tables: Tables) -> tuple[list[list[PairRecord]], FilterReport]:
    """Preference pairs as in `to_pairs`, those of one record of the data together; the report's sizes count records."""

    def convert(record: dict[str, Any], origin: Origin, report: FilterReport) -> Iterator[list[PairRecord]]:
        pairs = list(_pairs(record, origin, report))
        return iter([pairs] if pairs else [])

    groups, report = _convert(tables, convert)
    report.kept = sum(map(len, groups))
    return groups, report


def _pairs(record: dict[str, Any], origin: Origin, report: FilterReport) -> Iterator[PairRecord]:
    if "responses" in record and "chosen" not in record:
        return _ranked_pairs(record, origin, report)
    return iter([_pair_record(record, origin)])


def _convert(
    tables: Tables, convert: Callable[[dict[str, Any], Origin, FilterReport], Iterator[Record]]
) -> tuple[list[Record], FilterReport]:
    report = FilterReport()
    results: list[Record] = []
    for table in [tables] if isinstance(tables, Table) else tables:
        before = len(results)
        for record, origin in zip(table.records, table.origins, strict=True):
            try:
                results.extend(convert(record, origin, report))
            except _Drop as reason:
                report.drop(str(reason), origin)
        report.sizes.append(len(results) - before)
        report.weights.append(table.weight)
    report.kept = len(results)
    return results, report


# ---------------------------------------------------------------------------------------------------------------------
# One record
# ---------------------------------------------------------------------------------------------------------------------


def _prompt_record(record: dict[str, Any], origin: Origin) -> PromptRecord:
    if "prompt" in record:
        return PromptRecord(_prompt(record, origin), _others(record, "prompt"))
    if "messages" in record:
        messages = _messages(record["messages"], "messages", origin)
        while messages and messages[-1]["role"] == "assistant":
            messages = messages[:-1]
        if not messages:
            raise _Drop("empty prompt")
        return PromptRecord(messages, _others(record, "messages"))
    if isinstance(record.get("chosen"), list | str) and "rejected" in record:
        prompt, chosen, rejected = _split_sides(record, origin)
        return PromptRecord(prompt, _others(record, "chosen", "rejected") | {"chosen": chosen, "rejected": rejected})
    raise _missing(record, origin, "'prompt' or 'messages'", "prompt")


def _completion_record(record: dict[str, Any], origin: Origin) -> CompletionRecord:
    if "prompt" in record:
        name = "response" if "response" in record else "completion"
        if name not in record:
            raise _missing(record, origin, "'response' or 'completion' beside 'prompt'", "response")
        prompt, response = _prompt(record, origin), _side(record[name], name, origin)
        if isinstance(record[name], list):
            prompt = as_messages(prompt)
        return CompletionRecord(prompt, _filled(response), _others(record, "prompt", name))
    if "messages" in record:
        messages = _messages(record["messages"], "messages", origin)
        if not messages or messages[-1]["role"] != "assistant":
            raise _Drop("no response at the end of messages")
        if len(messages) == 1:
            raise _Drop("empty prompt")
        return CompletionRecord(messages[:-1], _filled(messages[-1]["content"]), _others(record, "messages"))
    raise _missing(record, origin, "'prompt' with 'response' or 'completion', or 'messages'", "prompt")


def _conversation_record(record: dict[str, Any], origin: Origin) -> ConversationRecord | CompletionRecord:
    if "messages" in record:
        messages = _messages(record["messages"], "messages", origin)
        if not any(message["role"] == "assistant" and message["content"].strip() for message in messages):
            raise _Drop("no assistant turn")
        return ConversationRecord(messages=messages, columns=_others(record, "messages"))
    if "prompt" in record:
        return _completion_record(record, origin)
    if "text" in record:
        text = _string(record["text"], "text", origin)
        if not text.strip():
            raise _Drop("empty text")
        return ConversationRecord(text=text, columns=_others(record, "text"))
    raise _missing(record, origin, "'messages', 'text', or 'prompt' with 'response'", "text")


def _pair_record(record: dict[str, Any], origin: Origin) -> PairRecord:
    for name in ("chosen", "rejected"):
        if name not in record:
            raise _missing(
                record, origin, "'chosen' and 'rejected' (with 'prompt'), or 'responses' with 'choices'", name
            )
    margin = _number(record.get("margin"), "margin", origin, default=0.0)
    if _number(record.get("weight"), "weight", origin, default=1.0) < 0:
        raise DataError(
            f"{origin}: field 'weight': expected a number of at least 0, found {describe_kind(record['weight'])}"
        )
    whole = [isinstance(record[name], list) and len(record[name]) > 1 for name in ("chosen", "rejected")]
    if "prompt" not in record or any(whole):
        # Sides that are whole conversations bring their prompt; a 'prompt' beside them repeats its last question.
        prompt, chosen, rejected = _split_sides(record, origin)
    else:
        prompt = _prompt(record, origin)
        chosen, rejected = (_side(record[name], name, origin) for name in ("chosen", "rejected"))
        if isinstance(record["chosen"], list) or isinstance(record["rejected"], list):
            prompt = as_messages(prompt)
    _check_sides(chosen, rejected)
    return PairRecord(prompt, chosen, rejected, margin, _others(record, "prompt", "chosen", "rejected", "margin"))


def _split_sides(record: dict[str, Any], origin: Origin) -> tuple[Prompt, str, str]:
    """The prompt that two whole conversations share, and the turns in which they differ."""
    chosen, rejected = (_conversation_side(record[name], name, origin) for name in ("chosen", "rejected"))
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    if shared == len(chosen) == len(rejected):
        raise _Drop("equal sides")
    rests = chosen[shared:], rejected[shared:]
    if shared == 0:
        raise DataError(
            f"{origin}: 'chosen' and 'rejected' share no beginning that could be the prompt; add a field 'prompt'"
        )
    if any(len(rest) != 1 for rest in rests):
        raise _Drop("sides differ in more than the last turn")
    if any(rest[0]["role"] != "assistant" for rest in rests):
        raise _Drop("sides differ in a turn that is not the assistant's")
    return chosen[:shared], rests[0][0]["content"], rests[1][0]["content"]


_SPEAKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):[ \t]*")


def _conversation_side(value: Any, name: str, origin: Origin) -> list[Message]:
    if isinstance(value, str):
        pieces = _SPEAKER.split(value)  # text before, speaker, words, speaker, words, …
        if len(pieces) < 5 or pieces[0].strip():
            raise DataError(
                f"{origin}: field {name!r}: without a field 'prompt' expected a list of messages or a transcript "
                f"'Human: … Assistant: …', found {describe_kind(value)}"
            )
        roles = {"Human": "user", "Assistant": "assistant"}
        return [
            {"role": roles[speaker], "content": words.strip()}
            for speaker, words in zip(pieces[1::2], pieces[2::2], strict=True)
        ]
    return _messages(value, name, origin)


def _check_sides(chosen: str, rejected: str) -> None:
    _filled(chosen)
    _filled(rejected)
    if chosen.strip() == rejected.strip():
        raise _Drop("equal sides")


# ---------------------------------------------------------------------------------------------------------------------
# Ranked feedback
# ---------------------------------------------------------------------------------------------------------------------


class _Ranked:
    """A record of ranked feedback: its prompt, its responses by id, and what each annotator thinks of two of them."""

    def __init__(self, record: dict[str, Any], origin: Origin) -> None:
        for name in ("responses", "choices"):
            if not isinstance(record.get(name), list):
                raise DataError(f"{origin}: field {name!r}: expected a list, found {describe_kind(record.get(name))}")
        self.prompt = _prompt(record, origin)
        self.columns = _others(record, "prompt", "responses", "choices")
        self.responses: dict[str, dict[str, Any]] = {}
        for number, response in enumerate(record["responses"]):
            where = f"responses[{number}]"
            if not isinstance(response, dict):
                raise DataError(
                    f"{origin}: field {where!r}: expected an object with id and text, found {describe_kind(response)}"
                )
            name = _string(response.get("id"), f"{where}.id", origin)
            _string(response.get("text"), f"{where}.text", origin)
            if name in self.responses:
                raise DataError(f"{origin}: field '{where}.id': the id {name!r} stands there twice")
            self.responses[name] = response
        self.opinions = [self._places(choice, number, origin) for number, choice in enumerate(record["choices"])]

    def _places(self, choice: Any, number: int, origin: Origin) -> tuple[str, dict[str, int]]:
        """The annotator and the place (0 is best) of every response that they ranked."""
        where = f"choices[{number}]"
        if not isinstance(choice, dict):
            raise DataError(
                f"{origin}: field {where!r}: expected an object with annotator and ranking, "
                f"found {describe_kind(choice)}"
            )
        ranking = choice.get("ranking")
        if not isinstance(ranking, list) or not all(isinstance(group, list) for group in ranking):
            raise DataError(
                f"{origin}: field '{where}.ranking': expected a list of lists of ids, best first, "
                f"found {describe_kind(ranking)}"
            )
        places: dict[str, int] = {}
        for place, group in enumerate(ranking):
            for name in group:
                if not isinstance(name, str) or name not in self.responses:
                    known = ", ".join(self.responses)
                    raise DataError(
                        f"{origin}: field '{where}.ranking': no response has the id {name!r}; the ids are {known}"
                    )
                if name in places:
                    raise DataError(f"{origin}: field '{where}.ranking': the id {name!r} stands there twice")
                places[name] = place
        return str(choice.get("annotator", number)), places

    def votes(self, first: str, second: str) -> list[tuple[str, int]]:
        """For each annotator who judged both: 1 where the first is better, -1 where the second is, 0 for a tie."""
        return [
            (annotator, (places[first] < places[second]) - (places[first] > places[second]))
            for annotator, places in self.opinions
            if first in places and second in places
        ]


def _ranked_pairs(record: dict[str, Any], origin: Origin, report: FilterReport) -> Iterator[PairRecord]:
    ranked = _Ranked(record, origin)
    for first, second in combinations(ranked.responses, 2):
        votes = ranked.votes(first, second)
        if not votes:
            report.drop("not ranked", origin)
            continue
        balance = sum(vote for _, vote in votes)
        if balance == 0:
            report.drop("tie", origin)
            continue
        chosen, rejected, sign = (first, second, 1) if balance > 0 else (second, first, -1)
        texts = ranked.responses[chosen]["text"], ranked.responses[rejected]["text"]
        try:
            _check_sides(*texts)
        except _Drop as reason:
            report.drop(str(reason), origin)
            continue
        columns = ranked.columns | {
            "chosen_id": chosen,
            "rejected_id": rejected,
            "votes": {annotator: sign * vote for annotator, vote in votes},
        }
        yield PairRecord(ranked.prompt, *texts, abs(balance) / len(votes), columns)


def _ranked_completions(
    record: dict[str, Any], origin: Origin, report: FilterReport, choose: Literal["best", "all"]
) -> Iterator[CompletionRecord]:
    ranked = _Ranked(record, origin)
    names = [name for name, response in ranked.responses.items() if response["text"].strip()]
    report_empty = len(ranked.responses) - len(names)
    if report_empty:
        report.drop("empty response", origin, report_empty)
    if choose == "best":
        # Copeland's rule: most comparisons won less lost by majority; the sum of votes and then the order decide ties.
        def standing(name: str) -> tuple[int, int]:
            balances = [sum(vote for _, vote in ranked.votes(name, other)) for other in names if other != name]
            return sum((balance > 0) - (balance < 0) for balance in balances), sum(balances)

        judged = [name for name in names if any(name in places for _, places in ranked.opinions)]
        if names and not judged:
            raise _Drop("not ranked")
        names = [max(judged, key=standing)] if judged else []
    for name in names:
        others = {key: value for key, value in ranked.responses[name].items() if key not in ("id", "text")}
        columns = ranked.columns | {"response_id": name} | others
        yield CompletionRecord(ranked.prompt, ranked.responses[name]["text"], columns)


# ---------------------------------------------------------------------------------------------------------------------
# Fields
# ---------------------------------------------------------------------------------------------------------------------


def _others(record: dict[str, Any], *used: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in used}


def _missing(record: dict[str, Any], origin: Origin, expected: str, name: str) -> DataError:
    fields = ", ".join(record) or "none"
    return DataError(
        f"{origin}: expected the fields {expected}; the record has {fields}. "
        f"Where another field plays that part, write rename: {{FIELD: {name}}} in the recipe"
    )


def _prompt(record: dict[str, Any], origin: Origin) -> Prompt:
    value = record.get("prompt")
    if isinstance(value, str):
        if not value:
            raise _Drop("empty prompt")
        return value
    if isinstance(value, list):
        messages = _messages(value, "prompt", origin)
        if not messages:
            raise _Drop("empty prompt")
        return messages
    raise DataError(f"{origin}: field 'prompt': expected a string or a list of messages, found {describe_kind(value)}")


def _messages(value: Any, name: str, origin: Origin) -> list[Message]:
    if not isinstance(value, list):
        raise DataError(f"{origin}: field {name!r}: expected a list of messages, found {describe_kind(value)}")
    messages = []
    for number, message in enumerate(value):
        where = f"{name}[{number}]"
        if not isinstance(message, dict):
            raise DataError(
                f"{origin}: field {where!r}: expected an object with role and content, found {describe_kind(message)}"
            )
        for key in ("role", "content"):
            _string(message.get(key), f"{where}.{key}", origin)
        # Columnar formats fill the keys that a message lacks with nulls, which chat templates would take for values.
        messages.append(cast(Message, {key: item for key, item in message.items() if item is not None}))
    return messages


def _side(value: Any, name: str, origin: Origin) -> str:
    """A response: a string, or a list with one message of the assistant."""
    if isinstance(value, list):
        messages = _messages(value, name, origin)
        if len(messages) > 1:
            raise _Drop("response of several messages")
        if messages and messages[0]["role"] != "assistant":
            raise DataError(f"{origin}: field '{name}[0].role': expected 'assistant', found {messages[0]['role']!r}")
        return messages[0]["content"] if messages else ""
    if not isinstance(value, str):
        raise DataError(
            f"{origin}: field {name!r}: expected a string or a list with one message, found {describe_kind(value)}"
        )
    return value


def _filled(response: str) -> str:
    if not response.strip():
        raise _Drop("empty response")
    return response


def _string(value: Any, name: str, origin: Origin) -> str:
    if not isinstance(value, str):
        raise DataError(f"{origin}: field {name!r}: expected a string, found {describe_kind(value)}")
    return value


def _number(value: Any, name: str, origin: Origin, default: float) -> float:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise DataError(f"{origin}: field {name!r}: expected a number, found {describe_kind(value)}")
    return float(value)
