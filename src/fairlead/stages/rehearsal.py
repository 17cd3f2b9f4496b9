"""Text that a policy goes on learning from while it learns from reward, so that it does not forget it.

Knows: which documents come with which step.
Does not know: rewards, the loop that the steps belong to.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from fairlead.data import SeededSampler, TextCodec, TrainOn, sequences_batch
from fairlead.objectives import NegativeLogLikelihood, SupervisedObjective
from fairlead.runs import StageRun
from fairlead.runtime import Lesson
from fairlead.stages.base import EvenSources
from fairlead.stages.documents import Choose, Row, documents, rows_of

__all__ = ["Rehearsal"]


class Rehearsal(BaseModel):
    """The loss on text that is added to the policy's own: the "ptx" of PPO-ptx.

    Source: Ouyang et al. 2022 (arXiv 2203.02155), eq. 2.
    """

    model_config = ConfigDict(extra="forbid", validate_default=True)

    data: EvenSources = Field(description="conversations, prompts with responses, or texts")
    coefficient: float = Field(1.0, gt=0, description="weight of the loss beside the policy's")
    batch_size: int = Field(8, ge=1, description="rows in each optimiser step")
    learn: TrainOn = Field("all", description="tokens that count: every assistant turn, the last one, or everything")
    choose: Choose = Field("best", description="of ranked responses to one prompt: the best one, or all of them")
    packed: bool = Field(True, description="several documents in one row, with attention kept apart")
    maximum_length: int = Field(512, ge=8, description="tokens of a row; longer documents are split (packed) or cut")
    objective: SupervisedObjective = Field(default_factory=NegativeLogLikelihood, description="the loss")

    _rows: list[Row] = PrivateAttr(default_factory=list)
    _sampler: SeededSampler | None = PrivateAttr(None)
    _padding: int = PrivateAttr(0)

    def open(self, run: StageRun, codec: TextCodec, steps: int) -> None:
        """Read the documents, for `steps` optimiser steps a lesson."""
        encoded = documents(run, codec, self.data, self.learn, self.choose)
        self._rows, self._padding = rows_of(run, encoded, self.maximum_length, self.packed), codec.padding_id
        self._sampler = SeededSampler(len(self._rows), self.batch_size * steps, run.seed)
        run.keep("rehearsal", self._sampler)

    def lesson(self) -> Lesson:
        """The rows that come next, and their loss."""
        assert self._sampler is not None, "open the rehearsal before it is asked"
        batch = sequences_batch([self._rows[index] for index in self._sampler.next()], self._padding)
        return Lesson(batch, self.objective, self.coefficient, "rehearsal")
