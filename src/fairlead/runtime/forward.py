"""From a typed batch to what a model says about it: log-probabilities, entropies, values, scores, the KL to a reference.

Knows: how prompts and responses are laid out for a Hugging Face model, and which logit scores which token.
Does not know: optimisers, losses, where the model lives.

Logits at position t score token t + 1; a value at t is the critic's estimate *before* token t is chosen. Rows are read without
padding, with equal prompts and equal rows once (`ragged`), where the model's attention can be told about rows; padded otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from fairlead import functional
from fairlead.batch import NOT_YET, Batch, Sequences, row_tokens
from fairlead.models import adapter_off, backbone, head_of, plain_model
from fairlead.models.families import anatomy, language_logits
from fairlead.models.shapes import recurring
from fairlead.runtime.ragged import RaggedRows, knows_ragged_rows

__all__ = ["Outputs", "forward"]


@dataclass
class Outputs:
    """What a model said about a batch; only what was asked for is there. The shapes follow the batch's `tokens`."""

    logprobs: Tensor = NOT_YET
    """[..., T] float32"""
    entropy: Tensor = NOT_YET
    """[..., T] float32, nats"""
    values: Tensor = NOT_YET
    """[..., T] float32"""
    scores: Tensor = NOT_YET
    """[...] float32 (or [..., K] for a head of K outputs)"""
    kl: Tensor = NOT_YET
    """[..., T] float32, nats: KL(model ‖ reference) of each token's distribution, over the whole vocabulary"""
    forward_kl: Tensor = NOT_YET
    """[..., T] float32, nats: KL(reference ‖ model)"""


class _Reading(Protocol):
    """One way to run a model over a batch; outputs outside the mask are anything."""

    def logits(self) -> tuple[Tensor, Tensor]:
        """Logits [R', T', V] that score tokens, and these tokens [R', T']."""
        ...

    def spread(self, found: Tensor) -> Tensor:
        """[R, T] from what was found for the tokens of `logits`."""
        ...

    def values(self) -> Tensor:
        """[R, T]"""
        ...

    def scores(self) -> Tensor:
        """[R, K]"""
        ...


def forward(
    model: Any,
    batch: Batch,
    needs: tuple[str, ...],
    temperature: float = 1.0,
    ragged: bool | None = None,
    reference: Any = None,
) -> Outputs:
    """Run `model` over `batch` and return the outputs named in `needs` (the fields of `Outputs`).

    `kl` and `forward_kl` compare with `reference`, by default the model itself without its adapters, which is read without gradient
    or dropout.

    Positions outside the batch's mask are 0. `temperature` divides the logits before log-probabilities and entropy. `ragged`
    forces or forbids reading without padding (None: where the model can); it changes speed and rounding only.
    """
    unknown = set(needs) - set(Outputs.__dataclass_fields__)
    if unknown:
        raise ValueError(f"unknown outputs {sorted(unknown)}; a model gives {', '.join(Outputs.__dataclass_fields__)}")
    compared = {"kl", "forward_kl"} & set(needs)
    if ragged is None:
        ragged = all(
            knows_ragged_rows(m) for m in (model, *([reference] if compared and reference is not None else []))
        )
    there = _reference_logits(model, reference, batch, ragged) if compared else None
    reading = _reading(model, batch, ragged, needs)
    shape, mask = _shape(batch), batch.mask  # type: ignore[union-attr]

    def per_token(x: Tensor) -> Tensor:
        return torch.where(mask, x.reshape(shape), torch.zeros((), dtype=x.dtype, device=x.device))

    outputs = Outputs()
    if {"logprobs", "entropy", "kl", "forward_kl"} & set(needs):
        logits, tokens = reading.logits()
        found: dict[str, Tensor] = {}
        if "entropy" in needs:
            found["logprobs"], found["entropy"] = functional.token_logprobs_and_entropy(logits, tokens, temperature)
        elif "logprobs" in needs:
            found["logprobs"] = functional.token_logprobs(logits, tokens, temperature)
        if there is not None and there.shape != logits.shape:
            raise ValueError(
                f"a reference of {there.shape[-1]} tokens cannot be compared with a model of {logits.shape[-1]}: both need one tokenizer"
            )
        for name in compared:
            assert there is not None
            found[name] = functional.vocabulary_kl(logits, there, temperature, towards_reference=name == "kl")
        for name, values in found.items():
            setattr(outputs, name, per_token(reading.spread(values)))
    if "values" in needs:
        outputs.values = per_token(reading.values())
    if "scores" in needs:
        scores = reading.scores()
        outputs.scores = scores.reshape(shape[:-1] if scores.shape[-1] == 1 else (*shape[:-1], -1))
    return outputs


