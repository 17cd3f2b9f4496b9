"""Macro actions: credit for runs of tokens in place of single ones."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, PrivateAttr, model_validator
from tensordict import TensorDict
from torch import Tensor

from fairlead import functional
from fairlead.batch import Experience
from fairlead.credit.base import Credit, counted_tokens
from fairlead.data import TextCodec, import_function

__all__ = ["MacroGAE"]

_LENGTHS = (1, 2, 3, 5, 10)


class MacroGAE(Credit, name="macro-gae"):
    """Generalised advantage estimation over macro actions: the tokens of a run share one value, one advantage, one return.

    A reward then reaches early tokens over fewer decisions. Segments stand in `extras` as `segments`, where the objective
    `ppo-clip` finds them for `ratio: macro`. A segment number of 0, 1, … a token may also come from the data or another part
    (`rule: given`). The defaults are the paper's, with rewards of a run added up.

    Source: Chai et al. 2024 (MA-RLHF, arXiv 2410.02743), section 3.2.
    """

    needs_values: ClassVar[bool] = True

    rule: Literal["fixed", "randomised", "perplexity", "parsing", "given"] = Field(
        "fixed",
        description="where a macro action ends: every `length` tokens; after 1, 2, 3, 5 or 10 in random order; where a token is less "
        "likely than the one before; by `parser`; as `extras` says",
    )
    length: int = Field(5, ge=1, description="tokens of a macro action of the rule fixed (paper: 5, code 10)")
    repeats: int = Field(
        3, ge=1, description="how often each length of the rule randomised comes before the rest is one run"
    )
    parser: str = Field(
        "fairlead.data:phrase_tree",
        description="`module:function` of the rule parsing: (response, texts of its tokens) → its constituency tree as nested lists, whose "
        "leaves are numbers of tokens; a tree of another size falls back to single tokens. By default phrases by punctuation and English "
        "function words, without a model",
    )
    largest: int = Field(5, ge=1, description="constituents of fewer tokens are one macro action of the rule parsing")
    value: Literal["equal", "last", "decayed"] = Field("equal", description="which tokens' values make that of the run")
    reward: Literal["sum", "mean"] = Field(
        "sum", description="a run's reward (released code: mean, a weaker KL penalty)"
    )
    gamma: float = Field(1.0, ge=0, le=1, description="discount of a reward one macro action later")
    lam: float = Field(0.95, ge=0, le=1, description="as in gae, over macro actions")
    whiten: Literal["none", "tokens", "macro"] = Field(
        "tokens",
        description="bring advantages to mean 0 and variance 1 over tokens, over macro actions, or not (released code)",
    )

    _codec: TextCodec | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _parser_is_there(self) -> Self:
        if self.rule == "parsing":
            import_function(self.parser)
        elif "parser" in self.model_fields_set and self.parser != type(self).model_fields["parser"].default:
            raise ValueError(f"rule {self.rule} parses nothing: set rule to parsing, or leave parser out")
        return self

    def at_start(self, codec: TextCodec) -> None:
        self._codec = codec

    def __call__(self, experience: Experience) -> Experience:
        assert experience.values is not None, "macro-gae needs a critic"
        segments = self.segments(experience)
        advantages, returns = functional.macro_gae(
            experience.rewards, experience.values, segments, self.gamma, self.lam, self.value, self.reward
        )
        counted = counted_tokens(experience)
        if self.whiten == "tokens":
            advantages = functional.whiten(advantages, counted)
        elif self.whiten == "macro":
            advantages = _whiten_runs(advantages, segments, counted)
        extras = {} if experience.extras is None else dict(experience.extras.items())
        return experience.replace(
            advantages=advantages,
            returns=returns,
            extras=TensorDict(extras | {"segments": segments}, batch_size=experience.batch_size),
        )

    def segments(self, experience: Experience) -> Tensor:
        """[B, T]: the macro action of each token, −1 outside the mask; drawn once a rollout. None goes on beyond a turn of a dialogue."""
        return functional.split_at_gaps(self._ruled(experience))

    def _ruled(self, experience: Experience) -> Tensor:
        mask = experience.mask
        if self.rule == "fixed":
            return functional.fixed_segments(mask, self.length)
        if self.rule == "randomised":
            pool = torch.tensor(_LENGTHS * self.repeats)
            return functional.length_segments(
                mask, [pool[torch.randperm(len(pool))].tolist() for _ in range(len(mask))]
            )
        if self.rule == "perplexity":
            reference = experience.reference_logprobs
            return functional.perplexity_segments(experience.logprobs if reference is None else reference, mask)
        if self.rule == "parsing":
            return functional.length_segments(mask, [self._parsed(row, experience) for row in range(len(mask))])
        if experience.extras is None or "segments" not in experience.extras.keys():  # noqa: SIM118 - a TensorDict
            raise ValueError("rule given needs `segments` in the extras of the experience; no part has written them")
        return torch.where(mask, experience.extras["segments"], -1)

    def _parsed(self, row: int, experience: Experience) -> list[int]:
        assert self._codec is not None, "the stage tells the tokenizer by `at_start`"
        tokens = experience.tokens[row][experience.mask[row]].tolist()
        parse: Any = import_function(self.parser)
        tree = parse(experience.rows[row]["response"], self._codec.token_texts(tokens))
        lengths = functional.parse_segments(tree, self.largest)
        return lengths if sum(lengths) == len(tokens) else [1] * len(tokens)


def _whiten_runs(advantages: Tensor, segments: Tensor, counted: Tensor) -> Tensor:
    """Each macro action counts once in mean and variance."""
    first = counted.clone()
    first[:, 1:] &= segments[:, 1:] != segments[:, :-1]
    mean = functional.masked_mean(advantages, first)
    scale = torch.rsqrt(functional.masked_variance(advantages, first) + 1e-8)
    return torch.where(segments >= 0, (advantages - mean) * scale, 0.0)
