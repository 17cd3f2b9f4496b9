"""From a typed batch to what a model says about it: log-probabilities, entropies, values, scores.

Knows: how prompts and responses are laid out for a Hugging Face model, and which logit scores which token.
Does not know: optimisers, losses, where the model lives.

Logits at position t score token t + 1; a value at t is the critic's estimate *before* token t is chosen. Equal rows are
computed once. Where many responses share a prompt, the prompt alone goes through the model first and the responses continue
from its keys and values, through which their gradients flow back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from fairlead import functional
from fairlead.batch import NOT_YET, Batch, Sequences, row_tokens
from fairlead.generation.cache import cache_argument
from fairlead.models import backbone, plain_model
from fairlead.runtime.sharing import distinct

__all__ = ["Outputs", "forward"]

_WORTH_SHARING = 0.8  # share of the tokens that must remain at most: two passes and a mask cost something


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


@dataclass
class _Rows:
    """Prompts [R, P] and responses [R, T], one response a row."""

    prompt_ids: Tensor
    prompt_mask: Tensor
    tokens: Tensor
    filled: Tensor

    def take(self, rows: Tensor) -> _Rows:
        """The given rows."""
        return _Rows(self.prompt_ids[rows], self.prompt_mask[rows], self.tokens[rows], self.filled[rows])


class _Reading(Protocol):
    """One way to run a model over rows; outputs outside the mask are anything."""

    def logprobs(self, temperature: float, with_entropy: bool) -> tuple[Tensor, Tensor | None]:
        """Log-probability [R, T] of each token, and the entropy [R, T] where it was chosen."""
        ...

    def values(self) -> Tensor:
        """[R, T]"""
        ...

    def scores(self) -> Tensor:
        """[R, K]"""
        ...


def forward(model: Any, batch: Batch, needs: tuple[str, ...], temperature: float = 1.0, share: bool = True) -> Outputs:
    """Run `model` over `batch` and return the outputs named in `needs` (`logprobs`, `entropy`, `values`, `scores`).

    Positions outside the batch's mask are 0. `temperature` divides the logits before log-probabilities and entropy. `share`
    computes equal rows once, and equal prompts where that saves enough; it changes speed and rounding only.
    """
    unknown = set(needs) - {"logprobs", "entropy", "values", "scores"}
    if unknown:
        raise ValueError(f"unknown outputs {sorted(unknown)}; a model gives logprobs, entropy, values, scores")
    reading, place = _reading(model, batch, share)
    shape, mask = _shape(batch), batch.mask  # type: ignore[union-attr]

    def per_token(x: Tensor) -> Tensor:
        x = (x if place is None else x[place]).reshape(shape)
        return torch.where(mask, x, torch.zeros((), dtype=x.dtype, device=x.device))

    outputs = Outputs()
    if {"logprobs", "entropy"} & set(needs):
        logprobs, entropy = reading.logprobs(temperature, "entropy" in needs)
        outputs.logprobs = per_token(logprobs)
        outputs.entropy = NOT_YET if entropy is None else per_token(entropy)
    if "values" in needs:
        outputs.values = per_token(reading.values())
    if "scores" in needs:
        scores = reading.scores()
        scores = scores if place is None else scores[place]
        outputs.scores = scores.reshape(shape[:-1] if scores.shape[-1] == 1 else (*shape[:-1], -1))
    return outputs


def _shape(batch: Any) -> torch.Size:
    return batch.tokens.shape  # type: ignore[no-any-return]


def _reading(model: Any, batch: Batch, share: bool) -> tuple[_Reading, Tensor | None]:
    """How to run the model, and where among its rows each row of the batch lies (None: in order)."""
    if isinstance(batch, Sequences):
        return _Packed(model, batch), None
    rows = _flat(batch)
    place = None
    if not share or not len(rows.tokens):
        return _Whole(model, rows), place
    first, place = distinct(torch.cat((rows.prompt_ids, rows.tokens), 1), torch.cat((rows.prompt_mask, rows.filled), 1))
    if len(first) < len(place):
        rows = rows.take(first)
    else:
        place = None
    prompts, prompt_of = distinct(rows.prompt_ids, rows.prompt_mask)
    one_by_one = rows.prompt_ids.numel() + rows.tokens.numel()
    together = len(prompts) * rows.prompt_ids.shape[1] + rows.tokens.numel()
    if together <= _WORTH_SHARING * one_by_one and _continues(model):
        return _SharedPrompts(model, rows, prompts, prompt_of), place
    return _Whole(model, rows), place


def _flat(batch: Any) -> _Rows:
    filled = row_tokens(batch)
    if filled is None:
        raise TypeError(f"{type(batch).__name__} has no tokens to look at")
    rows = _Rows(batch.prompt_ids, batch.prompt_mask, batch.tokens, filled)
    if rows.tokens.dim() == 3:
        candidates = rows.tokens.shape[1]
        rows.prompt_ids, rows.prompt_mask = (
            x.repeat_interleave(candidates, 0) for x in (rows.prompt_ids, rows.prompt_mask)
        )
        rows.tokens, rows.filled = rows.tokens.flatten(0, 1), rows.filled.flatten(0, 1)
    return rows


def _continues(model: Any) -> bool:
    """True where a cache of keys and values is all that the model needs to go on, and it may be kept for gradients."""
    plain = plain_model(model)
    if _checkpoints(plain) and plain.training:
        return False  # checkpointed layers write no cache
    layers = DynamicCache(config=plain.config.get_text_config(decoder=True)).layers
    return bool(layers) and all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


def _checkpoints(plain: Any) -> bool:
    """Whether activations are recomputed in the backward pass; transformers is renaming the property."""
    names = ("is_activation_checkpointing", "is_gradient_checkpointing")
    return bool(next((getattr(plain, name) for name in names if hasattr(type(plain), name)), False))


def _of_tokens(logits: Tensor, tokens: Tensor, temperature: float, with_entropy: bool) -> tuple[Tensor, Tensor | None]:
    if with_entropy:
        return functional.token_logprobs_and_entropy(logits, tokens, temperature)
    return functional.token_logprobs(logits, tokens, temperature), None


class _Whole:
    """Each row's prompt and response as one sequence."""

    def __init__(self, model: Any, rows: _Rows) -> None:
        self.model, self.rows = model, rows
        self.prompt = rows.prompt_ids.shape[1]
        attention = torch.cat((rows.prompt_mask, rows.filled), 1)
        self.inputs = {
            "input_ids": torch.cat((rows.prompt_ids, rows.tokens), 1),
            "attention_mask": None if bool(attention.all()) else attention.long(),
            "position_ids": _positions(attention),
            "use_cache": False,
        }

    def logprobs(self, temperature: float, with_entropy: bool) -> tuple[Tensor, Tensor | None]:
        """As in `_Reading`; the head runs over the positions that score response tokens only."""
        logits = self.model(**self.inputs, logits_to_keep=self.rows.tokens.shape[1] + 1).logits[:, :-1]
        if self.prompt == 0:  # nothing scores the first token
            logits = F.pad(logits, (0, 0, 1, 0))
        return _of_tokens(logits, self.rows.tokens, temperature, with_entropy)

    def values(self) -> Tensor:
        """As in `_Reading`."""
        values = _head(self.model, self._hidden()[:, max(self.prompt - 1, 0) : -1]).squeeze(-1)
        return F.pad(values, (1, 0)) if self.prompt == 0 else values

    def scores(self) -> Tensor:
        """As in `_Reading`."""
        last = self.prompt + functional.last_token_index(self.rows.filled)
        return _head(self.model, _pick(self._hidden(), last.clamp(min=0)))

    def _hidden(self) -> Tensor:
        return backbone(self.model)(**self.inputs).last_hidden_state  # type: ignore[no-any-return]


