"""Responses from other prompts in ranked feedback."""

from fairlead.recipes.strangers import add_strangers


def record(name: str, kind: str = "talk") -> dict:
    return {
        "id": name,
        "kind": kind,
        "prompt": name,
        "responses": [{"id": "a", "text": f"{name} good"}, {"id": "b", "text": f"{name} bad"}],
        "choices": [{"annotator": "one", "ranking": [["a"], ["b"]]}, {"annotator": "two", "ranking": [["a", "b"]]}],
    }


def test_the_stranger_is_the_best_of_another_record_of_the_kind_and_ranks_with_the_worst() -> None:
    records = [record("w"), record("x"), record("y"), record("lonely", "story")]
    widened = add_strangers(records)
    assert [r["responses"][-1]["text"] for r in widened[:3]] == ["x good", "y good", "w good"]
    assert widened[0]["choices"][0]["ranking"] == [["a"], ["b", "stranger"]]
    assert widened[0]["choices"][1]["ranking"] == [["a", "b", "stranger"]]
    assert widened[3] == records[3]
    assert len(records[0]["responses"]) == 2, "the records themselves stay as they are"
