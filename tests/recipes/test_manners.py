"""Pairs for a model of costs, from rated answers."""

from __future__ import annotations

from fairlead.recipes.manners import rudeness_pairs


def test_the_politer_answer_is_chosen_and_equal_ones_make_no_pair() -> None:
    ratings = {"kind": 5, "short": 2, "rude": 1, "warm": 5}
    record = {"prompt": "q", "responses": [{"text": text, "ratings": {"polite": n}} for text, n in ratings.items()]}
    pairs = {(pair["chosen"], pair["rejected"]): pair for pair in rudeness_pairs(record)}
    assert set(pairs) == {
        ("kind", "short"),
        ("kind", "rude"),
        ("short", "rude"),
        ("warm", "short"),
        ("warm", "rude"),
    }
    assert all(pair["rejected_harmful"] for pair in pairs.values())
    assert pairs["short", "rude"]["chosen_harmful"] and not pairs["kind", "rude"]["chosen_harmful"]
