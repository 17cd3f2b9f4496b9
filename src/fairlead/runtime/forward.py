"""From a typed batch to what a model says about it: log-probabilities, entropies, values, scores.

Knows: how prompts and responses are laid out for a Hugging Face model, and which logit scores which token.
Does not know: optimisers, losses, where the model lives.

Logits at position t score token t + 1; a value at t is the critic's estimate *before* token t is chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fairlead import functional
from fairlead.batch import NOT_YET, Batch, Sequences, row_tokens
from fairlead.models import backbone, plain_model

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


@dataclass
class _Layout:
    """Prompt and response as one sequence for the model."""

    input_ids: Tensor
    attention_mask: Tensor | None
    position_ids: Tensor
    tokens: Tensor
    mask: Tensor
    filled: Tensor
    prompt: int


def forward(model: Any, batch: Batch, needs: tuple[str, ...], temperature: float = 1.0) -> Outputs:
    """Run `model` over `batch` and return the outputs named in `needs` (`logprobs`, `entropy`, `values`, `scores`).

    Positions outside the batch's mask are 0. `temperature` divides the logits before log-probabilities and entropy.
    """
    unknown = set(needs) - {"logprobs", "entropy", "values", "scores"}
    if unknown:
        raise ValueError(f"unknown outputs {sorted(unknown)}; a model gives logprobs, entropy, values, scores")
    layout = _lay_out(batch)
    shape = _shape(batch)
    outputs = Outputs()
    if {"logprobs", "entropy"} & set(needs):
        logits = _response_logits(model, layout)
        if "entropy" in needs:
            logprobs, entropy = functional.token_logprobs_and_entropy(logits, layout.tokens, temperature)
            outputs.entropy = _only(entropy, layout.mask).reshape(shape)
        else:
            logprobs = functional.token_logprobs(logits, layout.tokens, temperature)
        outputs.logprobs = _only(logprobs, layout.mask).reshape(shape)
    if {"values", "scores"} & set(needs):
        hidden = backbone(model)(
            input_ids=layout.input_ids,
            attention_mask=layout.attention_mask,
            position_ids=layout.position_ids,
            use_cache=False,
        ).last_hidden_state
        head = plain_model(model).score
        if "values" in needs:
            start = layout.prompt - 1
            before = hidden[:, max(start, 0) : start + layout.tokens.shape[1]]
            values = head(before).float().squeeze(-1)
            if start < 0:
                values = torch.nn.functional.pad(values, (1, 0))
            outputs.values = _only(values, layout.mask).reshape(shape)
        if "scores" in needs:
            last = layout.prompt + functional.last_token_index(layout.filled)
            picked = hidden[torch.arange(hidden.shape[0], device=hidden.device), last.clamp(min=0)]
            scores = head(picked).float()
            outputs.scores = (
                scores.squeeze(-1).reshape(shape[:-1]) if scores.shape[-1] == 1 else scores.reshape(*shape[:-1], -1)
            )
    return outputs


def _shape(batch: Any) -> torch.Size:
    return batch.tokens.shape  # type: ignore[no-any-return]


def _only(x: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, x, torch.zeros((), dtype=x.dtype, device=x.device))


def _lay_out(batch: Any) -> _Layout:
    if isinstance(batch, Sequences):
        return _lay_out_sequences(batch)
    filled = row_tokens(batch)
    if filled is None:
        raise TypeError(f"{type(batch).__name__} has no tokens to look at")
    prompt_ids, prompt_mask, tokens, mask = batch.prompt_ids, batch.prompt_mask, batch.tokens, batch.mask
    if tokens.dim() == 3:
        candidates = tokens.shape[1]
        prompt_ids, prompt_mask = (x.repeat_interleave(candidates, 0) for x in (prompt_ids, prompt_mask))
        tokens, mask, filled = (x.flatten(0, 1) for x in (tokens, mask, filled))
    attention = torch.cat((prompt_mask, filled), 1)
    return _Layout(
        input_ids=torch.cat((prompt_ids, tokens), 1),
        attention_mask=None if bool(attention.all()) else attention.long(),
        position_ids=(attention.long().cumsum(1) - 1).clamp(min=0),
        tokens=tokens,
        mask=mask,
        filled=filled,
        prompt=prompt_ids.shape[1],
    )


def _lay_out_sequences(batch: Any) -> _Layout:
    """Packed documents: positions restart at each document, from which transformers derives the block-diagonal mask."""
    segments = batch.segments
    index = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    border = torch.ones_like(segments, dtype=torch.bool)
    border[:, 1:] = segments[:, 1:] != segments[:, :-1]
    start = torch.where(border, index, torch.zeros_like(index)).cummax(1).values
    return _Layout(
        input_ids=batch.tokens,
        attention_mask=None,
        position_ids=index - start,
        tokens=batch.tokens,
        mask=batch.mask,
        filled=segments > 0,
        prompt=0,
    )


def _response_logits(model: Any, layout: _Layout) -> Tensor:
    """Logits [N, T, V] that score the response tokens; the head runs over these positions only."""
    width = layout.tokens.shape[1]
    keep = width + 1 if layout.prompt else width
    logits = model(
        input_ids=layout.input_ids,
        attention_mask=layout.attention_mask,
        position_ids=layout.position_ids,
        use_cache=False,
        logits_to_keep=keep,
    ).logits
    if layout.prompt:
        return logits[:, :-1]  # type: ignore[no-any-return]
    return torch.cat((torch.zeros_like(logits[:, :1]), logits[:, :-1]), 1)
