"""Samples beside a baseline answer: one that the data holds, or one of the policy as it began."""

from __future__ import annotations

import hashlib
from typing import Annotated, ClassVar

import torch
from pydantic import BeforeValidator, Field, PrivateAttr
from torch import Tensor

from fairlead.batch import Prompts, Samples, concatenate, right_pad, row_table, take
from fairlead.models import ModelSpec
from fairlead.rollouts.sample import SampleRollout
from fairlead.runtime import Opener
from fairlead.runtime.group import ModelGroup

__all__ = ["WithBaseline"]

_Answer = tuple[list[int], str, bool]
"""Tokens, text, and whether the length limit cut it."""


class WithBaseline(SampleRollout, name="with-baseline"):
    """Draw n independent responses for every prompt and put a baseline answer beside them, with which they are compared.

    The baseline answer stands in a column of the data, or is drawn once for each prompt from the policy as it begins (which keeps that
    model open) and remembered. Judges see it like any other response; it is not learned from unless selection says so.

    Source: the calibrated reward of CGPO (Xu et al. 2024, arXiv 2409.20370).
    """

    draws_anchor: ClassVar[bool] = True

    column: str | None = Field(None, description="column of the data with the baseline answer; null: draw it")
    model: Annotated[ModelSpec, BeforeValidator(ModelSpec.coerce)] | None = Field(
        None, description="model that draws it; null: the policy as it begins"
    )

    _initial: ModelGroup | None = PrivateAttr(None)
    _answers: dict[bytes, _Answer] = PrivateAttr(default_factory=dict)

    def open(self, run: Opener, model: ModelSpec, reference: ModelGroup | None) -> None:
        if self.column is None:
            self._initial = run.open("baseline", self.model or model)

    def close(self) -> None:
        self._initial = None
        self._answers.clear()

    def __call__(self, policy: ModelGroup, prompts: Prompts) -> Samples:
        sampled = super().__call__(policy, prompts)
        answers = self._drawn(prompts) if self.column is None else self._given(self.column, policy, prompts)
        baseline = _as_samples(prompts, answers, policy.codec.padding_id)
        # As if the policy had drawn it: what a ratio compares with, should selection let the policy learn from it.
        logprobs = policy.token_logprobs(baseline, self.temperature)
        baseline = baseline.replace(logprobs=logprobs, sampling_logprobs=logprobs)
        anchor = torch.arange(len(sampled) + len(baseline)) >= len(sampled)
        whole = concatenate([sampled, baseline.to(sampled.device)]).replace(anchor=anchor)
        return take(whole, torch.argsort(whole.group, stable=True))

    def _given(self, column: str, policy: ModelGroup, prompts: Prompts) -> list[_Answer]:
        """The column's texts, cut where a sample would have been."""
        answers = []
        for row in prompts.rows:
            text = row.get(column)
            if not isinstance(text, str):
                raise ValueError(
                    f"rollout with-baseline takes the baseline answer from the column {column!r}, which is no text in a record of the "
                    "prompts: name another column, or set column: null to draw it"
                )
            tokens = policy.codec.encode_response(text, row["prompt"])
            cut = len(tokens) > self.maximum_tokens
            if cut:
                tokens = tokens[: self.maximum_tokens]
                text = policy.codec.decode(tokens)
            answers.append((tokens, text, cut))
        return answers

    def _drawn(self, prompts: Prompts) -> list[_Answer]:
        """One answer of the initial model for each prompt; its seed is the prompt's own, so that it is the same after a resumption."""
        assert self._initial is not None, "open the rollout before it is asked"
        keys = [_key(ids, mask) for ids, mask in zip(prompts.prompt_ids, prompts.prompt_mask, strict=True)]
        new = [index for index, key in enumerate(keys) if key not in self._answers]
        if new:
            asked = take(prompts, new)
            seeds = torch.tensor([int.from_bytes(keys[index][:7], "big") for index in new], dtype=torch.int64)
            drawn = self._initial.generate(asked.replace(seed=seeds), self.sampling)
            for place, index in enumerate(new):
                tokens = drawn.tokens[place][drawn.mask[place]].tolist()
                self._answers[keys[index]] = (tokens, drawn.rows[place]["response"], bool(drawn.truncated[place]))
        return [self._answers[key] for key in keys]


def _key(ids: Tensor, mask: Tensor) -> bytes:
    return hashlib.sha256(repr(ids[mask].tolist()).encode()).digest()


def _as_samples(prompts: Prompts, answers: list[_Answer], padding: int) -> Samples:
    tokens, mask = right_pad([ids for ids, _, _ in answers], padding)
    return Samples(
        prompt_ids=prompts.prompt_ids,
        prompt_mask=prompts.prompt_mask,
        tokens=tokens,
        mask=mask,
        group=prompts.group,
        seed=prompts.seed,
        logprobs=torch.zeros(tokens.shape),
        sampling_logprobs=torch.zeros(tokens.shape),
        truncated=torch.tensor([cut for _, _, cut in answers]),
        rows=row_table([{**row, "response": text} for row, (_, text, _) in zip(prompts.rows, answers, strict=True)]),
        batch_size=prompts.batch_size,
    )
