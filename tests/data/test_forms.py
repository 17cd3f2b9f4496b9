"""The forms of data, ranked feedback worked by hand, and every message about a wrong form."""

from __future__ import annotations

from typing import Any

import pytest

from fairlead.data import (
    CompletionRecord,
    ConversationRecord,
    DataError,
    FilterReport,
    Origin,
    PairRecord,
    PromptRecord,
    Table,
    to_completions,
    to_conversations,
    to_pair_groups,
    to_pairs,
    to_prompts,
)


def table(*records: dict[str, Any], weight: float = 1.0) -> Table:
    return Table(list(records), [Origin("a.jsonl", i) for i in range(1, len(records) + 1)], FilterReport(), weight)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_prompts() -> None:
    records, report = to_prompts(
        table(
            {"prompt": "plain", "answer": 4},
            {"prompt": [user("q")], "id": "x"},
            {"messages": [user("q"), assistant("a"), user("r"), assistant("b")]},
            {"chosen": [user("q"), assistant("a")], "rejected": [user("q"), assistant("b")]},
            {"prompt": ""},
            {"prompt": []},
        )
    )
    assert records == [
        PromptRecord("plain", {"answer": 4}),
        PromptRecord([user("q")], {"id": "x"}),
        PromptRecord([user("q"), assistant("a"), user("r")]),
        PromptRecord([user("q")], {"chosen": "a", "rejected": "b"}),
    ]
    assert report.kept == 4 and report.dropped == {"empty prompt": 2}
    assert str(report) == "kept 4 of 6; dropped 2: 2 empty prompt (a.jsonl:5, a.jsonl:6)"


def test_several_tables_keep_their_sizes_and_weights() -> None:
    records, report = to_prompts(
        [table({"prompt": "a"}, {"prompt": ""}), table({"prompt": "b"}, {"prompt": "c"}, weight=3.0)]
    )
    assert [record.prompt for record in records] == ["a", "b", "c"]
    assert (report.sizes, report.weights, report.kept) == ([1, 2], [1.0, 3.0], 3)


def test_completions() -> None:
    records, report = to_completions(
        table(
            {"prompt": "p", "response": "r", "id": 1},
            {"prompt": "p", "completion": " r"},
            {"prompt": [user("q")], "completion": [assistant("a")]},
            {"prompt": "q", "completion": [assistant("a")]},
            {"messages": [user("q"), assistant("a")]},
            {"prompt": "p", "response": "  "},
            {"messages": [user("q")]},
            {"messages": [assistant("q")]},
            {"prompt": [user("q")], "completion": [assistant("a"), user("b")]},
        )
    )
    assert records == [
        CompletionRecord("p", "r", {"id": 1}),
        CompletionRecord("p", " r"),
        CompletionRecord([user("q")], "a"),
        CompletionRecord([user("q")], "a"),
        CompletionRecord([user("q")], "a"),
    ]
    assert report.dropped == {
        "empty response": 1,
        "no response at the end of messages": 1,
        "empty prompt": 1,
        "response of several messages": 1,
    }


def test_conversations() -> None:
    talk = [user("q"), assistant("a")]
    records, report = to_conversations(
        table(
            {"messages": talk, "id": 1},
            {"text": "words", "id": 2},
            {"prompt": [*talk, user("r")], "response": "b"},
            {"messages": [user("q")]},
            {"messages": []},
            {"text": " "},
        )
    )
    assert records == [
        ConversationRecord(messages=talk, columns={"id": 1}),
        ConversationRecord(text="words", columns={"id": 2}),
        CompletionRecord([*talk, user("r")], "b"),
    ]
    assert report.dropped == {"no assistant turn": 2, "empty text": 1}
    with pytest.raises(ValueError, match="either messages or text"):
        ConversationRecord()


def test_nulls_of_columnar_formats_are_left_out() -> None:
    records, _ = to_prompts(table({"prompt": [{"role": "user", "content": "q", "name": None, "tool": "t"}]}))
    assert records[0].prompt == [{"role": "user", "content": "q", "tool": "t"}]


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": [user("q")], "chosen": "a", "rejected": "b"},
        {"prompt": [user("q")], "chosen": [assistant("a")], "rejected": [assistant("b")]},
        {"prompt": "q", "chosen": [assistant("a")], "rejected": [assistant("b")]},
        {"chosen": [user("q"), assistant("a")], "rejected": [user("q"), assistant("b")]},
        {"prompt": "q", "chosen": [user("q"), assistant("a")], "rejected": [user("q"), assistant("b")]},
        {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
    ],
)
def test_pair_forms(record: dict[str, Any]) -> None:
    assert to_pairs(table(record))[0] == [PairRecord([user("q")], "a", "b")]


