"""Responses to one prompt from several samplers: the policy, wider or cooler, and models beside it."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor

from fairlead.batch import Prompts, Samples, concatenate, take
from fairlead.generation import Sampling
from fairlead.models import ModelSpec
from fairlead.rollouts.base import Rollout
from fairlead.rollouts.opponents import Opponent
from fairlead.rollouts.sample import repeated
from fairlead.runtime import ModelGroup, Opener

__all__ = ["Sampler", "SeveralSamplers"]


class Sampler(BaseModel):
    """Who answers a prompt, how often and how."""

    model_config = ConfigDict(extra="forbid")

    who: Opponent | None = Field(
        None, description="a model beside the policy: an older one, a mixture; null: the policy"
    )
    n: int = Field(4, ge=1, description="its responses to each prompt")
    sampling: Sampling = Field(default_factory=Sampling, description="temperature, filters, limits")


class SeveralSamplers(Rollout, name="several-samplers"):
    """Draw the responses to a prompt from several samplers: a wider temperature, an older policy, another checkpoint.

    The pairs that are learned from can then lie further apart than two responses of the policy. Training computes log-probabilities
    under the policy, whoever wrote a response, and treats all as if they were its own: for losses on pairs, which do not ask who
    wrote them, that is no approximation. The first sampler must be the policy itself; its responses come first.

    Source: the enhancer of RLHF Workflow (Dong et al. 2024, arXiv 2405.07863), section 3: temperatures and older checkpoints in the place
    of a second policy that explores.
    """

    samplers: list[Sampler] = Field(
        default_factory=lambda: [Sampler(), Sampler(sampling=Sampling(temperature=1.2))],
        min_length=1,
        description="who answers; the first is the policy",
    )

    @field_validator("samplers")
    @classmethod
    def _the_policy_first(cls, samplers: list[Sampler]) -> list[Sampler]:
        if samplers[0].who is not None:
            raise ValueError("the first sampler is the policy itself, which is judged by it: set its `who` to null")
        return samplers

    @property
    def _others(self) -> list[Opponent]:
        return [sampler.who for sampler in self.samplers if sampler.who is not None]

    @property
    def beside_policy(self) -> bool:  # type: ignore[override]
        return bool(self._others)

    @property
    def n(self) -> int:
        """Responses to each prompt."""
        return sum(sampler.n for sampler in self.samplers)

    @property
    def temperature(self) -> float:
        return self.samplers[0].sampling.temperature or 1.0

    @property
    def maximum_tokens(self) -> int:
        return max(sampler.sampling.maximum_tokens for sampler in self.samplers)

    @property
    def needs_reference(self) -> bool:
        return any(who.needs_reference for who in self._others)

    def open(self, run: Opener, model: ModelSpec, reference: ModelGroup | None) -> None:
        for who in self._others:
            who.open(run, model, reference)

    def __call__(self, policy: ModelGroup, prompts: Prompts) -> Samples:
        drawn, start = [], 0
        for sampler in self.samplers:
            # Seeds of its own: two samplers that are alike must not say the same.
            requests = repeated(prompts, range(start, start + sampler.n))
            start += sampler.n
            if sampler.who is None:
                drawn.append(policy.generate(requests, sampler.sampling))
            else:
                drawn.append(sampler.who(policy, requests, sampler.sampling))
        whole = concatenate(drawn)
        return take(whole, torch.argsort(whole.group, stable=True))

    def learned(self, policy: ModelGroup) -> None:
        for who in self._others:
            who.learned(policy)

    def logprobs(self, samples: Samples) -> Tensor | None:
        """None: what a sampler says of its own responses is not what the policy says of them."""
        return None
