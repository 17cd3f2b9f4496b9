"""From a typed batch to what a model says about it: log-probabilities, entropies, values, scores.

Knows: how prompts and responses are laid out for a Hugging Face model, and which logit scores which token.
Does not know: optimisers, losses, where the model lives.

Logits at position t score token t + 1; a value at t is the critic's estimate *before* token t is chosen. Rows are read without
padding, with equal prompts and equal rows once (`ragged`), where the model's attention can be told about rows; padded otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from fairlead import functional
from fairlead.batch import NOT_YET, Batch, Sequences, row_tokens
from fairlead.models import backbone, plain_model
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


class _Reading(Protocol):
    """One way to run a model over a batch; outputs outside the mask are anything."""

    def logprobs(self, temperature: float, with_entropy: bool) -> tuple[Tensor, Tensor | None]:
        """Log-probability [R, T] of each token, and the entropy [R, T] where it was chosen."""
        ...

    def values(self) -> Tensor:
        """[R, T]"""
        ...

    def scores(self) -> Tensor:
        """[R, K]"""
        ...


def forward(
    model: Any, batch: Batch, needs: tuple[str, ...], temperature: float = 1.0, ragged: bool | None = None
) -> Outputs:
    """Run `model` over `batch` and return the outputs named in `needs` (`logprobs`, `entropy`, `values`, `scores`).

    Positions outside the batch's mask are 0. `temperature` divides the logits before log-probabilities and entropy. `ragged`
    forces or forbids reading without padding (None: where the model can); it changes speed and rounding only.
    """
    unknown = set(needs) - {"logprobs", "entropy", "values", "scores"}
    if unknown:
        raise ValueError(f"unknown outputs {sorted(unknown)}; a model gives logprobs, entropy, values, scores")
    reading = _reading(model, batch, knows_ragged_rows(model) if ragged is None else ragged)
    shape, mask = _shape(batch), batch.mask  # type: ignore[union-attr]

    def per_token(x: Tensor) -> Tensor:
        return torch.where(mask, x.reshape(shape), torch.zeros((), dtype=x.dtype, device=x.device))

    outputs = Outputs()
    if {"logprobs", "entropy"} & set(needs):
        logprobs, entropy = reading.logprobs(temperature, "entropy" in needs)
        outputs.logprobs = per_token(logprobs)
        outputs.entropy = NOT_YET if entropy is None else per_token(entropy)
    if "values" in needs:
        outputs.values = per_token(reading.values())
    if "scores" in needs:
        scores = reading.scores()
        outputs.scores = scores.reshape(shape[:-1] if scores.shape[-1] == 1 else (*shape[:-1], -1))
    return outputs


def _shape(batch: Any) -> torch.Size:
    return batch.tokens.shape  # type: ignore[no-any-return]


def _reading(model: Any, batch: Any, ragged: bool) -> _Reading:
    filled = row_tokens(batch)
    if filled is None:
        raise TypeError(f"{type(batch).__name__} has no tokens to look at")
    if isinstance(batch, Sequences):
        if ragged and bool(filled.any()):
            rows = RaggedRows.of_documents(batch.tokens, batch.segments)
            return _Ragged(model, rows, batch.tokens, batch.mask)
        return _Packed(model, batch)
    prompt_ids, prompt_mask, tokens, mask = batch.prompt_ids, batch.prompt_mask, batch.tokens, batch.mask
    if tokens.dim() == 3:
        candidates = tokens.shape[1]
        prompt_ids, prompt_mask = (x.repeat_interleave(candidates, 0) for x in (prompt_ids, prompt_mask))
        tokens, mask, filled = tokens.flatten(0, 1), mask.flatten(0, 1), filled.flatten(0, 1)
    if ragged and bool(prompt_mask.any(1).all()):
        return _Ragged(model, RaggedRows.of(prompt_ids, prompt_mask, tokens, filled), tokens, mask)
    return _Padded(model, prompt_ids, prompt_mask, tokens, filled)


def _of_tokens(logits: Tensor, tokens: Tensor, temperature: float, with_entropy: bool) -> tuple[Tensor, Tensor | None]:
    if with_entropy:
        return functional.token_logprobs_and_entropy(logits, tokens, temperature)
    return functional.token_logprobs(logits, tokens, temperature), None


class _Ragged:
    """All rows as one sequence; the heads run over the places that are asked for and no others."""

    def __init__(self, model: Any, rows: RaggedRows, tokens: Tensor, mask: Tensor) -> None:
        self.model, self.rows, self.tokens, self.mask = model, rows, tokens, mask

    def logprobs(self, temperature: float, with_entropy: bool) -> tuple[Tensor, Tensor | None]:
        """As in `_Reading`."""
        logits = self.rows.read(self.model, logits_to_keep=self.rows.before[self.mask]).logits
        logprobs, entropy = _of_tokens(logits, self.tokens[self.mask][None], temperature, with_entropy)
        return self._spread(logprobs[0]), None if entropy is None else self._spread(entropy[0])

    def values(self) -> Tensor:
        """As in `_Reading`."""
        before = self._hidden().index_select(0, self.rows.before[self.mask])
        return self._spread(_head(self.model, before).squeeze(-1))

    def scores(self) -> Tensor:
        """As in `_Reading`."""
        return _head(self.model, self._hidden().index_select(0, self.rows.last))

    def _hidden(self) -> Tensor:
        return self.rows.read(backbone(self.model)).last_hidden_state[0]  # type: ignore[no-any-return]

    def _spread(self, found: Tensor) -> Tensor:
        return torch.zeros(self.mask.shape, dtype=found.dtype, device=found.device).masked_scatter(self.mask, found)


class _Padded:
    """Each row's prompt and response as one sequence."""

    def __init__(self, model: Any, prompt_ids: Tensor, prompt_mask: Tensor, tokens: Tensor, filled: Tensor) -> None:
        self.model, self.tokens, self.filled = model, tokens, filled
        self.prompt = prompt_ids.shape[1]
        attention = torch.cat((prompt_mask, filled), 1)
        self.inputs = {
            "input_ids": torch.cat((prompt_ids, tokens), 1),
            "attention_mask": None if bool(attention.all()) else attention.long(),
            "position_ids": (attention.long().cumsum(1) - 1).clamp(min=0),
            "use_cache": False,
        }

    def logprobs(self, temperature: float, with_entropy: bool) -> tuple[Tensor, Tensor | None]:
        """As in `_Reading`; the head runs over the positions that score response tokens only."""
        logits = self.model(**self.inputs, logits_to_keep=self.tokens.shape[1] + 1).logits[:, :-1]
        if self.prompt == 0:  # nothing scores the first token
            logits = F.pad(logits, (0, 0, 1, 0))
        return _of_tokens(logits, self.tokens, temperature, with_entropy)

    def values(self) -> Tensor:
        """As in `_Reading`."""
        values = _head(self.model, self._hidden()[:, max(self.prompt - 1, 0) : -1]).squeeze(-1)
        return F.pad(values, (1, 0)) if self.prompt == 0 else values

    def scores(self) -> Tensor:
        """As in `_Reading`."""
        last = self.prompt + functional.last_token_index(self.filled)
        return _head(self.model, _pick(self._hidden(), last.clamp(min=0)))

    def _hidden(self) -> Tensor:
        return backbone(self.model)(**self.inputs).last_hidden_state  # type: ignore[no-any-return]