def _shape(batch: Any) -> torch.Size:
    return batch.tokens.shape  # type: ignore[no-any-return]


def _reading(model: Any, batch: Any, ragged: bool, needs: Collection[str]) -> _Reading:
    filled = row_tokens(batch)
    if filled is None:
        raise TypeError(f"{type(batch).__name__} has no tokens to look at")
    if isinstance(batch, Sequences):
        if ragged and bool(filled.any()):
            rows = RaggedRows.of_documents(batch.tokens, batch.segments)
            return _Ragged(model, rows, batch.tokens, batch.mask, needs)
        return _Packed(model, batch)
    prompt_ids, prompt_mask, tokens, mask = batch.prompt_ids, batch.prompt_mask, batch.tokens, batch.mask
    if tokens.dim() == 3:
        candidates = tokens.shape[1]
        prompt_ids, prompt_mask = (x.repeat_interleave(candidates, 0) for x in (prompt_ids, prompt_mask))
        tokens, mask, filled = tokens.flatten(0, 1), mask.flatten(0, 1), filled.flatten(0, 1)
    if ragged and bool(prompt_mask.any(1).all()):
        rows = RaggedRows.of(prompt_ids, prompt_mask, tokens, filled)
        return _Ragged(model, rows, tokens, mask, needs)
    return _Padded(model, prompt_ids, prompt_mask, tokens, filled)


@torch.no_grad()
def _reference_logits(model: Any, reference: Any, batch: Any, ragged: bool) -> Tensor:
    """As `_Reading.logits`, of the reference."""
    other = model if reference is None else reference
    training = other.training
    other.eval()
    try:
        with adapter_off(model) if reference is None else nullcontext():
            return _reading(other, batch, ragged, ("logprobs",)).logits()[0]
    finally:
        other.train(training)


class _Ragged:
    """All rows as one sequence; backbone and heads are asked for the places that are needed and no others."""

    def __init__(self, model: Any, rows: RaggedRows, tokens: Tensor, mask: Tensor, needs: Collection[str]) -> None:
        self.model, self.rows, self.tokens, self.mask = model, rows, tokens, mask
        before = rows.before[mask] if set(needs) - {"scores"} else rows.before.new_zeros(0)
        self.filler = recurring(len(before)) - len(before) if rows.attention.rounded else 0
        self.before = torch.cat((before, before[-1:].expand(self.filler)))
        """Places that score tokens; the last comes again as often as there is filler."""
        self.places = torch.cat((self.before, rows.last)) if "scores" in needs else self.before
        self.hidden: Tensor | None = None

    def logits(self) -> tuple[Tensor, Tensor]:
        """As in `_Reading`."""
        tokens = F.pad(self.tokens[self.mask], (0, self.filler))[None]
        if anatomy(backbone(self.model)) is not None:
            return language_logits(plain_model(self.model), self._hidden()[: len(self.before)])[None], tokens
        with _overheard(self.model) as heard:
            logits = self.rows.read(self.model, logits_to_keep=self.before).logits
        self.hidden = heard[0][0].index_select(0, self.places)
        return logits, tokens

    def spread(self, found: Tensor) -> Tensor:
        """As in `_Reading`; filler at the end of `found` is left over."""
        return torch.zeros(self.mask.shape, dtype=found.dtype, device=found.device).masked_scatter(self.mask, found)

    def values(self) -> Tensor:
        """As in `_Reading`."""
        return self.spread(_head(self.model, self._hidden()[: len(self.before)]).squeeze(-1))

    def scores(self) -> Tensor:
        """As in `_Reading`."""
        return _head(self.model, self._hidden()[len(self.before) :])

    def _hidden(self) -> Tensor:
        if self.hidden is None:
            self.hidden = self.rows.hidden(backbone(self.model), self.places)
        return self.hidden


