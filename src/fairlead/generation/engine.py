"""The sampling engine: answers a batch of prompts with any Hugging Face causal language model.

Knows: prompts that repeat, the key-value cache, rows that finish early, how many rows fit at a time.
Does not know: rewards, where the model lives, how text becomes tokens (the codec does).

Rows are sorted by length and cut into chunks that fit the token budget. A chunk runs each distinct prompt through the
model once, spreads the cache over the rows that share it, and decodes one token for all rows at a time; when enough rows
have finished, they leave the cache. Rows that grow as a tree begin as one row of the cache, and a branch is a copy of its
parent's. Nothing in a decoding step loops over rows in Python, except for stop strings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from fairlead import functional
from fairlead.batch import Prompts, Samples, alike, row_table
from fairlead.generation.compiled import CompiledDecoder
from fairlead.generation.decoders import Decoder, FastDecoder, PlainDecoder, fast_weights
from fairlead.generation.filters import choose, filtered_logits
from fairlead.generation.mixing import MixedDecoder, Mixing
from fairlead.generation.sampling import Sampling, TreeSampling
from fairlead.generation.stops import StopStrings
from fairlead.generation.tree import Forest
from fairlead.models import adapter_off, context_of, plain_model

__all__ = ["Codec", "ContextError", "Watcher", "check_lengths", "generate"]

TOKEN_BUDGET = 131_072
COMPACT_BELOW = 0.75

Watcher = Callable[[dict[str, Any]], None]
"""Is told each row (its columns and `response`) as soon as its response is finished, in the order in which they finish."""


class ContextError(ValueError):
    """Prompt and response do not fit into the model's context."""


class Codec(Protocol):
    """What the engine needs of `fairlead.data.TextCodec`."""

    @property
    def end_ids(self) -> tuple[int, ...]: ...

    @property
    def padding_id(self) -> int: ...

    def decode(self, ids: list[int]) -> str: ...


@torch.no_grad()
def generate(
    model: Any,
    codec: Codec,
    prompts: Prompts,
    sampling: Sampling,
    *,
    mixing: Mixing | None = None,
    token_budget: int = TOKEN_BUDGET,
    compact_below: float = COMPACT_BELOW,
    share_prompts: bool = True,
    fast: bool = True,
    finished: Watcher | None = None,
) -> Samples:
    """One response for each row of `prompts`, as `Samples` [B, T] with T the longest response.

    Row i is drawn with the numbers `functional.uniform(seed_i, step)`, so its answer is a function of its prompt and
    seed; the other rows touch it only through the rounding of the model's own matrix products.

    The end token belongs to the response (mask true) and not to its text. A stop string ends the response with the token
    that completes it; the text leaves out the string and what follows. Neither ends a response before `minimum_tokens`
    tokens stand. `sampling_logprobs` is 0 everywhere at temperature 0.

    With `mixing` tokens are drawn from the mixture with another model, which is then what temperature and filters change and
    what `logprobs` speaks of.
    With `TreeSampling` the rows of a group are the branches of one tree, and row i depends on its group's prompt and seeds. Tokens
    that the tree chose are written down with the log-probability that they have at the temperature: as if they were drawn.
    `extras` then holds what was counted of the row's tree: tokens, branched, suppressed, compared, removed, steps, empty.

    The remaining arguments change speed and memory only: `token_budget` is the most positions (prompt and longest response,
    padding included) in the cache at a time, though one row always runs; `compact_below` is the share of unfinished
    rows at which finished ones are dropped from the cache; `share_prompts` computes equal prompts once; `fast` uses the fast
    decoder where it knows the model. `finished` is told every row while others are still sampled, and changes nothing.

    Raises: ContextError when a prompt and `maximum_tokens` exceed the model's context; ValueError for an empty prompt.
    """
    rows, device = int(prompts.batch_size[0]), prompts.prompt_ids.device
    engine = _Engine(model, codec, sampling, prompts, mixing, compact_below, share_prompts, fast, finished)
    for source in engine.sources:
        check_lengths(engine.lengths, sampling.maximum_tokens, context_of(source.model.config))
    was_training = [source.model.training for source in engine.sources]
    try:
        for source in engine.sources:
            source.model.eval()
        for chunk in engine.chunks(token_budget):
            engine.run(chunk) if engine.forest is None else engine.grow(chunk, engine.forest)
    finally:
        for source, training in zip(engine.sources, was_training, strict=True):
            source.model.train(training)
    out = engine.out
    width = int(out.mask.sum(1).max()) if rows else 0
    return Samples(
        prompt_ids=prompts.prompt_ids,
        prompt_mask=prompts.prompt_mask,
        tokens=out.tokens[:, :width].clone(),
        mask=out.mask[:, :width].clone(),
        group=prompts.group,
        seed=prompts.seed,
        logprobs=out.logprobs[:, :width].clone(),
        sampling_logprobs=out.sampling_logprobs[:, :width].clone(),
        truncated=~out.ended,
        rows=row_table(engine.rows),
        extras=None if engine.forest is None else engine.forest.figures(),
        batch_size=[rows],
        device=device if prompts.device is not None else None,
    )


