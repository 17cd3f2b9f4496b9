"""A reward model as a source of reward."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, PrivateAttr
from torch import Tensor

from fairlead.batch import Samples
from fairlead.data import before_response, responses_batch
from fairlead.models import ModelSpec
from fairlead.rewards.base import Reward
from fairlead.runtime import ModelGroup, Opener

__all__ = ["ModelReward"]


class ModelReward(Reward, name="model"):
    """The score of a reward model: a transformer with a scalar head, read at the last token of the response.

    Of a dialogue it judges the whole, read at the end of its last turn. A response that was cut by the length limit is judged as if it ended there, since the model has seen finished texts only;
    the shaping `missing-end` is what makes an unfinished response worse.

    Source: Ouyang et al. 2022 (arXiv 2203.02155), section 3.5.
    """

    model: Annotated[ModelSpec, BeforeValidator(ModelSpec.coerce)] = Field(
        description="the reward model, e.g. `stage:reward`"
    )
    mean: float = Field(0.0, description="subtracted from the score")
    scale: float = Field(1.0, gt=0, description="divides the score")

    _group: ModelGroup | None = PrivateAttr(None)

    def open(self, run: Opener, name: str) -> None:
        self._group = run.open(name, self.model, kind="scalar")

    def close(self) -> None:
        self._group = None  # a recipe keeps its parts to the end; the model must not stay with them

    def __call__(self, samples: Samples) -> Tensor:
        """Scores the texts with the reward model's own tokenizer, which need not be the policy's."""
        assert self._group is not None, "open the reward before it is asked"
        rows = list(samples.rows)
        batch = responses_batch(
            [before_response(row) for row in rows], [row["response"] for row in rows], self._group.codec
        )
        return (self._group.scores(batch) - self.mean) / self.scale