class _Packed:
    """Whole sequences, possibly several documents a row: positions restart at each, from which transformers derives its mask."""

    def __init__(self, model: Any, batch: Sequences) -> None:
        self.model, self.batch = model, batch
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

    def logprobs(self, temperature: float, with_entropy: bool) -> tuple[Tensor, Tensor | None]:
        """As in `_Reading`; the first token of a row has nothing before it."""
        logits = self.model(**self.inputs).logits
        logprobs, entropy = _of_tokens(logits[:, :-1], self.batch.tokens[:, 1:], temperature, with_entropy)
        return F.pad(logprobs, (1, 0)), None if entropy is None else F.pad(entropy, (1, 0))

    def values(self) -> Tensor:
        """As in `_Reading`."""
        return F.pad(_head(self.model, self._hidden()[:, :-1]).squeeze(-1), (1, 0))

    def scores(self) -> Tensor:
        """As in `_Reading`."""
        last = functional.last_token_index(self.batch.segments > 0)
        return _head(self.model, _pick(self._hidden(), last.clamp(min=0)))

    def _hidden(self) -> Tensor:
        return backbone(self.model)(**self.inputs).last_hidden_state  # type: ignore[no-any-return]


def _head(model: Any, hidden: Tensor) -> Tensor:
    return plain_model(model).score(hidden).float()  # type: ignore[no-any-return, operator]


def _pick(hidden: Tensor, index: Tensor) -> Tensor:
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), index]