def check_lengths(lengths: list[int], maximum_tokens: int, limit: int | None) -> None:
    """Every prompt has a token, and prompt and longest response fit the context."""
    empty = [row for row, length in enumerate(lengths) if length == 0]
    if empty:
        raise ValueError(f"prompts without any token cannot be answered: rows {empty[:10]}")
    longest = max(lengths, default=0)
    if limit is not None and longest + maximum_tokens > limit and lengths:
        over = sum(length + maximum_tokens > limit for length in lengths)
        raise ContextError(
            f"{over} of {len(lengths)} prompts do not fit: the longest has {longest} tokens, with maximum_tokens "
            f"{maximum_tokens} that is {longest + maximum_tokens}, and the context holds {limit}; shorten the "
            f"prompts or set maximum_tokens to {max(limit - longest, 0)} or less"
        )


@dataclass
class _Responses:
    """What has been drawn so far, for the whole batch."""

    tokens: Tensor
    """[B, maximum_tokens] int64"""
    mask: Tensor
    """[B, maximum_tokens] bool"""
    logprobs: Tensor
    """[B, maximum_tokens] float32"""
    sampling_logprobs: Tensor
    """[B, maximum_tokens] float32"""
    ended: Tensor
    """[B] bool: by an end token or a stop string"""
    end_token: Tensor
    """[B] bool: by an end token"""

    def copy(self, source: Tensor, to: Tensor) -> None:
        """Rows `to` become what rows `source` are."""
        for tensor in vars(self).values():
            tensor[to] = tensor[source]

    def forget(self, rows: Tensor, padding: int) -> None:
        """Rows as they were before their first token."""
        for name, tensor in vars(self).items():
            tensor[rows] = padding if name == "tokens" else 0


class _Source:
    """A model that gives logits, with its weights as the fast decoder wants them."""

    def __init__(self, model: Any, fast: bool, beside: Callable[[], AbstractContextManager[Any]] = nullcontext) -> None:
        """`beside` is the context in which the model is asked."""
        self.model, self.beside = plain_model(model), beside
        with beside():
            self.weights = fast_weights(self.model) if fast else None

    def decoder(self, longest: int, maximum_tokens: int) -> Decoder:
        """The fast decoder where it knows the model and no window is exceeded."""
        if self.weights is not None and (self.weights.window is None or longest <= self.weights.window):
            kind = CompiledDecoder if CompiledDecoder.fits(self.weights) else FastDecoder
            return kind(self.model, self.weights)
        return PlainDecoder(self.model, maximum_tokens)


