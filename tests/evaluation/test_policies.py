"""Policies side by side: pairing, intervals, kinds, and which texts are shown."""

from __future__ import annotations

import json
import math

import pytest

from fairlead.evaluation import compare_policies


def rows(texts: list[str], kinds: list[str] | None = None) -> list[dict[str, str]]:
    found = [{"prompt": f"p{index}", "response": text} for index, text in enumerate(texts)]
    return [row | {"kind": kind} for row, kind in zip(found, kinds, strict=True)] if kinds else found


def test_win_tie_lose_by_hand() -> None:
    data = rows(["a", "b", "c", "d"])
    result = compare_policies(["x", "y"], {"x": data, "y": data}, {"x": {"j": [0, 0, 0, 0]}, "y": {"j": [1, 1, 0, -1]}})
    entry = result["versus"]["channels"]["j"]
    assert (entry["win"], entry["tie"], entry["lose"], entry["win_rate"]) == (0.5, 0.25, 0.25, 0.625)
    assert entry["difference"] == pytest.approx(0.25)
    assert entry["win_rate_low"] < 0.625 < entry["win_rate_high"]
    assert result["channels"]["y"]["j"]["mean"] == pytest.approx(0.25)
    assert result["judge"] == "j" and result["prompts"] == 4
    json.dumps(result, allow_nan=False)


def test_pairs_go_by_prompt_not_by_position() -> None:
    first = rows(["a", "b"])
    result = compare_policies(["x", "y"], {"x": first, "y": first[::-1]}, {"x": {"j": [0, 10]}, "y": {"j": [11, 1]}})
    assert result["versus"]["channels"]["j"]["win"] == 1.0
    assert result["versus"]["channels"]["j"]["difference"] == pytest.approx(1.0)


def test_mean_is_over_prompts_when_one_has_more_responses() -> None:
    data = [{"prompt": "p", "response": "a"}] * 3 + [{"prompt": "q", "response": "b"}]
    result = compare_policies(["x"], {"x": data}, {"x": {"j": [0.0, 0.0, 0.0, 1.0]}})
    assert result["channels"]["x"]["j"]["mean"] == pytest.approx(0.5)
    assert result["versus"] is None


def test_missing_verdicts_are_counted() -> None:
    data = rows(["a", "b"])
    result = compare_policies(
        ["x", "y"], {"x": data, "y": data}, {"x": {"j": [math.nan, 1.0]}, "y": {"j": [math.nan, math.nan]}}
    )
    assert result["channels"]["x"]["j"]["failed"] == 1
    assert result["channels"]["y"]["j"]["mean"] is None
    assert result["versus"]["channels"]["j"]["pairs"] == 0
    json.dumps(result, allow_nan=False)


def test_kinds_are_told_apart() -> None:
    data = rows(["a", "b", "c"], ["k", "k", "m"])
    result = compare_policies(["x", "y"], {"x": data, "y": data}, {"x": {"j": [0, 0, 0]}, "y": {"j": [1, 1, -1]}})
    assert result["kinds"]["k"]["versus"]["j"]["win_rate"] == 1.0
    assert result["kinds"]["m"]["versus"]["j"]["win_rate"] == 0.0
    assert result["kinds"]["m"]["prompts"] == 1


def test_texts_show_gains_losses_and_random_ones() -> None:
    count = 100
    data = rows([str(index) for index in range(count)])
    gains = [float(index - 50) for index in range(count)]
    result = compare_policies(["x", "y"], {"x": data, "y": data}, {"x": {"j": [0.0] * count}, "y": {"j": gains}})
    by_why: dict[str, list[float]] = {}
    for example in result["texts"]:
        by_why.setdefault(example["why"], []).append(example["gain"])
    assert len(result["texts"]) == 40
    assert by_why["largest gain"][0] == 49 and min(by_why["largest gain"]) == 36
    assert by_why["largest loss"][0] == -50 and max(by_why["largest loss"]) == -38
    assert len(by_why["random"]) == 13
    assert len({example["prompt"] for example in result["texts"]}) == 40


def test_another_judge_may_choose_the_texts() -> None:
    data = rows(["a", "b"])
    channels = {"x": {"j": [0.0, 0.0], "k": [0.0, 0.0]}, "y": {"j": [1.0, -1.0], "k": [-5.0, 5.0]}}
    result = compare_policies(["x", "y"], {"x": data, "y": data}, channels, judge="k")
    assert result["judge"] == "k"
    assert result["texts"][0]["gain"] == 5.0


def test_no_channel_at_all() -> None:
    result = compare_policies(["x", "y"], {"x": rows(["a"]), "y": rows(["b"])}, {})
    assert result["judge"] is None and result["texts"][0]["why"] == "random"


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="no rows of 'y'"):
        compare_policies(["x", "y"], {"x": []}, {})
    with pytest.raises(ValueError, match="1 values of channel 'j' for 2 rows"):
        compare_policies(["x"], {"x": rows(["a", "b"])}, {"x": {"j": [1.0]}})
    with pytest.raises(ValueError, match="no policy"):
        compare_policies([], {}, {})
