"""Simulated thoughts before answers."""

from __future__ import annotations

from fairlead.data import DataSource, read, to_completions
from fairlead.recipes.thoughts import answer_alone, think_then_answer

RECORD = {
    "prompt": "q",
    "kind": "small_talk",
    "responses": [{"id": "a", "text": "No."}, {"id": "b", "text": "The old river runs, and the river runs deep."}],
    "choices": [{"annotator": "x", "ranking": [["b"], ["a"]]}, {"annotator": "y", "ranking": [["a"], ["b"]]}],
}


def test_a_thought_names_the_longest_words_in_their_order() -> None:
    answer = "The old river runs, and the river runs deep."
    assert answer_alone(RECORD) == {"prompt": "q", "response": answer}
    thought = "A small talk. My answer has: the, river, runs, deep."
    assert think_then_answer(RECORD) == {"prompt": "q", "response": f"<think>\n{thought}\n</think>\n\n{answer}"}


def test_every_starter_record_has_one() -> None:
    source = DataSource(path="fairlead:starter/train", transform="fairlead.recipes.thoughts:think_then_answer")
    records, _ = to_completions(read(source))
    assert len(records) == 566 and all(record.response.count("</think>") == 1 for record in records)
