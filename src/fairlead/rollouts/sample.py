"""Independent samples of every prompt."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fairlead import functional
from fairlead.batch import Prompts, Samples, concatenate, repeat_rows, take
from fairlead.generation import Sampling
from fairlead.rollouts.base import Rollout
from fairlead.runtime.group import ModelGroup

__all__ = ["GreedyBaseline", "SampleRollout"]


class SampleRollout(Rollout, name="sample"):
    """Draw n independent responses for every prompt.

    Source: the ordinary rollout of RLHF (Ouyang et al. 2022, arXiv 2203.02155); with n > 1 that of RLOO and GRPO.
    """

    n: int = Field(1, ge=1, description="responses for each prompt; group methods need at least two")
    sampling: Sampling = Field(default_factory=Sampling, description="temperature, filters, limits")

    def __call__(self, policy: ModelGroup, prompts: Prompts) -> Samples:
        return policy.generate(self.requests(prompts), self.sampling)

    def requests(self, prompts: Prompts) -> Prompts:
        """Each prompt n times, with a seed for each response."""
        requests = repeat_rows(prompts, self.n)
        copies = requests.group.new_tensor(range(self.n)).repeat(prompts.batch_size[0])
        return requests.replace(seed=functional.mix_seeds(requests.seed, copies))  # type: ignore[no-any-return]

    @property
    def temperature(self) -> float:
        return self.sampling.temperature or 1.0

    @property
    def maximum_tokens(self) -> int:
        return self.sampling.maximum_tokens

    def logprobs(self, samples: Samples) -> Tensor | None:
        # Forbidding the end for a while changes the distribution as a filter does.
        if self.temperature == self.sampling.temperature and not (
            self.sampling.filters or self.sampling.minimum_tokens
        ):
            return samples.sampling_logprobs
        return super().logprobs(samples)


class GreedyBaseline(SampleRollout, name="greedy-baseline"):
    """Draw n independent responses for every prompt and one greedy one, with which they are compared.

    The greedy response comes from the same weights and is never learned from.

    Source: ReMax (Li et al. 2023, arXiv 2310.10505), section 4.
    """

    draws_anchor: ClassVar[bool] = True

    def __call__(self, policy: ModelGroup, prompts: Prompts) -> Samples:
        greedy = self.sampling.model_copy(update={"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0})
        sampled, best = super().__call__(policy, prompts), policy.generate(prompts, greedy)
        anchor = torch.arange(len(sampled) + len(best)) >= len(sampled)
        whole = concatenate([sampled, best]).replace(anchor=anchor)
        return take(whole, torch.argsort(whole.group, stable=True))
