"""From records to the typed batches of `fairlead.batch`.

Knows: records, a `TextCodec`, lengths and what to do with what is too long.
Does not know: models, methods, files.

Every function that may drop or change something takes a `FilterReport` to count it in.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch

from fairlead.batch import Pairs, Prompts, Samples, Sequences, left_pad, right_pad, row_table
from fairlead.data.chat import TextCodec
from fairlead.data.records import CompletionRecord, DataError, FilterReport, PairRecord, Prompt, PromptRecord

__all__ = [
    "Overlong",
    "PackedRow",
    "drop_overlong",
    "pack",
    "pairs_batch",
    "prompts_batch",
    "responses_batch",
    "sequences_batch",
]

Overlong = Literal["drop", "truncate_left", "error"]
AnyRecord = TypeVar("AnyRecord", PromptRecord, CompletionRecord, PairRecord)
Encoded = tuple[Sequence[int], Sequence[bool]]
"""Ids and mask of a document, as `TextCodec.encode_conversation` returns them."""


def drop_overlong(records: Sequence[AnyRecord], codec: TextCodec, maximum: int) -> tuple[list[AnyRecord], FilterReport]:
    """The records whose prompt has at most `maximum` tokens, so that every later batch is full."""
    report = FilterReport()
    kept = [record for record in records if len(codec.encode_prompt(record.prompt)) <= maximum]
    if len(kept) < len(records):
        report.drop(f"prompt over {maximum} tokens", count=len(records) - len(kept))
    report.kept = len(kept)
    return kept, report


def prompts_batch(
    records: Sequence[PromptRecord],
    codec: TextCodec,
    seed: int,
    group_offset: int = 0,
    maximum: int | None = None,
    overlong: Overlong = "drop",
    report: FilterReport | None = None,
) -> Prompts:
    """Prompts [B, P], left-padded, each row a group of its own (numbered from `group_offset`).

    The seed of a row is a hash of `seed` and of the record's position in `records` (plus `group_offset`).
    `overlong` says what becomes of prompts over `maximum` tokens: `drop`, `truncate_left` (the oldest tokens go, a
    beginning-of-text token stays), or `error`. What was dropped or truncated is counted in `report`.
    Raises: DataError for a prompt without tokens, with `error`, and when nothing is left.
    """
    report = FilterReport() if report is None else report
    encoded: list[list[int]] = []
    seeds: list[int] = []
    rows: list[dict[str, Any]] = []
    for position, record in enumerate(records):
        ids = _encoded_prompt(record.prompt, codec)
        fitted = _fit_prompt(ids, codec, maximum, overlong, report)
        if fitted is None:
            continue
        encoded.append(fitted)
        seeds.append(_row_seed(seed, group_offset + position))
        rows.append({"prompt": record.prompt, **record.columns})
    report.kept += len(rows)
    if not rows:
        raise DataError(
            f"no prompt is left of {len(records)}"
            + (
                f": all are longer than {maximum} tokens; raise the maximum or set overlong='truncate_left'"
                if records
                else ""
            )
        )
    prompt_ids, prompt_mask = left_pad(encoded, codec.padding_id)
    return Prompts(
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        group=torch.arange(group_offset, group_offset + len(rows), dtype=torch.int64),
        seed=torch.tensor(seeds, dtype=torch.int64),
        rows=row_table(rows),
        batch_size=[len(rows)],
    )


def pairs_batch(
    records: Sequence[PairRecord],
    codec: TextCodec,
    maximum_prompt: int | None = None,
    maximum_response: int | None = None,
    overlong: Literal["truncate", "drop", "error"] = "truncate",
    report: FilterReport | None = None,
) -> Pairs:
    """Pairs: prompts [B, P] left-padded, responses [B, 2, T] right-padded (0 chosen, 1 rejected), end tokens included.

    Too long prompts lose their oldest tokens and too long responses their last ones (`truncate`), or the pair is
    dropped; `report` counts both. `weight` is the column of that name, else 1.
    Raises: DataError for a prompt without tokens, with `error`, and when nothing is left.
    """
    report = FilterReport() if report is None else report
    prompts: list[list[int]] = []
    sides: list[list[int]] = []
    kept: list[PairRecord] = []
    prompt_policy: Overlong = "truncate_left" if overlong == "truncate" else overlong
    for record in records:
        ids = _fit_prompt(_encoded_prompt(record.prompt, codec), codec, maximum_prompt, prompt_policy, report)
        if ids is None:
            continue
        both = [codec.encode_response(text, record.prompt) for text in (record.chosen, record.rejected)]
        if maximum_response is not None and max(map(len, both)) > maximum_response:
            if overlong == "error":
                raise DataError(
                    f"a response has {max(map(len, both))} tokens, over the maximum of {maximum_response}: "
                    f"{_shown(record.prompt)}"
                )
            if overlong == "drop":
                report.drop(f"response over {maximum_response} tokens")
                continue
            report.change(
                f"response cut to {maximum_response} tokens", count=sum(len(s) > maximum_response for s in both)
            )
            both = [side[:maximum_response] for side in both]
            if both[0] == both[1]:
                report.drop("equal sides after cutting")
                continue
        prompts.append(ids)
        sides += both
        kept.append(record)
    report.kept += len(kept)
    if not kept:
        raise DataError(f"no pair is left of {len(records)}: {report}")
    prompt_ids, prompt_mask = left_pad(prompts, codec.padding_id)
    tokens, mask = right_pad(sides, codec.padding_id)
    rows = len(kept)
    return Pairs(
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        tokens=tokens.view(rows, 2, -1),
        mask=mask.view(rows, 2, -1),
        margin=torch.tensor([record.margin for record in kept], dtype=torch.float32),
        weight=torch.tensor([_weight(record.columns) for record in kept], dtype=torch.float32),
        rows=row_table(
            [
                {**record.columns, "prompt": record.prompt, "chosen": record.chosen, "rejected": record.rejected}
                for record in kept
            ]
        ),
        batch_size=[rows],
    )


def responses_batch(
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    codec: TextCodec,
    columns: Sequence[dict[str, Any]] | None = None,
) -> Samples:
    """Given texts in the shape of samples (prompts [B, P], responses [B, T] with their end token), for scoring.

    Log-probabilities and seeds are 0, each row is a group of its own, nothing counts as truncated.
    Raises: ValueError when the numbers of prompts and responses differ; DataError for a prompt without tokens.
    """
    rows = len(prompts)
    prompt_ids, prompt_mask = left_pad([_encoded_prompt(prompt, codec) for prompt in prompts], codec.padding_id)
    encoded = [codec.encode_response(text, prompt) for prompt, text in zip(prompts, responses, strict=True)]
    tokens, mask = right_pad(encoded, codec.padding_id)
    others = [{} for _ in prompts] if columns is None else columns
    return Samples(
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        tokens=tokens,
        mask=mask,
        group=torch.arange(rows),
        seed=torch.zeros(rows, dtype=torch.int64),
        logprobs=torch.zeros(tokens.shape),
        sampling_logprobs=torch.zeros(tokens.shape),
        truncated=torch.zeros(rows, dtype=torch.bool),
        rows=row_table(
            [
                {**other, "prompt": prompt, "response": text}
                for other, prompt, text in zip(others, prompts, responses, strict=True)
            ]
        ),
        batch_size=[rows],
    )


# ---------------------------------------------------------------------------------------------------------------------
# Whole sequences
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PackedRow:
    """Several documents in one row."""

    ids: list[int]
    mask: list[bool]
    """True at tokens to be learned; false at the first token of each document."""
    segments: list[int]
    """1, 2, … number the documents."""


def pack(documents: Sequence[Encoded], length: int, report: FilterReport | None = None) -> list[PackedRow]:
    """Documents in rows of at most `length` tokens, by best fit in decreasing order of length.

    A longer document is split into pieces of `length`, each a document of its own whose first token is not learned
    (it has nothing before it); `report` counts them. No token is lost. Raises ValueError for a length below 2.
    """
    if length < 2:
        raise ValueError(f"rows of {length} tokens leave nothing to predict; the length must be at least 2")
    report = FilterReport() if report is None else report
    pieces: list[Encoded] = []
    for ids, mask in documents:
        if len(ids) > length:
            report.change(f"split at {length} tokens")
        pieces += [(ids[start : start + length], mask[start : start + length]) for start in range(0, len(ids), length)]
    report.kept += len(documents)
    rows: list[PackedRow] = []
    room: list[tuple[int, int]] = []  # (free places, row), sorted
    for ids, mask in sorted(pieces, key=lambda piece: -len(piece[0])):
        fit = bisect_left(room, (len(ids), -1))
        if fit < len(room):
            free, row = room.pop(fit)
        else:
            free, row = length, len(rows)
            rows.append(PackedRow([], [], []))
        target = rows[row]
        target.segments.extend([target.segments[-1] + 1 if target.segments else 1] * len(ids))
        target.ids.extend(ids)
        target.mask.extend([False, *(bool(learned) for learned in mask[1:])])
        insort(room, (free - len(ids), row))
    return rows


def sequences_batch(
    documents: Sequence[Encoded | PackedRow],
    padding_id: int,
    maximum: int | None = None,
    weights: Sequence[float] | None = None,
    report: FilterReport | None = None,
) -> Sequences:
    """Sequences [B, L], right-padded, of documents (one a row) or packed rows.

    Documents over `maximum` tokens are cut at the end and counted in `report`; `weights` [B] default to 1.
    Raises: ValueError for no documents, an empty one, or another number of weights.
    """
    if not documents:
        raise ValueError("a batch needs at least one document")
    report = FilterReport() if report is None else report
    rows: list[PackedRow] = []
    for document in documents:
        row = document if isinstance(document, PackedRow) else _one_document(document)
        if not row.ids:
            raise ValueError("a document without tokens cannot be a row of a batch")
        if maximum is not None and len(row.ids) > maximum:
            report.change(f"cut to {maximum} tokens")
            row = PackedRow(row.ids[:maximum], row.mask[:maximum], row.segments[:maximum])
        rows.append(row)
    report.kept += len(rows)
    if weights is not None and len(weights) != len(rows):
        raise ValueError(f"there are {len(rows)} rows and {len(weights)} weights")
    tokens, present = right_pad([row.ids for row in rows], padding_id)
    segments, _ = right_pad([row.segments for row in rows], 0)
    learned, _ = right_pad([[int(value) for value in row.mask] for row in rows], 0)
    return Sequences(
        tokens=tokens,
        segments=segments,
        mask=learned.bool() & present,
        weight=torch.ones(len(rows)) if weights is None else torch.tensor(weights, dtype=torch.float32),
        batch_size=[len(rows)],
    )


def _one_document(document: Encoded) -> PackedRow:
    ids, mask = document
    return PackedRow(list(ids), [False, *(bool(learned) for learned in mask[1:])], [1] * len(ids))


# ---------------------------------------------------------------------------------------------------------------------
# Pieces
# ---------------------------------------------------------------------------------------------------------------------


def _encoded_prompt(prompt: Prompt, codec: TextCodec) -> list[int]:
    ids = codec.encode_prompt(prompt)
    if not ids:
        raise DataError(f"a prompt has no tokens, so nothing can follow it: {_shown(prompt)}")
    return ids


def _fit_prompt(
    ids: list[int], codec: TextCodec, maximum: int | None, overlong: Overlong, report: FilterReport
) -> list[int] | None:
    """The ids, shortened to `maximum`; None when the record is to be dropped."""
    if maximum is None or len(ids) <= maximum:
        return ids
    if overlong == "error":
        raise DataError(f"a prompt has {len(ids)} tokens, over the maximum of {maximum}: {codec.decode(ids)[:80]!r}")
    if overlong == "drop":
        report.drop(f"prompt over {maximum} tokens")
        return None
    report.change(f"prompt cut to its last {maximum} tokens")
    start = ids[:1] if maximum > 1 and ids[0] == codec.tokenizer.bos_token_id else []
    return start + ids[len(ids) - maximum + len(start) :]


def _row_seed(seed: int, row: int) -> int:
    """63 bits that depend on both numbers, the same on every machine."""
    digest = hashlib.blake2b(f"{seed}/{row}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _weight(columns: dict[str, Any]) -> float:
    weight = columns.get("weight")
    return 1.0 if weight is None else float(weight)


def _shown(prompt: Prompt) -> str:
    return repr(prompt)[:80]
