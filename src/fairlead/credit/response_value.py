"""One advantage for a whole response, from a critic that looks at one place."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from fairlead import functional
from fairlead.batch import Experience
from fairlead.credit.base import Credit, counted_tokens

__all__ = ["ResponseValue"]


class ResponseValue(Credit, name="response-value"):
    """Reward of a response less what the critic expected of it, the same for every token.

    Read at the end of the prompt (`value_objective: {part: value-huber, position: prompt}` teaches it there), the value is a baseline.
    The released code reads it at the end of the answer: such a critic has seen the response that it is compared with, the gradient is
    biased, and a perfect critic leaves nothing to learn. With a critic at every token, credit `gae` takes the place of this part.

    Source: SAFE (arXiv 2602.04651), its advantage; the end of the prompt in place of the end of the answer is this project's.
    """

    needs_values: ClassVar[bool] = True

    position: Literal["prompt", "answer"] = Field(
        "prompt", description="read the value at the end of the prompt, or before the response's last token"
    )
    whiten: bool = Field(
        True,
        description="bring advantages to mean 0 and variance 1 over the responses of the batch, each of which counts once",
    )

    def __call__(self, experience: Experience) -> Experience:
        assert experience.values is not None, "response-value needs a critic"
        mask = experience.mask
        read = functional.marked_token(mask, self.position)
        reward = functional.sequence_reward(experience.rewards, mask)
        advantage = reward - functional.masked_sum(experience.values, read, dim=1)
        if self.whiten:
            advantage = functional.whiten(advantage, counted_tokens(experience).any(1))
        return experience.replace(
            advantages=functional.broadcast_to_tokens(advantage, mask),
            returns=functional.broadcast_to_tokens(reward, mask),
        )
