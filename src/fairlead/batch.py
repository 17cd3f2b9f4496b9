"""The typed batches that flow through the house. Read this file and you know the vocabulary.

Knows: shapes, padding, trimming, regrouping of rows.
Does not know: tokenizers, models, methods.

Dimension letters: B rows, P prompt tokens, T response tokens, L tokens of a whole sequence, K candidates.
Prompts are padded on the left and responses on the right, so that the last prompt token and the first response token are
neighbours in every row. The end-of-sequence token belongs to the response. `mask` is true where the policy chose the token
(and so where it learns); `present` is true where any token stands, a tool's output included.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import reduce
from typing import Any, TypeVar, cast

import torch
from tensordict import NonTensorStack, TensorClass, TensorDict
from torch import Tensor

from fairlead.parts import nearest

NOT_YET: Any = None
"""The default of what a later step fills in."""

__all__ = [
    "Batch",
    "Experience",
    "Pairs",
    "Prompts",
    "Samples",
    "Sequences",
    "alike",
    "by_task",
    "concatenate",
    "in_turn",
    "left_pad",
    "pad_columns",
    "repeat_rows",
    "right_pad",
    "row_table",
    "row_tokens",
    "take",
    "task_rows",
    "trim",
]


class Prompts(TensorClass):
    """Prompts to answer."""

    prompt_ids: Tensor
    """[B, P] int64, left-padded."""
    prompt_mask: Tensor
    """[B, P] bool, true at prompt tokens."""
    group: Tensor
    """[B] int64: rows with the same number answer the same prompt."""
    seed: Tensor
    """[B] int64: the sampling seed of each request; a row's answer depends on it and not on the other rows."""
    rows: Any
    """One dict a row: `prompt` (text or messages) and whatever other columns the data set has."""


class Samples(TensorClass):
    """Prompts with the responses that a policy gave."""

    prompt_ids: Tensor
    """[B, P] int64, left-padded."""
    prompt_mask: Tensor
    """[B, P] bool."""
    tokens: Tensor
    """[B, T] int64, right-padded response, the end token included when there is one."""
    mask: Tensor
    """[B, T] bool, true where the policy chose the token."""
    group: Tensor
    """[B] int64."""
    seed: Tensor
    """[B] int64."""
    logprobs: Tensor
    """[B, T] float32: log-probability of each token under the policy at temperature 1, unfiltered; 0 outside the mask. NaN
    where the sampler cannot say (vLLM)."""
    sampling_logprobs: Tensor
    """[B, T] float32: log-probability under the distribution that was sampled from (temperature, top-k, top-p, min-p)."""
    truncated: Tensor
    """[B] bool: the response was cut by the length limit, so it has no end token."""
    rows: Any
    """One dict a row, as in `Prompts`, with `response`: the text without special tokens."""
    present: Tensor | None = None
    """[B, T] bool or None when it equals `mask`."""
    anchor: Tensor | None = None
    """[B] bool: responses that the others of their group are only compared with (a greedy one, say); None where there is none."""
    extras: TensorDict | None = None
    """What else the sampler found out of each row, by name; a rollout that asked for it reads it."""


