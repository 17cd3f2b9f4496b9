"""Which prompts come again: those that teach nothing any more, or nothing yet, only now and then.

Knows: what became of a prompt when it was last answered.
Does not know: how it was answered or judged.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from fairlead.batch import Experience
from fairlead.data import SeededSampler
from fairlead.parts import nearest
from fairlead.runs import StageRun

__all__ = ["Revisit"]


class Revisit(BaseModel):
    """Prompts that all samples solved, or none did, are left out of later epochs but for a small share.

    A batch is filled up with the prompts that come next. Where a whole epoch would be left out, they are taken as they come.

    Source: dynamic filtering of Nemotron-Cascade (arXiv 2512.13607) at the end of an epoch, with 0.01 and 0.1.
    """

    model_config = ConfigDict(extra="forbid")

    channel: str = Field(description="the reward that says whether a response is right")
    right: float = Field(1.0, description="it is right where the channel is at least this")
    solved: float = Field(0.01, ge=0, le=1, description="share in which prompts come again that all samples solved")
    unsolved: float = Field(0.1, ge=0, le=1, description="and of those that none solved; others always come again")

    _share: dict[str, float] = PrivateAttr(default_factory=dict)
    _waiting: list[int] = PrivateAttr(default_factory=list)
    _asked: int = PrivateAttr(0)
    _seed: int = PrivateAttr(0)
    _left_out: int = PrivateAttr(0)

    def open(self, run: StageRun, rewards: dict[str, Any]) -> None:
        """Begin anew; what was learned of prompts becomes part of every checkpoint."""
        if self.channel not in rewards:
            raise ValueError(f"revisit.channel: there is no reward {self.channel!r}; {nearest(self.channel, rewards)}")
        self._share, self._waiting, self._asked, self._seed, self._left_out = {}, [], 0, run.seed, 0
        run.keep("revisit", self)

    def choose(self, records: list[Any], sampler: SeededSampler) -> list[Any]:
        """The records of the next batch."""
        chosen: list[Any] = []
        left = sampler.epoch_size
        while len(chosen) < sampler.batch_size:
            if not self._waiting:
                self._waiting = sampler.next()
            record = records[self._waiting.pop(0)]
            if left > 0 and not self._comes(record.prompt):
                left -= 1
                self._left_out += 1
            else:
                chosen.append(record)
        return chosen

    def note(self, experience: Experience) -> None:
        """Remember which prompts were solved by all of their samples, and which by none."""
        verdicts: dict[str, list[bool]] = {}
        for row, verdict in zip(experience.rows, experience.channels[self.channel].tolist(), strict=True):
            if verdict == verdict:  # a judge that failed says nothing
                verdicts.setdefault(_name(row["prompt"]), []).append(verdict >= self.right)
        for prompt, right in verdicts.items():
            self._share[prompt] = self.solved if all(right) else 1.0 if any(right) else self.unsolved

    @property
    def left_out(self) -> int:
        """Prompts that were passed over so far."""
        return self._left_out

    def _comes(self, prompt: Any) -> bool:
        share = self._share.get(_name(prompt), 1.0)
        if share == 1.0:
            return True
        self._asked += 1
        return bool(np.random.Generator(np.random.PCG64([self._seed, self._asked])).random() < share)

    def state_dict(self) -> dict[str, Any]:
        """What is known of prompts, and the place in the stream."""
        return {"share": self._share, "waiting": self._waiting, "asked": self._asked, "left_out": self._left_out}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self._share, self._waiting = dict(state["share"]), list(state["waiting"])
        self._asked, self._left_out = state["asked"], state["left_out"]


def _name(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True)
