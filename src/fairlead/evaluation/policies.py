"""Policies side by side on the same prompts: means, win rates, style, and texts to read.

Knows: prompts, responses, and what judges said about them.
Does not know: models, judges, how the responses were drawn.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from fairlead.evaluation.texts import describe_texts, plain_text
from fairlead.functional import bootstrap_interval, wilson_interval

__all__ = ["compare_policies"]

Row: TypeAlias = Mapping[str, Any]
Channels: TypeAlias = Mapping[str, Sequence[float]]
Pairing: TypeAlias = list[tuple[int, int]]

_EXAMPLES = {"largest gain": 14, "largest loss": 13, "random": 13}


def compare_policies(
    names: Sequence[str],
    rows_by_name: Mapping[str, Sequence[Row]],
    channels_by_name: Mapping[str, Channels],
    judge: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare policies on the same prompts, as JSON-able values.

    Rows hold `prompt`, `response` and optionally `kind`; channels hold one number a row (NaN: the judge failed). The last name
    is compared with the first, response by response: the first answer to a prompt with the first, the second with the second.
    `judge` is the channel that picks the texts to read; by default the first channel.

    Keys: `channels` (model → channel → mean, low, high, count, failed); `style` (model → `describe_texts`); `versus`
    (`first`, `last`, `pairs`, `channels` → win, tie, lose, win_rate with interval, difference with interval; None for a single
    policy); `kinds` (kind → the same in short); `texts` (paired examples: the largest gains and losses, and random ones); `judge`.
    Intervals are 95 %: bootstrap over prompts for means, Wilson for rates.

    Raises: ValueError when a model has no rows entry or a channel's length is not that of its rows.
    """
    _check(names, rows_by_name, channels_by_name)
    channel_names = list(dict.fromkeys(channel for name in names for channel in channels_by_name.get(name, {})))
    judge = judge if judge in channel_names else next(iter(channel_names), None)
    every = {name: range(len(rows_by_name[name])) for name in names}
    first, last = names[0], names[-1]
    pairing = _pair(rows_by_name[first], rows_by_name[last]) if len(names) > 1 else []

    def means(model: str, chosen: Sequence[int]) -> dict[str, Any]:
        rows = rows_by_name[model]
        return {c: _mean_by_prompt(rows, values, chosen) for c, values in channels_by_name.get(model, {}).items()}

    def versus(pairs: Pairing) -> dict[str, Any]:
        shared = [c for c in channel_names if all(c in channels_by_name.get(name, {}) for name in (first, last))]
        return {c: _versus(channels_by_name[first][c], channels_by_name[last][c], pairs) for c in shared}

    kinds: dict[str, Any] = {}
    for kind in _kinds(rows_by_name[first]):
        here = {name: [i for i in every[name] if _kind(rows_by_name[name][i]) == kind] for name in names}
        pairs = [pair for pair in pairing if _kind(rows_by_name[first][pair[0]]) == kind]
        kinds[kind] = {
            "prompts": len({_prompt_key(rows_by_name[first][i]) for i in here[first]}),
            "channels": {name: means(name, here[name]) for name in names},
            "versus": versus(pairs),
        }
    return {
        "models": list(names),
        "prompts": len({_prompt_key(row) for row in rows_by_name[first]}),
        "judge": judge,
        "channels": {name: means(name, every[name]) for name in names},
        "style": {
            name: describe_texts([plain_text(row.get("response")) for row in rows_by_name[name]]) for name in names
        },
        "versus": {"first": first, "last": last, "pairs": len(pairing), "channels": versus(pairing)}
        if pairing
        else None,
        "kinds": kinds,
        "texts": _examples(names, rows_by_name, channels_by_name, pairing, judge, seed),
    }


# -- numbers ----------------------------------------------------------------------------------------------------------


def _mean_by_prompt(rows: Sequence[Row], values: Sequence[float], chosen: Sequence[int]) -> dict[str, Any]:
    """Mean over prompts of the mean over a prompt's responses: responses to one prompt are not independent."""
    found: dict[str, list[float]] = defaultdict(list)
    for index in chosen:
        if math.isfinite(values[index]):
            found[_prompt_key(rows[index])].append(float(values[index]))
    by_prompt = [sum(group) / len(group) for group in found.values()]
    count = sum(len(group) for group in found.values())
    low, high = bootstrap_interval(by_prompt) if by_prompt else (None, None)
    mean = sum(by_prompt) / len(by_prompt) if by_prompt else None
    deviation = float(np.std(by_prompt, ddof=1)) if len(by_prompt) > 1 else None
    return {"mean": mean, "low": low, "high": high, "sd": deviation, "count": count, "failed": len(chosen) - count}


