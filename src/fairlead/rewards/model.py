"""Models as sources of reward: the score of a reward model, and what a language model answers to a question."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PrivateAttr
from torch import Tensor

from fairlead.batch import Samples
from fairlead.data import Message, before_response, responses_batch
from fairlead.evaluation import plain_text
from fairlead.models import ModelSpec
from fairlead.rewards.base import Reward
from fairlead.runtime import ModelGroup, Opener

__all__ = ["ModelReward", "QuestionReward"]


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


class QuestionReward(Reward, name="question"):
    """How likely a language model is to answer a question about the response with yes rather than no; nothing is sampled.

    The question is a template over `{prompt}`, `{response}` and the columns of the record.

    Source: the judge of patches in Nemotron-Cascade (arXiv 2512.13607); as a verifier: generative verifiers of Zhang et al. 2024
    (arXiv 2408.15240), section 3.1.
    """

    model: Annotated[ModelSpec, BeforeValidator(ModelSpec.coerce)] = Field(
        description="the language model that is asked"
    )
    question: str = Field(description="e.g. `Request: {prompt} Answer: {response} Is the answer right? Say yes or no.`")
    words: tuple[str, str] = Field(("yes", "no"), description="the answers that are compared")

    _group: ModelGroup | None = PrivateAttr(None)

    def open(self, run: Opener, name: str) -> None:
        self._group = run.open(name, self.model)

    def close(self) -> None:
        self._group = None

    def __call__(self, samples: Samples) -> Tensor:
        assert self._group is not None, "open the reward before it is asked"
        questions = [question for row in samples.rows for question in [self._question(row)] * 2]
        batch = responses_batch(questions, list(self.words) * len(samples), self._group.codec)
        return self._group.token_logprobs(batch).sum(1).reshape(-1, 2).softmax(1)[:, 0]

    def _question(self, row: dict[str, Any]) -> list[Message]:
        try:
            asked = self.question.format_map(row | {"prompt": plain_text(row["prompt"])})
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(
                f"reward question: it needs {error}, and a record has {', '.join(sorted(row))}; write braces twice where they are meant"
            ) from error
        return [{"role": "user", "content": asked}]
