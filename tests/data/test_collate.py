"""Batches: padding, seeds, what is too long, packing without loss."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from fairlead.data import (
    DataError,
    FilterReport,
    PairRecord,
    PromptRecord,
    TextCodec,
    drop_overlong,
    pack,
    pairs_batch,
    prompts_batch,
    responses_batch,
    sequences_batch,
)

from .conftest import CHATML

USER: list[Any] = [{"role": "user", "content": "hello there"}]


@pytest.fixture
def codec(tokenizers: Any) -> TextCodec:
    return TextCodec(tokenizers["byte+bos"], CHATML)


def test_prompts_batch(codec: TextCodec) -> None:
    records = [PromptRecord("the dog", {"answer": 4}), PromptRecord(USER, {"answer": 5})]
    batch = prompts_batch(records, codec, seed=3, group_offset=10)
    assert batch.batch_size == torch.Size([2]) and batch.group.tolist() == [10, 11]
    for row, record in enumerate(records):
        ids = codec.encode_prompt(record.prompt)
        assert batch.prompt_ids[row][batch.prompt_mask[row]].tolist() == ids
        assert bool(batch.prompt_mask[row, -len(ids) :].all()) and int(batch.prompt_mask[row].sum()) == len(ids)
    assert list(batch.rows) == [{"prompt": "the dog", "answer": 4}, {"prompt": USER, "answer": 5}]
    again = prompts_batch(records, codec, seed=3, group_offset=10)
    assert batch.seed.tolist() == again.seed.tolist() and len(set(batch.seed.tolist())) == 2
    assert batch.seed.dtype == torch.int64 and int(batch.seed.min()) >= 0
    assert prompts_batch(records, codec, seed=4).seed.tolist() != prompts_batch(records, codec, seed=3).seed.tolist()
    # A row's seed goes with its number, not with the batch it is cut into.
    assert prompts_batch(records[1:], codec, seed=3, group_offset=11).seed.tolist() == batch.seed.tolist()[1:]


def test_overlong_prompts(codec: TextCodec) -> None:
    records = [PromptRecord("the dog"), PromptRecord("the quick brown fox jumps over the lazy dog again and again")]
    long = codec.encode_prompt(records[1].prompt)
    maximum = len(codec.encode_prompt("the dog"))
    report = FilterReport()
    batch = prompts_batch(records[::-1], codec, 0, maximum=maximum, report=report)
    assert len(batch) == 1 and report.kept == 1 and report.dropped == {f"prompt over {maximum} tokens": 1}
    assert batch.seed.tolist() == prompts_batch(records[:1], codec, 0, group_offset=1).seed.tolist()
    report = FilterReport()
    batch = prompts_batch(records, codec, 0, maximum=maximum, overlong="truncate_left", report=report)
    assert batch.prompt_ids[1].tolist() == [long[0], *long[-maximum + 1 :]]
    assert report.changed == {f"prompt cut to its last {maximum} tokens": 1} and report.kept == 2
    with pytest.raises(DataError, match=rf"a prompt has {len(long)} tokens, over the maximum of {maximum}: 'the quick"):
        prompts_batch(records, codec, 0, maximum=maximum, overlong="error")
    with pytest.raises(DataError, match="no prompt is left of 1: all are longer than"):
        prompts_batch(records[1:], codec, 0, maximum=maximum)
    kept, report = drop_overlong(records, codec, maximum)
    assert kept == records[:1] and report.dropped.total() == 1 and report.kept == 1


def test_prompt_without_tokens(tokenizers: Any) -> None:
    with pytest.raises(DataError, match="has no tokens"):
        prompts_batch([PromptRecord("  ")], TextCodec(tokenizers["word"], CHATML), 0)


def test_pairs_batch(codec: TextCodec) -> None:
    records = [
        PairRecord(USER, "a ship", "the sea and the ship", 0.5, {"weight": 2, "id": 1}),
        PairRecord("the", " dog", " fox"),
    ]
    batch = pairs_batch(records, codec)
    assert batch.tokens.shape == batch.mask.shape and batch.tokens.shape[:2] == (2, 2)
    for row, record in enumerate(records):
        assert batch.prompt_ids[row][batch.prompt_mask[row]].tolist() == codec.encode_prompt(record.prompt)
        for side, text in enumerate((record.chosen, record.rejected)):
            ids = codec.encode_response(text, record.prompt)
            assert batch.tokens[row, side, : len(ids)].tolist() == ids
            assert batch.mask[row, side].tolist() == [True] * len(ids) + [False] * (batch.mask.shape[-1] - len(ids))
    assert batch.margin.tolist() == [0.5, 0.0] and batch.weight.tolist() == [2.0, 1.0]
    assert batch.rows[0] == {
        "prompt": USER,
        "chosen": "a ship",
        "rejected": "the sea and the ship",
        "weight": 2,
        "id": 1,
    }


def test_overlong_pairs(codec: TextCodec) -> None:
    long = " the quick brown fox jumps over the lazy dog"
    records = [PairRecord("the", " a", " ship"), PairRecord("the", " a", long), PairRecord("the", long, long + " a")]
    report = FilterReport()
    batch = pairs_batch(records, codec, maximum_response=6, report=report)
    assert len(batch) == 2 and batch.tokens.shape[-1] == 6
    assert report.dropped == {"equal sides after cutting": 1} and report.changed == {"response cut to 6 tokens": 3}
    report = FilterReport()
    assert len(pairs_batch(records, codec, maximum_response=6, overlong="drop", report=report)) == 1
    assert report.dropped == {"response over 6 tokens": 2}
    with pytest.raises(DataError, match=r"a response has .* over the maximum of 6: 'the'"):
        pairs_batch(records, codec, maximum_response=6, overlong="error")
    assert pairs_batch(records[:1], codec, maximum_prompt=1).prompt_ids.shape == (1, 1)
    with pytest.raises(DataError, match=r"no pair is left of 1: .*prompt over 1 tokens"):
        pairs_batch(records[:1], codec, maximum_prompt=1, overlong="drop")


def test_responses_batch(codec: TextCodec) -> None:
    batch = responses_batch([USER, "the"], ["a ship", " dog"], codec, columns=[{"id": 1}, {"id": 2}])
    assert batch.tokens[0][batch.mask[0]].tolist() == codec.encode_response("a ship", USER)
    assert not batch.logprobs.any() and not batch.sampling_logprobs.any() and not batch.truncated.any()
    assert batch.group.tolist() == [0, 1] and batch.present is None
    assert batch.rows[1] == {"id": 2, "prompt": "the", "response": " dog"}
    with pytest.raises(ValueError, match="argument 2"):
        responses_batch([USER], ["a", "b"], codec)


def test_sequences_batch() -> None:
    batch = sequences_batch([([5, 6, 7], [True, True, True]), ([8, 9], [False, True])], padding_id=0)
    assert batch.tokens.tolist() == [[5, 6, 7], [8, 9, 0]]
    assert batch.segments.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch.mask.tolist() == [[False, True, True], [False, True, False]], "a first token is never predicted"
    assert batch.weight.tolist() == [1.0, 1.0]
    report = FilterReport()
    batch = sequences_batch([([5, 6, 7], [True] * 3)], 0, maximum=2, weights=[0.5], report=report)
    assert batch.tokens.tolist() == [[5, 6]] and batch.weight.tolist() == [0.5]
    assert report.changed == {"cut to 2 tokens": 1}
    with pytest.raises(ValueError, match="at least one document"):
        sequences_batch([], 0)
    with pytest.raises(ValueError, match="without tokens"):
        sequences_batch([([], [])], 0)
    with pytest.raises(ValueError, match="1 rows and 2 weights"):
        sequences_batch([([5], [True])], 0, weights=[1, 1])


def test_pack_by_hand() -> None:
    rows = pack([([1, 1], [True] * 2), ([2] * 5, [True] * 5), ([3] * 3, [True] * 3), ([4] * 3, [True] * 3)], length=8)
    # Longest first: 5 opens a row, 3 fits exactly behind it; the other 3 opens a row and 2 goes there.
    assert [row.ids for row in rows] == [[2, 2, 2, 2, 2, 3, 3, 3], [4, 4, 4, 1, 1]]
    assert rows[0].segments == [1] * 5 + [2] * 3
    assert rows[1].mask == [False, True, True, False, True]
    batch = sequences_batch(rows, padding_id=0)
    assert batch.segments.tolist()[1] == [1, 1, 1, 2, 2, 0, 0, 0]
    # The best fit is the row with least room that suffices: 2 goes behind 5 (3 free), not behind 4 (4 free).
    rows = pack([([1] * 5, [True] * 5), ([2] * 4, [True] * 4), ([3] * 4, [True] * 4), ([4] * 3, [True] * 3)], length=8)
    assert [row.ids for row in rows] == [[1] * 5 + [4] * 3, [2] * 4 + [3] * 4]


def test_pack_loses_and_mixes_nothing() -> None:
    draw = random.Random(0)
    documents = [([number] * draw.randint(1, 70), [draw.random() < 0.5 for _ in range(70)]) for number in range(300)]
    documents = [(ids, mask[: len(ids)]) for ids, mask in documents]
    report = FilterReport()
    rows = pack(documents, length=50, report=report)
    assert report.kept == 300 and report.changed == {"split at 50 tokens": sum(len(ids) > 50 for ids, _ in documents)}
    assert sorted(token for row in rows for token in row.ids) == sorted(token for ids, _ in documents for token in ids)
    for row in rows:
        assert len(row.ids) == len(row.mask) == len(row.segments) <= 50
        owners: dict[int, set[int]] = {}
        for token, segment in zip(row.ids, row.segments, strict=True):
            owners.setdefault(segment, set()).add(token)
        assert all(len(tokens) == 1 for tokens in owners.values()) and sorted(owners) == list(range(1, len(owners) + 1))
        assert row.segments == sorted(row.segments)
        firsts = [i for i, s in enumerate(row.segments) if i == 0 or row.segments[i - 1] != s]
        assert not any(row.mask[i] for i in firsts)
    lost = sum(mask[start] for ids, mask in documents for start in range(0, len(ids), 50))
    assert sum(sum(row.mask) for row in rows) == sum(sum(mask) for _, mask in documents) - lost
    assert len(rows) < 1.05 * sum(len(ids) for ids, _ in documents) / 50 + 1
    with pytest.raises(ValueError, match="at least 2"):
        pack(documents, 1)
