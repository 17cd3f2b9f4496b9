"""Rows laid one behind the other, without padding and with each distinct prompt once.

Knows: prompts, responses and documents as spans of one sequence; which token scores which.
Does not know: losses, optimisers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from fairlead.batch import alike
from fairlead.models import backbone, plain_model
from fairlead.models.attention import ATTENTION, Ragged, Span, ragged_attention
from fairlead.models.families import anatomy
from fairlead.models.reader import read_ragged
from fairlead.runtime.machine import has_amx

__all__ = ["RaggedRows", "knows_ragged_rows"]


@dataclass
class RaggedRows:
    """Token ids and positions [1, N], what attends to what, and where the outputs of R rows [R, T] are found."""

    ids: Tensor
    positions: Tensor
    attention: Ragged
    before: Tensor
    """[R, T]: place of the token that scores each token (the one before it); 0 where there is none."""
    last: Tensor
    """[R]: place of the last token of each row."""

    @classmethod
    def of(cls, prompt_ids: Tensor, prompt_mask: Tensor, tokens: Tensor, filled: Tensor) -> RaggedRows:
        """Prompts [R, P] and responses [R, T]; every row needs a token of its prompt. Equal rows and equal prompts are laid once."""
        device = tokens.device
        ids, mask, answer, there = (x.cpu().numpy() for x in (prompt_ids, prompt_mask, tokens, filled))
        families = alike(prompt_ids, prompt_mask)
        pieces: list[Any] = []
        positions: list[Any] = []
        rows: list[tuple[Span, tuple[Span, ...]]] = []
        before, last = np.zeros(tokens.shape, dtype=np.int64), np.zeros(len(answer), dtype=np.int64)
        place = 0

        def lay(piece: Any, start: int) -> Span:
            nonlocal place
            pieces.append(piece)
            positions.append(np.arange(start, start + len(piece)))
            place += len(piece)
            return place - len(piece), len(piece)

        for family in families:
            prompt = lay(ids[family[0]][mask[family[0]]], 0)
            rows.append((prompt, (prompt,)))
            known: dict[bytes, Span] = {}
            for row in family:
                own = answer[row][there[row]]
                span = known.get(own.tobytes())
                if span is None:
                    span = known[own.tobytes()] = lay(own, prompt[1])
                    if span[1]:
                        rows.append((span, (prompt, span)))
                end = prompt[0] + prompt[1] - 1
                before[row][there[row]] = np.concatenate(([end], np.arange(span[0], span[0] + span[1])))[:-1]
                last[row] = span[0] + span[1] - 1 if span[1] else end
        attention = Ragged(rows, device, _shapes_should_recur(device))
        return cls(
            _sequence(np.concatenate(pieces), attention),
            _sequence(np.concatenate(positions), attention),
            attention,
            torch.from_numpy(before).to(device),
            torch.from_numpy(last).to(device),
        )

    @classmethod
    def of_documents(cls, tokens: Tensor, segments: Tensor) -> RaggedRows:
        """Rows [R, T] of packed documents, numbered by `segments` (0: padding)."""
        device = tokens.device
        number, words = segments.cpu().numpy(), tokens.cpu().numpy()
        there = number > 0
        first = there.copy()
        first[:, 1:] &= number[:, 1:] != number[:, :-1]
        starts = np.flatnonzero(first[there])
        lengths = np.diff(np.append(starts, there.sum()))
        spans = [(int(start), int(length)) for start, length in zip(starts, lengths, strict=True)]
        place = np.zeros(there.shape, dtype=np.int64)
        place[there] = np.arange(there.sum())
        ends = np.where(there, place, 0).max(1)
        positions = np.arange(there.sum()) - np.repeat(starts, lengths)
        attention = Ragged([(span, (span,)) for span in spans], device, _shapes_should_recur(device))
        return cls(
            _sequence(words[there], attention),
            _sequence(positions, attention),
            attention,
            torch.from_numpy(np.maximum(place - 1, 0)).to(device),
            torch.from_numpy(ends).to(device),
        )

    def hidden(self, network: Any, places: Tensor) -> Tensor:
        """What a backbone says at `places` [M] of the sequence: its last hidden states [M, D]."""
        body = anatomy(network)
        if body is None:
            return self.read(network).last_hidden_state[0].index_select(0, places)  # type: ignore[no-any-return]
        return read_ragged(body, self.ids[0], self.positions[0], self.attention, places)

    def read(self, network: Any, **others: Any) -> Any:
        """What `network` (a model or its backbone) returns for the one sequence by its own `forward`."""
        # A ready mask keeps transformers from making one; attention does not look at it.
        nothing = torch.ones((1, 1, 1, 1), dtype=torch.bool, device=self.ids.device)
        with ragged_attention(self.attention):
            return network(
                input_ids=self.ids, attention_mask=nothing, position_ids=self.positions, use_cache=False, **others
            )


def _shapes_should_recur(device: torch.device) -> bool:
    """Whether a product of a new shape costs more than rounding it up: bfloat16 by AMX."""
    if device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return False
    return torch.get_autocast_dtype("cpu") == torch.bfloat16 and has_amx()


def _sequence(values: Any, attention: Ragged) -> Tensor:
    """[1, N] of the values of all tokens, and zeros for the filler behind them."""
    return torch.from_numpy(np.pad(values, (0, attention.filler)))[None].to(attention.device)


def knows_ragged_rows(model: Any) -> bool:
    """True where ragged rows give what padded ones do: tried once for each model, on three short rows."""
    plain = plain_model(model)
    if plain.training and _checkpoints(plain):
        return False  # activations are computed again where the rows are no longer known
    found = getattr(plain, "_fairlead_knows_ragged_rows", None)
    if found is None:
        found = plain._fairlead_knows_ragged_rows = _try(model)  # type: ignore[assignment]
    return bool(found)


def _checkpoints(plain: Any) -> bool:
    """Whether activations are recomputed in the backward pass; transformers is renaming the property."""
    names = ("is_activation_checkpointing", "is_gradient_checkpointing")
    return bool(next((getattr(plain, name) for name in names if hasattr(type(plain), name)), False))


@torch.no_grad()
def _try(model: Any) -> bool:
    plain = plain_model(model)
    config = plain.config.get_text_config(decoder=True)
    if getattr(config, "_attn_implementation", None) != ATTENTION:
        return False
    layers = DynamicCache(config=config).layers
    if not layers or any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers):
        return False  # state-space and linear attention layers would run from one row into the next
    device = next(plain.parameters()).device
    ids = torch.arange(12, device=device).view(3, 4) % config.vocab_size
    mask = torch.ones_like(ids, dtype=torch.bool)
    network, training = backbone(model), plain.training
    plain.eval()
    try:
        padded = network(input_ids=ids, use_cache=False).last_hidden_state.float()
        rows = RaggedRows.of(ids[:, :2], mask[:, :2], ids[:, 2:], mask[:, 2:])
        ragged = rows.hidden(network, rows.last).float()
    except torch.OutOfMemoryError:
        raise  # says nothing about the rows
    except (RuntimeError, TypeError, ValueError, IndexError):
        return False
    finally:
        plain.train(training)
    difference = (ragged - padded[:, -1]).abs().max()
    return bool(difference <= 0.02 * padded.abs().max())
