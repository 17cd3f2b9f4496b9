"""One dialogue as it grows, token by token of those who speak.

Knows: which tokens the policy wrote, what was said as messages, how a dialogue ended.
Does not know: who answers, how the policy is sampled.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from fairlead.batch import Samples, left_pad, right_pad, row_table
from fairlead.data import Message, as_messages

__all__ = ["OUTCOMES", "Outcome", "Talk", "talks_to_samples"]

Outcome = Literal["stopped", "turns", "cut", "overflow", "error", "timeout"]
OUTCOMES: tuple[Outcome, ...] = ("stopped", "turns", "cut", "overflow", "error", "timeout")
"""How a dialogue ends: the other side had nothing to add; the policy has had all its turns; a turn of the policy reached the
limit of tokens; another turn would not fit; the other side failed, or took too long."""


@dataclass
class Talk:
    """A dialogue: tokens as they were sampled, and the same as messages."""

    row: dict[str, Any]
    """The record: `prompt` and its other columns."""
    group: int
    seed: int
    prompt_ids: list[int]
    tokens: list[int] = field(default_factory=list)
    """Everything behind the prompt."""
    own: list[bool] = field(default_factory=list)
    """Which of them the policy wrote."""
    logprobs: list[float] = field(default_factory=list)
    sampling_logprobs: list[float] = field(default_factory=list)
    turns: list[Message] = field(default_factory=list)
    """What was said behind the prompt of the record."""
    said: int = 0
    """Turns of the policy so far."""
    outcome: Outcome | None = None
    """None while it goes on."""
    left_out: bool = False
    """It takes no part in learning."""

    @property
    def messages(self) -> list[Message]:
        """The whole dialogue; a prompt of plain text is what a user said."""
        return [*as_messages(self.row["prompt"]), *self.turns]

    @property
    def length(self) -> int:
        """Tokens of prompt and dialogue."""
        return len(self.prompt_ids) + len(self.tokens)

    def speak(self, tokens: list[int], logprobs: list[float], sampling_logprobs: list[float], text: str) -> None:
        """A turn of the policy."""
        self.tokens += tokens
        self.own += [True] * len(tokens)
        self.logprobs += logprobs
        self.sampling_logprobs += sampling_logprobs
        self.turns.append({"role": "assistant", "content": text})
        self.said += 1

    def listen(self, tokens: list[int], messages: Sequence[Message]) -> None:
        """What others said, and the opening of the policy's next turn."""
        self.tokens += tokens
        self.own += [False] * len(tokens)
        self.logprobs += [0.0] * len(tokens)
        self.sampling_logprobs += [0.0] * len(tokens)
        self.turns += messages

    def future(self, seed: int) -> Talk:
        """A dialogue that goes on from here, with all that was said as its prompt."""
        return Talk(
            row=self.row,
            group=self.group,
            seed=seed,
            prompt_ids=self.prompt_ids + self.tokens,
            turns=copy.copy(self.turns),
            said=self.said,
            outcome=self.outcome,
            left_out=self.left_out,
        )

    def keep_first_turn(self) -> None:
        """Forget the tokens behind the policy's first turn, but not what was said."""
        end = self.own.index(False) if False in self.own else len(self.own)
        for column in (self.tokens, self.own, self.logprobs, self.sampling_logprobs):
            del column[end:]

    def result(self) -> dict[str, Any]:
        """The row of samples: `response` is the policy's last turn, `response_turns` everything behind the prompt."""
        last = next((turn["content"] for turn in reversed(self.turns) if turn["role"] == "assistant"), "")
        return {**self.row, "response": last, "response_turns": list(self.turns), "outcome": self.outcome}


def talks_to_samples(talks: Sequence[Talk], padding: int) -> Samples:
    """Samples [B, T] of finished dialogues; the mask holds what the policy wrote, and nothing of a dialogue that is left out."""
    prompt_ids, prompt_mask = left_pad([talk.prompt_ids for talk in talks], padding)
    tokens, present = right_pad([talk.tokens for talk in talks], padding)
    own, _ = right_pad([[not talk.left_out and own for own in talk.own] for talk in talks], 0)
    mask = own.bool()

    def per_token(values: list[list[float]]) -> Tensor:
        found = torch.zeros(tokens.shape, dtype=torch.float32)
        for row, of_row in enumerate(values):
            found[row, : len(of_row)] = torch.tensor(of_row)
        return torch.where(mask, found, 0.0)

    return Samples(
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        tokens=tokens,
        mask=mask,
        group=torch.tensor([talk.group for talk in talks], dtype=torch.int64),
        seed=torch.tensor([talk.seed for talk in talks], dtype=torch.int64),
        logprobs=per_token([talk.logprobs for talk in talks]),
        sampling_logprobs=per_token([talk.sampling_logprobs for talk in talks]),
        truncated=torch.tensor([talk.outcome == "cut" for talk in talks], dtype=torch.bool),
        rows=row_table([talk.result() for talk in talks]),
        present=present,
        batch_size=[len(talks)],
    )