def test_pairs_with_plain_prompt_margin_and_weight() -> None:
    records, _ = to_pairs(table({"prompt": "q", "chosen": " a", "rejected": " b", "margin": 0.5, "weight": 2, "id": 7}))
    assert records == [PairRecord("q", " a", " b", 0.5, {"weight": 2, "id": 7})]


def test_implicit_prompt_ends_before_the_first_turn_that_differs() -> None:
    shared = [user("q"), assistant("same"), user("r")]
    records, report = to_pairs(
        table(
            {"chosen": [*shared, assistant("a")], "rejected": [*shared, assistant("b")]},
            {"chosen": [*shared, assistant("a")], "rejected": [*shared, assistant("a")]},
            {"chosen": [user("q"), assistant("a"), user("r"), assistant("c")], "rejected": [user("q"), assistant("b")]},
            {"chosen": [user("q"), user("r")], "rejected": [user("q"), user("s")]},
            {"prompt": "q", "chosen": "a", "rejected": "a "},
            {"prompt": "q", "chosen": "a", "rejected": ""},
        )
    )
    assert records == [PairRecord(shared, "a", "b")]
    assert report.dropped == {
        "equal sides": 2,
        "sides differ in more than the last turn": 1,
        "sides differ in a turn that is not the assistant's": 1,
        "empty response": 1,
    }


# -- ranked feedback ---------------------------------------------------------------------------------------------------


def ranked(*rankings: list[list[str]], texts: str = "abc") -> dict[str, Any]:
    return {
        "prompt": "q",
        "responses": [{"id": name, "text": f"text {name}", "ratings": {"help": 1}} for name in texts],
        "choices": [{"annotator": f"u{i}", "ranking": ranking} for i, ranking in enumerate(rankings)],
        "topic": "t",
    }


def test_ranked_pairs_by_majority() -> None:
    # a against b: better, better, tie  → a, (2 - 0) / 3.  a against c: better, worse, better → a, (2 - 1) / 3.
    # b against c: better, worse, tie → an even split.
    record = ranked([["a"], ["b"], ["c"]], [["c"], ["a"], ["b"]], [["a", "b"], ["c"]])
    record["choices"][2]["ranking"] = [["a", "b"]]
    record["choices"].append({"annotator": "u3", "ranking": [["a"], ["c"]]})
    records, report = to_pairs(table(record))
    assert [(r.chosen, r.rejected) for r in records] == [("text a", "text b"), ("text a", "text c")]
    assert [r.margin for r in records] == [pytest.approx(2 / 3), pytest.approx(1 / 3)]
    assert records[0].columns == {
        "topic": "t",
        "chosen_id": "a",
        "rejected_id": "b",
        "votes": {"u0": 1, "u1": 1, "u2": 0},
    }
    assert records[1].columns["votes"] == {"u0": 1, "u1": -1, "u3": 1}
    assert report.kept == 2 and report.dropped == {"tie": 1}


def test_ranked_pairs_the_second_may_win() -> None:
    records, _ = to_pairs(table(ranked([["b"], ["a"]], [["b"], ["a"]], [["a"], ["b"]], texts="ab")))
    assert (records[0].chosen, records[0].margin) == ("text b", pytest.approx(1 / 3))
    assert records[0].columns["votes"] == {"u0": 1, "u1": 1, "u2": -1}


def test_ranked_pairs_drops() -> None:
    record = ranked([["a"], ["b"]], texts="abcd")
    record["responses"][1]["text"] = "text a"
    records, report = to_pairs(table(record, ranked([["a", "b"]], texts="ab")))
    assert records == []
    assert report.dropped == {"equal sides": 1, "not ranked": 5, "tie": 1}


def test_ranked_completions() -> None:
    record = ranked([["b"], ["a", "c"]], [["b"], ["c"], ["a"]], [["c"], ["b"]])
    best, report = to_completions(table(record))
    assert best == [CompletionRecord("q", "text b", {"topic": "t", "response_id": "b", "ratings": {"help": 1}})]
    assert report.kept == 1
    every, _ = to_completions(table(record), choose="all")
    assert [r.response for r in every] == ["text a", "text b", "text c"]
    assert [r.response for r in to_conversations(table(record))[0] if isinstance(r, CompletionRecord)] == ["text b"]
    record["responses"][1]["text"] = ""
    best, report = to_completions(table(record))
    assert best[0].response == "text c" and report.dropped == {"empty response": 1}
    assert to_completions(table(ranked()))[1].dropped == {"not ranked": 1}
    assert len(to_prompts(table(record))[0]) == 1


# -- messages ----------------------------------------------------------------------------------------------------------

PAIR = {"prompt": "q", "chosen": "a", "rejected": "b"}


