"""Responses that think before they answer."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, PrivateAttr

from fairlead.batch import Prompts, Samples
from fairlead.rollouts.sample import SampleRollout
from fairlead.runtime import ModelGroup

__all__ = ["ThinkRollout"]


class ThinkRollout(SampleRollout, name="think"):
    """Draw n responses that hold a thought and an answer, tell the two apart, and say which of them is learned.

    The reward must be told on its own what it may see: the reward `answer` leaves the thought out. Nothing is forced: a policy
    that does not write the delimiter has to be taught it first, by imitation or by the prompt.

    Source: Bhaskar et al. 2025 (RLMT, arXiv 2509.20357), section 3.
    """

    delimiter: str = Field("</think>", min_length=1, description="the answer begins behind the first one")
    learn: Literal["all", "answer"] = Field(
        "all",
        description="tokens that are learned from: thought and answer; or the answer alone, as a control (a response without the "
        "delimiter is then learned whole: else nothing would keep the policy from leaving it out)",
    )

    _metrics: dict[str, float] = PrivateAttr(default_factory=dict)

    def __call__(self, policy: ModelGroup, prompts: Prompts) -> Samples:
        samples = super().__call__(policy, prompts)
        lengths = samples.mask.sum(1)
        thoughts = torch.tensor(
            [self._thought(policy, row.tolist(), int(n)) for row, n in zip(samples.tokens, lengths, strict=True)]
        )
        found = thoughts < lengths + 1
        self._metrics = {
            "thought_length": float(thoughts[found].float().mean()) if bool(found.any()) else 0.0,
            "answer_length": float((lengths - thoughts)[found].float().mean()) if bool(found.any()) else 0.0,
            "without_answer": float((~found).float().mean()),
        }
        if self.learn == "all":
            return samples
        places = torch.arange(samples.mask.shape[1])
        answer = samples.mask & ((places >= thoughts[:, None]) | ~found[:, None])
        return samples.replace(  # type: ignore[no-any-return]
            mask=answer,
            present=samples.mask,
            logprobs=torch.where(answer, samples.logprobs, 0.0),
            sampling_logprobs=torch.where(answer, samples.sampling_logprobs, 0.0),
        )

    def _thought(self, policy: ModelGroup, tokens: list[int], length: int) -> int:
        """Tokens up to the one that completes the delimiter; one more than there are where there is none."""
        low, high = 1, length + 1
        while low < high:  # a text that holds the delimiter still holds it when it goes on
            middle = (low + high) // 2
            if middle > length or self.delimiter in policy.codec.decode(tokens[:middle]):
                high = middle
            else:
                low = middle + 1
        return low

    def metrics(self) -> dict[str, float]:
        """Mean tokens of thought (delimiter included) and answer where there is a delimiter, and the share where there is none."""
        return self._metrics