class Experience(TensorClass["shadow"]):  # type: ignore[type-arg,name-defined]  # `values` is our word too
    """Samples with everything that the parts of an online step found out about them."""

    prompt_ids: Tensor
    """[B, P] int64, left-padded."""
    prompt_mask: Tensor
    """[B, P] bool."""
    tokens: Tensor
    """[B, T] int64, right-padded."""
    mask: Tensor
    """[B, T] bool, true where the policy chose the token."""
    group: Tensor
    """[B] int64: which prompt a row belongs to."""
    truncated: Tensor
    """[B] bool."""
    logprobs: Tensor
    """[B, T]: the policy's log-probability when it sampled, at the temperature of training; the old policy of the ratio."""
    behaviour_logprobs: Tensor
    """[B, T]: log-probability under the sampling distribution itself."""
    channels: TensorDict
    """Name → [B] or [B, T]: every raw reward, cost and verdict. Never overwritten; NaN where a source failed."""
    rows: Any
    """One dict a row, as in `Samples`."""
    present: Tensor | None = None
    """[B, T] bool or None when it equals `mask`."""
    anchor: Tensor | None = None
    """[B] bool or None, as in `Samples`. Such a row has weight 0, is shaped as the others are, and is gone after credit."""
    reference_logprobs: Tensor = NOT_YET
    """[B, T]"""
    values: Tensor = NOT_YET  # type: ignore[assignment]
    """[B, T]: the critic's estimate at the state in which each token was chosen."""
    score: Tensor = NOT_YET
    """[B]: the weighted sum of the channels."""
    rewards: Tensor = NOT_YET
    """[B, T]: what shaping made of the score."""
    advantages: Tensor = NOT_YET
    """[B, T]"""
    returns: Tensor = NOT_YET
    """[B, T]: target of the critic."""
    weight: Tensor = NOT_YET
    """[B]: how much a row counts; selection sets it, 0 leaves the row out."""
    critic_weight: Tensor | None = None
    """[B]: how much a row counts for a critic; None where it counts as it does for the policy."""
    loss_weight: Tensor = NOT_YET
    """[B, T]: weights that sum the per-token losses to the loss of the whole batch; an objective's `prepare` sets it."""
    extras: TensorDict | None = None
    """Further tensors that a part brings (images, user ids, turn boundaries), a row each; [B, T] follow the responses."""

    @classmethod
    def from_samples(cls, samples: Samples) -> Experience:
        """An experience without any judgement yet."""
        rows = samples.batch_size
        return cls(
            prompt_ids=samples.prompt_ids,
            prompt_mask=samples.prompt_mask,
            tokens=samples.tokens,
            mask=samples.mask,
            group=samples.group,
            truncated=samples.truncated,
            logprobs=samples.logprobs,
            behaviour_logprobs=samples.sampling_logprobs,
            channels=TensorDict({}, batch_size=rows),
            rows=row_table(list(samples.rows)),
            present=samples.present,
            anchor=samples.anchor,
            weight=torch.ones(rows, dtype=torch.float32) if samples.anchor is None else (~samples.anchor).float(),
            batch_size=rows,
        )

    def feasible(self, channel: str) -> Tensor:
        """[B] bool: where the judge of that name said more than 0; false where it failed. ValueError when there is none."""
        known = list(self.channels.keys())
        if channel not in known:
            raise ValueError(f"there is no judge {channel!r} among the rewards; {nearest(channel, known)}")
        said: Tensor = self.channels[channel] > 0
        return said


class Pairs(TensorClass):
    """Prompts with a chosen and a rejected response."""

    prompt_ids: Tensor
    """[B, P] int64, left-padded."""
    prompt_mask: Tensor
    """[B, P] bool."""
    tokens: Tensor
    """[B, 2, T] int64, right-padded; position 0 is the chosen response, 1 the rejected one."""
    mask: Tensor
    """[B, 2, T] bool."""
    margin: Tensor
    """[B] float32: by how much the chosen response was preferred; 0 where the data does not say."""
    weight: Tensor
    """[B] float32: how much a pair counts."""
    rows: Any
    """One dict a row: `prompt`, `chosen`, `rejected` and the data set's other columns."""
    reference_logprobs: Tensor = NOT_YET
    """[B, 2, T]"""
    previous_logprobs: Tensor = NOT_YET
    """[B, 2, T]: of the policy that the responses were sampled from, where a round of learning begins with it."""
    loss_weight: Tensor = NOT_YET
    """[B]: weights that sum the losses of the pairs to the loss of the whole batch."""
    present: Tensor | None = None
    """[B, 2, T] bool or None when it equals `mask`."""
    extras: TensorDict | None = None
    """Further tensors that a part brings, a row each."""

    @classmethod
    def from_samples(cls, samples: Samples | Experience, chosen: Tensor, rejected: Tensor) -> Pairs:
        """Pairs of rows of `samples`, token for token as they were sampled: a response that was cut gets no end.

        chosen, rejected: [N] int64, rows of the same prompts. The margin is the difference of their scores, where there are any.
        """
        sides = torch.stack([chosen, rejected], dim=1)
        known = list(samples.rows)  # looking rows up one by one in the batch takes a while for each
        rows = [{**known[a], "chosen": _said(known[a]), "rejected": _said(known[b])} for a, b in sides.tolist()]
        score = getattr(samples, "score", None)
        return trim(
            cls(
                prompt_ids=samples.prompt_ids[chosen],
                prompt_mask=samples.prompt_mask[chosen],
                tokens=samples.tokens[sides],
                mask=samples.mask[sides],
                margin=torch.zeros(len(rows)) if score is None else score[chosen] - score[rejected],
                weight=torch.ones(len(rows)),
                rows=row_table(rows),
                present=None if samples.present is None else samples.present[sides],
                batch_size=[len(rows)],
            )
        )


def _said(row: dict[str, Any]) -> Any:
    """The response of a row; in a dialogue all that followed the prompt, as messages."""
    return row.get("response_turns") or row["response"]