class _Padded:
    """Each row's prompt and response as one sequence."""

    def __init__(self, model: Any, prompt_ids: Tensor, prompt_mask: Tensor, tokens: Tensor, filled: Tensor) -> None:
        self.model, self.tokens, self.filled = model, tokens, filled
        self.prompt = prompt_ids.shape[1]
        self.heard: list[Tensor] = []
        attention = torch.cat((prompt_mask, filled), 1)
        self.inputs = {
            "input_ids": torch.cat((prompt_ids, tokens), 1),
            "attention_mask": None if bool(attention.all()) else attention.long(),
            "position_ids": (attention.long().cumsum(1) - 1).clamp(min=0),
            "use_cache": False,
        }

    def logits(self) -> tuple[Tensor, Tensor]:
        """As in `_Reading`; the head runs over the positions that score response tokens only."""
        with _overheard(self.model) as self.heard:
            logits = self.model(**self.inputs, logits_to_keep=self.tokens.shape[1] + 1).logits[:, :-1]
        if self.prompt == 0:  # nothing scores the first token
            logits = F.pad(logits, (0, 0, 1, 0))
        return logits, self.tokens

    def spread(self, found: Tensor) -> Tensor:
        """As in `_Reading`."""
        return found

    def values(self) -> Tensor:
        """As in `_Reading`."""
        values = _head(self.model, self._hidden()[:, max(self.prompt - 1, 0) : -1]).squeeze(-1)
        return F.pad(values, (1, 0)) if self.prompt == 0 else values

    def scores(self) -> Tensor:
        """As in `_Reading`."""
        last = self.prompt + functional.last_token_index(self.filled)
        return _head(self.model, _pick(self._hidden(), last.clamp(min=0)))

    def _hidden(self) -> Tensor:
        return self.heard[0] if self.heard else backbone(self.model)(**self.inputs).last_hidden_state  # type: ignore[no-any-return]


class _Packed:
    """Whole sequences, possibly several documents a row: positions restart at each, from which transformers derives its mask."""

    def __init__(self, model: Any, batch: Sequences) -> None:
        self.model, self.batch = model, batch
        self.heard: list[Tensor] = []
        segments = batch.segments
        index = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
        border = torch.ones_like(segments, dtype=torch.bool)
        border[:, 1:] = segments[:, 1:] != segments[:, :-1]
        start = torch.where(border, index, torch.zeros_like(index)).cummax(1).values
        self.inputs = {
            "input_ids": batch.tokens,
            "attention_mask": None,
            "position_ids": index - start,
            "use_cache": False,
        }

    def logits(self) -> tuple[Tensor, Tensor]:
        """As in `_Reading`."""
        with _overheard(self.model) as self.heard:
            logits = self.model(**self.inputs).logits[:, :-1]
        return logits, self.batch.tokens[:, 1:]

    def spread(self, found: Tensor) -> Tensor:
        """As in `_Reading`; the first token of a row has nothing before it."""
        return F.pad(found, (1, 0))

    def values(self) -> Tensor:
        """As in `_Reading`."""
        return F.pad(_head(self.model, self._hidden()[:, :-1]).squeeze(-1), (1, 0))

    def scores(self) -> Tensor:
        """As in `_Reading`."""
        last = functional.last_token_index(self.batch.segments > 0)
        return _head(self.model, _pick(self._hidden(), last.clamp(min=0)))

    def _hidden(self) -> Tensor:
        return self.heard[0] if self.heard else backbone(self.model)(**self.inputs).last_hidden_state  # type: ignore[no-any-return]


@contextmanager
def _overheard(model: Any) -> Iterator[list[Tensor]]:
    """What the backbone hands to the language model's head meanwhile: a value head then needs no pass of its own."""
    heard: list[Tensor] = []
    hook = backbone(model).register_forward_hook(lambda _, __, output: heard.append(output.last_hidden_state))
    try:
        yield heard
    finally:
        hook.remove()


def _head(model: Any, hidden: Tensor) -> Tensor:
    return head_of(model)(hidden).float()  # type: ignore[no-any-return]


def _pick(hidden: Tensor, index: Tensor) -> Tensor:
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), index]