@pytest.mark.parametrize(
    ("convert", "record", "message"),
    [
        (
            to_prompts,
            {"text": "x", "id": 1},
            r"'prompt' or 'messages'; the record has text, id\..*rename: \{FIELD: prompt\}",
        ),
        (to_prompts, {"prompt": 3}, r"field 'prompt': expected a string or a list of messages, found a number 3"),
        (to_prompts, {"prompt": None}, r"field 'prompt': .* found null"),
        (
            to_prompts,
            {"prompt": ["x"]},
            r"field 'prompt\[0\]': expected an object with role and content, found a string 'x'",
        ),
        (to_prompts, {"prompt": [{"role": "user"}]}, r"field 'prompt\[0\]\.content': expected a string, found null"),
        (to_prompts, {"messages": "x"}, r"field 'messages': expected a list of messages, found a string 'x'"),
        (to_completions, {"prompt": "x"}, r"'response' or 'completion' beside 'prompt'; the record has prompt"),
        (
            to_completions,
            {"prompt": "x", "response": 1},
            r"field 'response': expected a string or a list with one message",
        ),
        (to_completions, {"id": 1}, r"'prompt' with 'response' or 'completion', or 'messages'"),
        (
            to_completions,
            {"prompt": "x", "completion": [user("x")]},
            r"field 'completion\[0\]\.role': expected 'assistant', found 'us",
        ),
        (to_conversations, {"id": 1}, r"'messages', 'text', or 'prompt' with 'response'"),
        (to_conversations, {"text": ["x"]}, r"field 'text': expected a string, found a list \['x'\]"),
        (to_pairs, {"prompt": "x", "chosen": "y"}, r"'chosen' and 'rejected' .*rename: \{FIELD: rejected\}"),
        (
            to_pairs,
            {"chosen": "x", "rejected": "y"},
            r"field 'chosen': without a field 'prompt' expected a list of messages or a tr",
        ),
        (to_pairs, {"chosen": [user("x")], "rejected": [user("y")]}, r"share no beginning that could be the prompt"),
        (to_pairs, PAIR | {"margin": "big"}, r"field 'margin': expected a number, found a string 'big'"),
        (to_pairs, PAIR | {"margin": True}, r"field 'margin': expected a number, found the truth value true"),
        (to_pairs, PAIR | {"weight": -1}, r"field 'weight': expected a number of at least 0"),
        (
            to_pairs,
            {"prompt": "q", "responses": [{"id": "a", "text": "x"}]},
            r"field 'choices': expected a list, found null",
        ),
        (to_pairs, ranked(texts="aa"), r"field 'responses\[1\]\.id': the id 'a' stands there twice"),
        (
            to_pairs,
            ranked([["a"], ["z"]]),
            r"field 'choices\[0\]\.ranking': no response has the id 'z'; the ids are a, b, c",
        ),
        (to_pairs, ranked([["a"], ["a"]]), r"field 'choices\[0\]\.ranking': the id 'a' stands there twice"),
        (to_pairs, ranked(["a", "b"]), r"field 'choices\[0\]\.ranking': expected a list of lists of ids, best first"),  # type: ignore[list-item]
        (
            to_pairs,
            {"prompt": "q", "responses": ["x"], "choices": []},
            r"field 'responses\[0\]': expected an object with id and te",
        ),
        (
            to_pairs,
            {"prompt": "q", "responses": [], "choices": ["x"]},
            r"field 'choices\[0\]': expected an object with annotator",
        ),
    ],
)
def test_wrong_forms_name_the_line(convert: Any, record: dict[str, Any], message: str) -> None:
    good = {"prompt": "q", "response": "r", "chosen": "a", "rejected": "b", "messages": [user("q"), assistant("a")]}
    with pytest.raises(DataError, match=r"(?s)^a\.jsonl:2: .*" + message):
        convert(table(good, record))


def test_reports_add_up() -> None:
    total, part = FilterReport(kept=1), FilterReport(kept=2)
    part.drop("x", Origin("f", 1))
    part.change("y", count=2)
    total.add([part, part])
    assert str(total) == "kept 5 of 7; dropped 2: 2 x (f:1, …); changed 4: 4 y"


def test_pairs_of_a_record_stay_together() -> None:
    three = ranked([["a"], ["b"], ["c"]], texts="abc")
    even = ranked([["a", "b"]], texts="ab")
    groups, report = to_pair_groups(table(three, PAIR, even))
    assert [[(pair.chosen, pair.rejected) for pair in group] for group in groups] == [
        [("text a", "text b"), ("text a", "text c"), ("text b", "text c")],
        [(PAIR["chosen"], PAIR["rejected"])],
    ]
    assert (report.kept, report.sizes) == (4, [2])
    pairs, flat = to_pairs(table(three, PAIR, even))
    assert [pair for group in groups for pair in group] == pairs
    assert flat.sizes == [4] and flat.dropped == report.dropped