class Sequences(TensorClass):
    """Whole sequences for supervised learning, possibly several documents packed in one row."""

    tokens: Tensor
    """[B, L] int64, right-padded."""
    segments: Tensor
    """[B, L] int64: 1, 2, … number the documents of a row, 0 is padding; attention does not cross a border."""
    mask: Tensor
    """[B, L] bool: true at the tokens to be predicted; false at the first token of each document."""
    weight: Tensor
    """[B] float32: how much a row counts."""
    loss_weight: Tensor = NOT_YET
    """[B, L]"""


Batch = Prompts | Samples | Experience | Pairs | Sequences
AnyBatch = TypeVar("AnyBatch", Prompts, Samples, Experience, Pairs, Sequences)


# ---------------------------------------------------------------------------------------------------------------------
# Rows and columns
# ---------------------------------------------------------------------------------------------------------------------


def row_table(rows: Sequence[dict[str, Any]]) -> Any:
    """One dict a row, in the form that a batch can index and concatenate."""
    return NonTensorStack(*rows)


def left_pad(sequences: Sequence[Sequence[int]], padding: int) -> tuple[Tensor, Tensor]:
    """Ids [B, longest] padded on the left, and the mask of real tokens (bool)."""
    width = max((len(sequence) for sequence in sequences), default=0)
    ids = torch.full((len(sequences), width), padding, dtype=torch.int64)
    mask = torch.zeros((len(sequences), width), dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        if len(sequence):
            ids[row, width - len(sequence) :] = torch.as_tensor(sequence, dtype=torch.int64)
            mask[row, width - len(sequence) :] = True
    return ids, mask


def right_pad(sequences: Sequence[Sequence[int]], padding: int, width: int | None = None) -> tuple[Tensor, Tensor]:
    """Ids [B, width or longest] padded on the right, and the mask of real tokens (bool)."""
    width = max((len(sequence) for sequence in sequences), default=0) if width is None else width
    ids = torch.full((len(sequences), width), padding, dtype=torch.int64)
    mask = torch.zeros((len(sequences), width), dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.as_tensor(sequence, dtype=torch.int64)
        mask[row, : len(sequence)] = True
    return ids, mask


_PROMPT_COLUMNS = ("prompt_ids", "prompt_mask")
_RESPONSE_COLUMNS = (
    "tokens",
    "mask",
    "present",
    "segments",
    "logprobs",
    "sampling_logprobs",
    "behaviour_logprobs",
    "reference_logprobs",
    "previous_logprobs",
    "values",
    "rewards",
    "advantages",
    "returns",
    "loss_weight",
)


def _tensor_columns(batch: Any, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    for name in names:
        value = getattr(batch, name, None)
        if isinstance(value, Tensor) and value.dim() > 1:
            yield name, value


def trim(batch: AnyBatch) -> AnyBatch:
    """The batch without the columns that are padding in every row (left of the prompts, right of the responses)."""
    changes: dict[str, Any] = {}
    if not isinstance(batch, Sequences):
        used = batch.prompt_mask.any(0)
        skip = int(used.int().argmax()) if bool(used.any()) else used.shape[0]
        if skip:
            changes |= {name: value[..., skip:] for name, value in _tensor_columns(batch, _PROMPT_COLUMNS)}
    filled = row_tokens(batch)
    if filled is not None:
        used = filled.flatten(0, -2).any(0)
        keep = int(used.nonzero()[-1]) + 1 if bool(used.any()) else 0
        if keep < filled.shape[-1]:
            changes |= {name: value[..., :keep] for name, value in _tensor_columns(batch, _RESPONSE_COLUMNS)}
            changes |= _tables(batch, lambda x: x[..., :keep])
    return batch.replace(**changes) if changes else batch


def _tables(batch: Any, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """`channels` and `extras` with `change` done to those of their tensors that are [B, T]."""
    filled = row_tokens(batch)
    if filled is None:
        return {}
    shape = (filled.shape[0], filled.shape[-1])
    tables = {name: getattr(batch, name, None) for name in ("channels", "extras")}
    return {
        name: table.apply(lambda x: change(x) if tuple(x.shape) == shape else x)
        for name, table in tables.items()
        if isinstance(table, TensorDict)
    }


def row_tokens(batch: Any) -> Tensor | None:
    """Where a token stands behind the prompt: [B, T], [B, 2, T] or [B, L] bool; None for prompts alone."""
    if isinstance(batch, Prompts):
        return None
    if isinstance(batch, Sequences):
        return batch.segments > 0
    present = getattr(batch, "present", None)
    return batch.mask if present is None else present


def alike(ids: Tensor, mask: Tensor) -> list[list[int]]:
    """Rows that hold the same tokens where the mask is true, in order of first appearance. Shapes: [B, L]."""
    found: dict[bytes, list[int]] = {}
    # Padding may hold anything: it is made the same in every row.
    marked = torch.where(mask, ids, -1).cpu().numpy()
    for row in range(marked.shape[0]):
        found.setdefault(marked[row].tobytes(), []).append(row)
    return list(found.values())


def take(batch: AnyBatch, rows: Tensor | Sequence[int]) -> AnyBatch:
    """The given rows, in the given order, trimmed."""
    return trim(batch[torch.as_tensor(rows, dtype=torch.int64)])


def task_rows(batch: Any, column: str, named: Collection[str], others: bool = True) -> dict[str, Tensor]:
    """Task → its rows [N] int64, for the tasks that occur; with `others` those that are not named are one, called `others`.

    Raises: ValueError where a row has no such column, or a task that is not named and `others` is false; with `others`, for a named task
    of that name.
    """
    if others and "others" in named:
        raise ValueError(
            "a task called 'others' cannot be told from all other tasks: rename it in the data, or leave `others` out"
        )
    found: dict[str, list[int]] = {}
    for number, row in enumerate(batch.rows):
        if column not in row:
            raise ValueError(
                f"the data has no column {column!r} that names the task of a prompt; it has {', '.join(row)}"
            )
        task = str(row[column])
        if task not in named:
            if not others:
                raise ValueError(
                    f"the task {task!r} is not named (column {column}); {nearest(task, named)}, or set others"
                )
            task = "others"
        found.setdefault(task, []).append(number)
    return {task: torch.tensor(rows) for task, rows in found.items()}


AnyPart = TypeVar("AnyPart")


def by_task(
    experience: Experience,
    column: str,
    tasks: Mapping[str, AnyPart],
    others: AnyPart | None,
    apply: Callable[[AnyPart, Experience], Experience],
) -> Experience:
    """The experience with `apply` done to the rows of every task, with what `tasks` (or `others`) holds for it.

    An extra that only some tasks bring is 0 in the rows of the others. Raises: ValueError as `task_rows`.
    """
    places: list[Tensor] = []
    done: list[Experience] = []
    for task, rows in task_rows(experience, column, tasks, others is not None).items():
        part = tasks.get(task, others)
        assert part is not None
        places.append(rows)
        done.append(apply(part, experience[rows]))
    if any(one.critic_weight is not None for one in done):
        done = [one if one.critic_weight is not None else one.replace(critic_weight=one.weight) for one in done]
    extras = {name: value for one in done if one.extras is not None for name, value in one.extras.items()}
    if extras:
        done = [_with_extras(one, extras) for one in done]
    return concatenate(done)[torch.cat(places).argsort()]


def in_turn(parts: Iterable[Callable[[Experience], Experience]], experience: Experience) -> Experience:
    """What becomes of the experience when one part after another has had it."""
    return reduce(lambda rows, part: part(rows), parts, experience)


def _with_extras(experience: Experience, wanted: Mapping[str, Tensor]) -> Experience:
    own = {} if experience.extras is None else dict(experience.extras.items())
    missing = {
        name: value.new_zeros((len(experience), *value.shape[1:])) for name, value in wanted.items() if name not in own
    }
    return experience.replace(extras=TensorDict(own | missing, batch_size=experience.batch_size))


def repeat_rows(batch: AnyBatch, times: int) -> AnyBatch:
    """Each row `times` times, copies next to each other."""
    return batch.repeat_interleave(times) if times != 1 else batch


def pad_columns(batch: AnyBatch, prompt_width: int, response_width: int) -> AnyBatch:
    """The batch with its prompts padded on the left and its responses on the right to the given widths."""
    changes: dict[str, Any] = {}
    for name, value in _tensor_columns(batch, _PROMPT_COLUMNS):
        changes[name] = torch.nn.functional.pad(value, (prompt_width - value.shape[-1], 0))
    for name, value in _tensor_columns(batch, _RESPONSE_COLUMNS):
        changes[name] = torch.nn.functional.pad(value, (0, response_width - value.shape[-1]))
    changes |= _tables(batch, lambda x: torch.nn.functional.pad(x, (0, response_width - x.shape[-1])))
    return batch.replace(**changes)


def concatenate(batches: Sequence[AnyBatch]) -> AnyBatch:
    """The rows of several batches of one type as one batch, padded to common widths."""
    if len(batches) == 1:
        return batches[0]
    prompt_width = max((b.prompt_ids.shape[-1] for b in batches if hasattr(b, "prompt_ids")), default=0)
    response_width = max((filled.shape[-1] for b in batches if (filled := row_tokens(b)) is not None), default=0)
    padded = [pad_columns(batch, prompt_width, response_width) for batch in batches]
    joined: Any = torch.cat(cast(Any, padded))
    return cast(AnyBatch, joined)
