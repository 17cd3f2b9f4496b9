"""Independent samples of every prompt."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from fairlead import functional
from fairlead.batch import Prompts, Samples, repeat_rows
from fairlead.generation import Sampling
from fairlead.rollouts.base import Rollout
from fairlead.runtime.group import ModelGroup

__all__ = ["SampleRollout"]


class SampleRollout(Rollout, name="sample"):
    """Draw n independent responses for every prompt.

    Source: the ordinary rollout of RLHF (Ouyang et al. 2022, arXiv 2203.02155); with n > 1 that of RLOO and GRPO.
    """

    n: int = Field(1, ge=1, description="responses for each prompt; group methods need at least two")
    sampling: Sampling = Field(default_factory=Sampling, description="temperature, filters, limits")

    def __call__(self, policy: ModelGroup, prompts: Prompts) -> Samples:
        requests = repeat_rows(prompts, self.n)
        copies = requests.group.new_tensor(range(self.n)).repeat(prompts.batch_size[0])
        seeds = functional.mix_seeds(requests.seed, copies)
        return policy.generate(requests.replace(seed=seeds), self.sampling)

    @property
    def temperature(self) -> float:
        return self.sampling.temperature or 1.0

    def logprobs(self, samples: Samples) -> Tensor | None:
        if self.sampling.unfiltered:
            return samples.sampling_logprobs
        return super().logprobs(samples)