class _SharedPrompts:
    """Each distinct prompt once, and each response as its continuation."""

    def __init__(self, model: Any, rows: _Rows, prompts: Tensor, prompt_of: Tensor) -> None:
        """`prompts` [U]: a row that has the prompt; `prompt_of` [R]: which prompt each row has."""
        self.model, self.rows, self.prompt_of = model, rows, prompt_of
        self.cache_name = cache_argument(plain_model(model))
        ids, mask = rows.prompt_ids[prompts], rows.prompt_mask[prompts]
        self.prompt_inputs = {
            "input_ids": ids,
            "attention_mask": None if bool(mask.all()) else mask.long(),
            "position_ids": _positions(mask),
            "use_cache": True,
        }

    def logprobs(self, temperature: float, with_entropy: bool) -> tuple[Tensor, Tensor | None]:
        """As in `_Reading`."""
        tokens, cache = self.rows.tokens, self._new_cache()
        logits = self.model(**self.prompt_inputs, **{self.cache_name: cache}, logits_to_keep=1).logits
        pieces = [_of_tokens(logits[self.prompt_of], tokens[:, :1], temperature, with_entropy)]
        if tokens.shape[1] > 1:
            logits = self.model(**self._continuation(cache, tokens.shape[1] - 1)).logits
            pieces.append(_of_tokens(logits, tokens[:, 1:], temperature, with_entropy))
        entropies = [entropy for _, entropy in pieces if entropy is not None]
        return torch.cat([logprobs for logprobs, _ in pieces], 1), torch.cat(entropies, 1) if entropies else None

    def values(self) -> Tensor:
        """As in `_Reading`."""
        return _head(self.model, self._hidden(self.rows.tokens.shape[1] - 1)).squeeze(-1)

    def scores(self) -> Tensor:
        """As in `_Reading`."""
        last = 1 + functional.last_token_index(self.rows.filled)
        return _head(self.model, _pick(self._hidden(self.rows.tokens.shape[1]), last))

    def _hidden(self, width: int) -> Tensor:
        """Hidden states [R, 1 + width, d] of the last prompt token and the first `width` response tokens."""
        network, cache = backbone(self.model), self._new_cache()
        before = network(**self.prompt_inputs, **{self.cache_name: cache}).last_hidden_state[:, -1:][self.prompt_of]
        if width == 0:
            return before  # type: ignore[no-any-return]
        return torch.cat((before, network(**self._continuation(cache, width)).last_hidden_state), 1)

    def _new_cache(self) -> DynamicCache:
        return DynamicCache(config=plain_model(self.model).config.get_text_config(decoder=True))

    def _continuation(self, cache: DynamicCache, width: int) -> dict[str, Any]:
        """The first `width` tokens of every response, behind the keys and values of its prompt."""
        for layer in cache.layers:
            layer.keys, layer.values = layer.keys[self.prompt_of], layer.values[self.prompt_of]
        attention = torch.cat((self.rows.prompt_mask, self.rows.filled[:, :width]), 1)
        return {
            "input_ids": self.rows.tokens[:, :width],
            "attention_mask": attention.long(),
            "position_ids": _positions(attention)[:, -width:],
            "use_cache": True,
            self.cache_name: cache,
        }


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


def _positions(mask: Tensor) -> Tensor:
    return (mask.long().cumsum(1) - 1).clamp(min=0)


def _head(model: Any, hidden: Tensor) -> Tensor:
    return plain_model(model).score(hidden).float()  # type: ignore[no-any-return, operator]


def _pick(hidden: Tensor, index: Tensor) -> Tensor:
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), index]