class _Engine:
    """One call of `generate`."""

    def __init__(
        self,
        model: Any,
        codec: Codec,
        sampling: Sampling,
        prompts: Prompts,
        mixing: Mixing | None,
        compact_below: float,
        share_prompts: bool,
        fast: bool,
        finished: Watcher | None,
    ) -> None:
        self.codec, self.sampling, self.prompts = codec, sampling, prompts
        self.mixing, self.sources = mixing, [_Source(model, fast)]
        if mixing is not None:
            off = mixing.model is None
            self.sources.append(
                _Source(model, fast, lambda: adapter_off(model)) if off else _Source(mixing.model, fast)
            )
        self.compact_below, self.share_prompts, self.finished = compact_below, share_prompts, finished
        self.rows: list[dict[str, Any]] = [dict(row) for row in prompts.rows]
        self.device = prompts.prompt_ids.device
        self.lengths: list[int] = prompts.prompt_mask.sum(1).tolist()
        self.ends = torch.tensor(sorted({*codec.end_ids, *sampling.stop_tokens}), dtype=torch.int64, device=self.device)
        self.stops = StopStrings(sampling.stop, codec.decode)
        shape = (len(self.lengths), sampling.maximum_tokens)
        self.out = _Responses(
            tokens=torch.full(shape, codec.padding_id, dtype=torch.int64, device=self.device),
            mask=torch.zeros(shape, dtype=torch.bool, device=self.device),
            logprobs=torch.zeros(shape, dtype=torch.float32, device=self.device),
            sampling_logprobs=torch.zeros(shape, dtype=torch.float32, device=self.device),
            ended=torch.zeros(shape[0], dtype=torch.bool, device=self.device),
            end_token=torch.zeros(shape[0], dtype=torch.bool, device=self.device),
        )
        self.forest: Forest | None = None
        if isinstance(sampling, TreeSampling):
            embeddings = self.sources[0].model.get_input_embeddings().weight.detach()
            self.forest = Forest(sampling.tree, prompts.group, prompts.seed, sampling.maximum_tokens, embeddings)

    # -- what runs together ------------------------------------------------------------------------------------------

    def chunks(self, token_budget: int) -> Iterator[list[int]]:
        """Rows that run together: of similar length, equal prompts next to each other, within the budget; a tree is not cut."""
        self.prompt_of = [0] * len(self.lengths)
        for number, rows in enumerate(alike(self.prompts.prompt_ids, self.prompts.prompt_mask)):
            for row in rows:
                self.prompt_of[row] = number
        units: dict[int, list[int]] = {}
        for row, group in enumerate(self.prompts.group.tolist()):
            units.setdefault(row if self.forest is None else group, []).append(row)
        order = sorted(units.values(), key=lambda rows: (self.lengths[rows[0]], self.prompt_of[rows[0]], rows[0]))
        chunk: list[int] = []
        for rows in order:  # sorted, so the newest rows are the longest of their chunk
            if (
                chunk
                and (len(chunk) + len(rows)) * (self.lengths[rows[0]] + self.sampling.maximum_tokens) > token_budget
            ):
                yield chunk
                chunk = []
            chunk += rows
        if chunk:
            yield chunk

    # -- one chunk ---------------------------------------------------------------------------------------------------

    def run(self, chunk: list[int]) -> None:
        """Answer the given rows, each by itself."""
        slots = torch.tensor(chunk, dtype=torch.int64, device=self.device)
        alive = torch.ones(len(chunk), dtype=torch.bool, device=self.device)
        self._decode(*self._prefill(chunk), slots, alive, 0)

    def _decode(
        self, decoder: Decoder, logits: Tensor, positions: Tensor, slots: Tensor, alive: Tensor, first: int
    ) -> None:
        """Sample the rows in these slots to their end, from token `first` on, of which there are logits."""
        maximum, seeds = self.sampling.maximum_tokens, self.prompts.seed[slots]
        running = int(alive.sum())
        for step in range(first, maximum):
            plain, _, sampled = self._distributions(logits, step)
            tokens = self._write(self._draw(sampled, seeds, step), plain, sampled, slots, alive, step)
            before = alive.clone()
            self._end(tokens, slots, alive, step)
            live = int(alive.sum())
            last = live == 0 or step + 1 == maximum
            if live < running or last:
                self._finish(slots[before if last else before & ~alive].tolist())
                running = live
            if last:
                return
            if live <= self.compact_below * len(alive):
                keep = alive.nonzero().squeeze(1)
                decoder.keep(keep)
                slots, seeds, alive, tokens, positions = (x[keep] for x in (slots, seeds, alive, tokens, positions))
            logits = decoder.step(tokens, positions)
            positions = positions + 1

    def grow(self, chunk: list[int], forest: Forest) -> None:
        """Answer the given rows, whole groups of them, which begin as trees and go on each by itself."""
        sampling, out = self.sampling, self.out
        slots = forest.plant(torch.tensor(chunk, dtype=torch.int64, device=self.device))
        alive = torch.ones(len(slots), dtype=torch.bool, device=self.device)
        decoder, logits, positions = self._prefill(slots.tolist())
        told = torch.ones_like(out.ended)
        told[chunk] = False
        fresh: list[int] = []
        for step in range(sampling.maximum_tokens):
            if not bool(forest.growing.any()):
                self._decode(decoder, logits, positions, slots, alive, step)
                break
            rows = torch.arange(len(slots), device=self.device)  # the decoder's row behind each of ours
            plain, possible, sampled = self._distributions(logits, step)
            growth = forest.branch(slots, alive, possible.exp(), step)
            tokens = torch.where(growth.forced, growth.likeliest, self._draw(sampled, self.prompts.seed[slots], step))
            if sampling.filters:  # they may leave out what the tree takes
                tempered = torch.log_softmax(plain / (sampling.temperature or 1.0), -1)
                sampled = torch.where(growth.forced[:, None], tempered, sampled)
            if growth.children.numel():
                out.copy(slots[growth.parents], growth.children)
                rows = torch.cat([rows, growth.parents])
                slots, tokens = torch.cat([slots, growth.children]), torch.cat([tokens, growth.tokens])
                alive, plain, sampled = alive[rows], plain[rows], sampled[rows]
            tokens = self._write(tokens, plain, sampled, slots, alive, step)
            self._end(tokens, slots, alive, step)
            alive &= ~forest.prune(slots, alive, out.tokens, step)[slots]
            free = forest.stop(slots, alive, step).nonzero().squeeze(1)
            if forest.tree.fill == "fresh":
                fresh += free.tolist()
                told[free] = True
            else:
                source = forest.first[forest.root[free]]
                out.copy(source, free)  # one that has ended is copied whole; copies of others run on
                running = alive.nonzero().squeeze(1)
                copy, copied = (source[:, None] == slots[running]).nonzero(as_tuple=True)
                rows, tokens, alive = (torch.cat([x, x[running[copied]]]) for x in (rows, tokens, alive))
                slots = torch.cat([slots, free[copy]])
            last = step + 1 == sampling.maximum_tokens or not bool(alive.any())
            over = forest.used & ~forest.growing[forest.root] & ~told & (out.ended | last)
            told |= over
            self._finish(over.nonzero().squeeze(1).tolist())
            if last:
                break
            # Those that were cut off or have ended leave at once: another branch may take their place at the next token.
            keep = alive.nonzero().squeeze(1)
            if len(keep) < len(alive) or len(rows) > len(logits):
                decoder.keep(rows[keep])
            slots, alive, tokens, positions = slots[keep], alive[keep], tokens[keep], positions[rows[keep]]
            logits = decoder.step(tokens, positions)
            positions = positions + 1
        if fresh:
            out.forget(torch.tensor(fresh, device=self.device), self.codec.padding_id)
            self.run(fresh)

    def _prefill(self, chunk: list[int]) -> tuple[Decoder, Tensor, Tensor]:
        """A decoder that has read the prompts of the rows, next-token logits [n, V] and next positions [n]."""
        first: dict[int, int] = {}  # distinct prompt → its place in the prefill
        for row in chunk:
            first.setdefault(self.prompt_of[row] if self.share_prompts else row, row)
        width = max(self.lengths[row] for row in chunk)
        source = torch.tensor(list(first.values()), dtype=torch.int64, device=self.device)
        ids = self.prompts.prompt_ids[source, -width:]
        mask = self.prompts.prompt_mask[source, -width:]
        positions = (mask.long().cumsum(1) - 1).clamp(min=0)
        spread = None
        if len(first) < len(chunk):
            place = {key: i for i, key in enumerate(first)}
            places = [place[self.prompt_of[row] if self.share_prompts else row] for row in chunk]
            spread = torch.tensor(places, dtype=torch.int64, device=self.device)
        decoder = self._decoder(width + self.sampling.maximum_tokens)
        logits = decoder.prefill(ids, mask, positions, spread)
        following = positions[:, -1] + 1
        return decoder, logits, following if spread is None else following[spread]

    def _decoder(self, longest: int) -> Decoder:
        """The model's decoder, or that of the mixture."""
        own, *others = (source.decoder(longest, self.sampling.maximum_tokens) for source in self.sources)
        if self.mixing is None:
            return own
        return MixedDecoder(own, others[0], self.mixing.share, self.sources[1].beside)

    # -- one token ---------------------------------------------------------------------------------------------------

    def _distributions(self, logits: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities [n, V]: the model's own, those without ends that come too early, and those that are drawn from."""
        sampling = self.sampling
        plain = possible = torch.log_softmax(logits.float(), -1)
        if step < sampling.minimum_tokens and self.ends.numel():
            possible = plain.index_fill(-1, self.ends, float("-inf"))
        if sampling.temperature == 0.0 or (possible is plain and sampling.plain):
            return plain, possible, possible
        return plain, possible, torch.log_softmax(filtered_logits(possible, sampling), -1)

    def _draw(self, sampled: Tensor, seeds: Tensor, step: int) -> Tensor:
        """[n]: a token of each row; at temperature 0 the likeliest."""
        return (
            sampled.argmax(-1) if self.sampling.temperature == 0.0 else choose(sampled, functional.uniform(seeds, step))
        )

    def _write(self, tokens: Tensor, plain: Tensor, sampled: Tensor, slots: Tensor, alive: Tensor, step: int) -> Tensor:
        """Write down the token of each row; finished rows get padding. Returns what was written."""
        for record, logprobs in ((self.out.logprobs, plain), (self.out.sampling_logprobs, sampled)):
            record[slots, step] = torch.where(alive, logprobs.gather(1, tokens[:, None]).squeeze(1), 0.0)
        if self.sampling.temperature == 0.0:
            self.out.sampling_logprobs[slots, step] = 0.0
        tokens = torch.where(alive, tokens, self.codec.padding_id)
        self.out.tokens[slots, step] = tokens
        self.out.mask[slots, step] = alive
        return tokens

    def _end(self, tokens: Tensor, slots: Tensor, alive: Tensor, step: int) -> None:
        """Take the rows that this token ended out of `alive`."""
        if step < self.sampling.minimum_tokens:
            return
        ended = torch.isin(tokens, self.ends) & alive
        self.out.end_token[slots] |= ended
        if self.stops:
            running = (alive & ~ended).nonzero().squeeze(1)
            start = max(0, step + 1 - self.stops.window)
            recent = self.out.tokens[slots[running], start : step + 1].tolist()
            ended[running] = torch.tensor(
                [self.stops.completed(x) for x in recent], dtype=torch.bool, device=self.device
            )
        self.out.ended[slots] |= ended
        alive &= ~ended

    # -- at the end --------------------------------------------------------------------------------------------------

    def _finish(self, rows: list[int]) -> None:
        """Write down the texts of these rows, without end token or stop string, and tell them."""
        index = torch.tensor(rows, dtype=torch.int64, device=self.device)
        out = self.out
        state = (x[index].tolist() for x in (out.tokens, out.mask.sum(1), out.end_token, out.ended))
        for row, tokens, length, end_token, ended in zip(rows, *state, strict=True):
            ids = tokens[:length]
            if end_token:
                text = self.codec.decode(ids[:-1])
            else:
                text = self.stops.text(ids) if ended else self.codec.decode(ids)
            self.rows[row]["response"] = text
            if self.finished is not None:
                self.finished(dict(self.rows[row]))