def _versus(before: Sequence[float], after: Sequence[float], pairing: Pairing) -> dict[str, Any]:
    """Wins, ties and losses of `after` against `before`, and the mean difference."""
    differences = [float(after[j]) - float(before[i]) for i, j in pairing]
    differences = [difference for difference in differences if math.isfinite(difference)]
    count = len(differences)
    if not count:
        return {"pairs": 0, "win": None, "tie": None, "lose": None, "win_rate": None, "difference": None}
    win, tie = sum(d > 0 for d in differences), sum(d == 0 for d in differences)
    low, high = wilson_interval(win + tie / 2, count)
    difference_low, difference_high = bootstrap_interval(differences)
    return {
        "pairs": count,
        "win": win / count,
        "tie": tie / count,
        "lose": (count - win - tie) / count,
        "win_rate": (win + tie / 2) / count,
        "win_rate_low": low,
        "win_rate_high": high,
        "difference": sum(differences) / count,
        "difference_low": difference_low,
        "difference_high": difference_high,
    }


def _pair(first: Sequence[Row], last: Sequence[Row]) -> Pairing:
    """Row numbers of the same prompt in both: its k-th response with its k-th response."""
    waiting: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(last):
        waiting[_prompt_key(row)].append(index)
    pairs = []
    for index, row in enumerate(first):
        candidates = waiting[_prompt_key(row)]
        if candidates:
            pairs.append((index, candidates.pop(0)))
    return pairs


# -- texts ------------------------------------------------------------------------------------------------------------


def _examples(
    names: Sequence[str],
    rows_by_name: Mapping[str, Sequence[Row]],
    channels_by_name: Mapping[str, Channels],
    pairing: Pairing,
    judge: str | None,
    seed: int,
) -> list[dict[str, Any]]:
    """Up to 40 texts to read. Losses are as many as gains, so that what went wrong is seen too."""
    first, last = names[0], names[-1]
    pairing = pairing or [(index, index) for index in range(len(rows_by_name[first]))]
    gains = [_gain(channels_by_name, first, last, judge, pair) for pair in pairing]
    order = sorted((index for index, gain in enumerate(gains) if gain), key=lambda index: gains[index] or 0.0)
    chosen: dict[int, str] = {}
    for index in reversed(order[-_EXAMPLES["largest gain"] :]):
        if (gains[index] or 0) > 0:
            chosen[index] = "largest gain"
    for index in order[: _EXAMPLES["largest loss"]]:
        if (gains[index] or 0) < 0:
            chosen[index] = "largest loss"
    rest = [index for index in range(len(pairing)) if index not in chosen]
    lot = np.random.default_rng(seed).permutation(len(rest))[: _EXAMPLES["random"]]
    chosen |= {rest[index]: "random" for index in lot}

    examples = []
    for index, why in chosen.items():
        here = {first: pairing[index][0], last: pairing[index][1]}
        row = rows_by_name[first][here[first]]
        example: dict[str, Any] = {"why": why, "prompt": plain_text(row.get("prompt")), "responses": {}, "scores": {}}
        if _kind(row) is not None:
            example["kind"] = _kind(row)
        if gains[index] is not None and first != last:
            example["gain"] = gains[index]
        for name, number in here.items():
            said = rows_by_name[name][number]
            example["responses"][name] = plain_text(said.get("response_turns") or said.get("response"))
            example["scores"][name] = {
                channel: float(values[number]) if math.isfinite(values[number]) else None
                for channel, values in channels_by_name.get(name, {}).items()
            }
        examples.append(example)
    return examples


def _gain(
    channels: Mapping[str, Channels], first: str, last: str, judge: str | None, pair: tuple[int, int]
) -> float | None:
    if judge is None or judge not in channels.get(first, {}) or judge not in channels.get(last, {}):
        return None
    gain = float(channels[last][judge][pair[1]]) - float(channels[first][judge][pair[0]])
    return gain if math.isfinite(gain) else None


# -- rows -------------------------------------------------------------------------------------------------------------


def _prompt_key(row: Row) -> str:
    prompt = row.get("prompt")
    return prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True, default=str)


def _kind(row: Row) -> str | None:
    kind = row.get("kind")
    return None if kind is None else str(kind)


def _kinds(rows: Sequence[Row]) -> list[str]:
    return sorted({kind for row in rows if (kind := _kind(row)) is not None})


def _check(
    names: Sequence[str], rows_by_name: Mapping[str, Sequence[Row]], channels_by_name: Mapping[str, Channels]
) -> None:
    if not names:
        raise ValueError("there is no policy to compare")
    for name in names:
        if name not in rows_by_name:
            raise ValueError(f"no rows of {name!r}; there are rows of {', '.join(rows_by_name)}")
        for channel, values in channels_by_name.get(name, {}).items():
            if len(values) != len(rows_by_name[name]):
                raise ValueError(
                    f"{name}: {len(values)} values of channel {channel!r} for {len(rows_by_name[name])} rows"
                )
