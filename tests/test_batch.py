"""Typed batches: padding, trimming, choosing, repeating and joining rows."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from tensordict import TensorDict

from fairlead.batch import (
    Experience,
    Pairs,
    Prompts,
    Samples,
    Sequences,
    concatenate,
    left_pad,
    pad_columns,
    repeat_rows,
    right_pad,
    row_table,
    row_tokens,
    take,
    trim,
)


def prompts(*ids: list[int]) -> Prompts:
    prompt_ids, prompt_mask = left_pad(ids, 0)
    rows = len(ids)
    return Prompts(
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        group=torch.arange(rows),
        seed=torch.arange(rows) + 100,
        rows=row_table([{"prompt": f"prompt {i}", "tags": ["a", i]} for i in range(rows)]),
        batch_size=[rows],
    )


def samples(prompt: list[list[int]], response: list[list[int]]) -> Samples:
    prompt_ids, prompt_mask = left_pad(prompt, 0)
    tokens, mask = right_pad(response, 0)
    rows = len(prompt)
    return Samples(
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        tokens=tokens,
        mask=mask,
        group=torch.arange(rows),
        seed=torch.arange(rows),
        logprobs=-tokens.float(),
        sampling_logprobs=-2.0 * tokens,
        truncated=torch.zeros(rows, dtype=torch.bool),
        rows=row_table([{"prompt": f"p{i}", "response": f"r{i}"} for i in range(rows)]),
        batch_size=[rows],
    )


def pairs() -> Pairs:
    prompt_ids, prompt_mask = left_pad([[1, 2], [3]], 0)
    tokens, mask = right_pad([[5], [6, 7], [8, 9, 10], [11]], 0)
    return Pairs(
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        tokens=tokens.view(2, 2, -1),
        mask=mask.view(2, 2, -1),
        margin=torch.zeros(2),
        weight=torch.ones(2),
        rows=row_table([{"chosen": "a"}, {"chosen": "b"}]),
        batch_size=[2],
    )


def test_padding_to_the_left_and_to_the_right() -> None:
    ids, mask = left_pad([[1, 2, 3], [4], []], 9)
    assert ids.tolist() == [[1, 2, 3], [9, 9, 4], [9, 9, 9]]
    assert mask.tolist() == [[True] * 3, [False, False, True], [False] * 3]
    assert ids.dtype == torch.int64 and mask.dtype == torch.bool
    ids, mask = right_pad([[1, 2], [4]], 9, width=3)
    assert ids.tolist() == [[1, 2, 9], [4, 9, 9]]
    assert mask.tolist() == [[True, True, False], [True, False, False]]


@pytest.mark.parametrize("pad", [left_pad, right_pad])
def test_padding_of_nothing(pad: Any) -> None:
    for empty, shape in ([], (0, 0)), ([[], []], (2, 0)):
        ids, mask = pad(empty, 0)
        assert ids.shape == mask.shape == shape


def test_the_prompt_ends_where_the_response_begins() -> None:
    batch = samples([[1, 2], [3]], [[5, 6, 7], [8]])
    whole = torch.cat((batch.prompt_ids, batch.tokens), 1)
    assert whole.tolist() == [[1, 2, 5, 6, 7], [0, 3, 8, 0, 0]]


def test_rows_keep_their_dicts() -> None:
    batch = prompts([1], [2, 3])
    assert [row["prompt"] for row in batch.rows] == ["prompt 0", "prompt 1"]
    assert list(batch.rows)[1]["tags"] == ["a", 1]


def test_trim_cuts_both_sides() -> None:
    whole = pad_columns(samples([[1, 2], [3]], [[5, 6, 7], [8]]), 6, 9)
    assert whole.prompt_ids.shape == (2, 6) and whole.tokens.shape == whole.logprobs.shape == (2, 9)
    batch = trim(whole)
    assert batch.prompt_ids.tolist() == [[1, 2], [0, 3]]
    assert batch.tokens.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch.logprobs.tolist() == [[-5, -6, -7], [-8, 0, 0]]
    assert trim(batch) is batch


def test_trim_keeps_tokens_that_the_policy_did_not_choose() -> None:
    batch = samples([[1]], [[5, 6, 7]])
    batch = batch.replace(mask=torch.tensor([[True, False, False]]), present=torch.tensor([[True, True, False]]))
    assert trim(batch).tokens.tolist() == [[5, 6]]
    assert torch.equal(row_tokens(batch), batch.present)


def test_take_gives_rows_in_order_and_trims() -> None:
    batch = take(samples([[1, 2], [3], [4]], [[5, 6, 7], [8], [9, 9]]), [2, 1])
    assert batch.prompt_ids.tolist() == [[4], [3]]
    assert batch.tokens.tolist() == [[9, 9], [8, 0]]
    assert batch.group.tolist() == [2, 1]
    assert [row["response"] for row in batch.rows] == ["r2", "r1"]
    assert take(batch, torch.tensor([1])).tokens.tolist() == [[8]]


def test_take_of_responses_without_tokens() -> None:
    batch = samples([[1], [2]], [[], [3]])
    assert take(batch, [0]).tokens.shape == (1, 0)


def test_take_of_pairs_keeps_both_sides() -> None:
    first = take(pairs(), [0])
    assert first.tokens.tolist() == [[[5, 0], [6, 7]]]
    assert first.prompt_ids.tolist() == [[1, 2]]
    assert take(pairs(), [1]).prompt_ids.tolist() == [[3]]


def test_take_of_sequences() -> None:
    tokens, _ = right_pad([[1, 2, 3], [4]], 0)
    batch = Sequences(
        tokens=tokens,
        segments=torch.tensor([[1, 1, 2], [1, 0, 0]]),
        mask=torch.tensor([[False, True, False], [False, False, False]]),
        weight=torch.ones(2),
        batch_size=[2],
    )
    assert take(batch, [1]).tokens.tolist() == [[4]]
    assert take(batch, [0, 1]).segments.tolist() == [[1, 1, 2], [1, 0, 0]]


def test_repeat_puts_copies_side_by_side() -> None:
    batch = repeat_rows(prompts([1], [2, 3]), 2)
    assert batch.group.tolist() == [0, 0, 1, 1]
    assert [row["prompt"] for row in batch.rows] == ["prompt 0", "prompt 0", "prompt 1", "prompt 1"]
    once = prompts([1])
    assert repeat_rows(once, 1) is once


def test_concatenate_pads_to_common_widths() -> None:
    one, two = samples([[1, 2]], [[5]]), samples([[3]], [[6, 7, 8]])
    both = concatenate([one, two])
    assert both.prompt_ids.tolist() == [[1, 2], [0, 3]]
    assert both.prompt_mask.tolist() == [[True, True], [False, True]]
    assert both.tokens.tolist() == [[5, 0, 0], [6, 7, 8]]
    assert both.mask.tolist() == [[True, False, False], [True] * 3]
    assert [row["response"] for row in both.rows] == ["r0", "r0"]
    assert concatenate([one]) is one


def test_taking_apart_and_joining_is_the_identity() -> None:
    batch = samples([[1, 2], [3], [4, 4]], [[5, 6, 7], [8], [9, 9]])
    again = concatenate([take(batch, [i]) for i in range(3)])
    for name in ("prompt_ids", "prompt_mask", "tokens", "mask", "group", "seed", "logprobs", "sampling_logprobs"):
        assert torch.equal(getattr(again, name), getattr(batch, name)), name
    assert [row["response"] for row in again.rows] == [row["response"] for row in batch.rows]


def test_experience_from_samples() -> None:
    batch = samples([[1, 2], [3]], [[5, 6, 7], [8]])
    experience = Experience.from_samples(batch)
    assert torch.equal(experience.behaviour_logprobs, batch.sampling_logprobs)
    assert experience.weight.tolist() == [1.0, 1.0]
    assert experience.score is None and list(experience.channels.keys()) == []
    experience.channels["length"] = torch.tensor([3.0, 1.0])
    assert [row["response"] for row in experience.rows] == ["r0", "r1"]


def test_experience_carries_channels_through_take() -> None:
    experience = Experience.from_samples(samples([[1, 2], [3]], [[5, 6, 7], [8]]))
    experience.channels["score"] = torch.tensor([0.5, 1.5])
    experience.channels["process"] = torch.tensor([[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]])
    experience = experience.replace(
        values=torch.ones(2, 3), extras=TensorDict({"user": torch.tensor([7, 8])}, batch_size=[2])
    )
    second = take(experience, [1])
    assert second.channels["score"].tolist() == [1.5]
    assert second.channels["process"].tolist() == [[4.0]]
    assert second.values.shape == (1, 1) and second.returns is None
    assert second.extras["user"].tolist() == [8]


def test_experiences_join() -> None:
    experience = Experience.from_samples(samples([[1, 2], [3]], [[5, 6, 7], [8]]))
    experience.channels["score"] = torch.tensor([0.5, 1.5])
    experience.channels["process"] = torch.tensor([[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]])
    again = concatenate([take(experience, [0]), take(experience, [1])])
    assert again.channels["score"].tolist() == [0.5, 1.5]
    assert again.channels["process"].tolist() == [[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]]


@pytest.mark.parametrize("make", [lambda: prompts([1], [2, 3]), lambda: samples([[1]], [[2]]), pairs])
def test_pickling(make: Any) -> None:
    batch = make()
    again = pickle.loads(pickle.dumps(batch))
    assert type(again) is type(batch)
    assert torch.equal(again.prompt_ids, batch.prompt_ids)
    assert [dict(row) for row in again.rows] == [dict(row) for row in batch.rows]
