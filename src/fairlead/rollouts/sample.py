"""Independent samples of every prompt, alone or with responses that they are compared with."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fairlead import functional
from fairlead.batch import Prompts, Samples, concatenate, repeat_rows, take
from fairlead.generation import Sampling
from fairlead.models import ModelSpec
from fairlead.rollouts.base import Rollout
from fairlead.rollouts.opponents import MixedPolicy, Opponent
from fairlead.runtime.group import ModelGroup, Opener

__all__ = ["AgainstOpponent", "GreedyBaseline", "SampleRollout", "repeated"]


class SampleRollout(Rollout, name="sample"):
    """Draw n independent responses for every prompt.

    Source: the ordinary rollout of RLHF (Ouyang et al. 2022, arXiv 2203.02155); with n > 1 that of RLOO and GRPO.
    """

    n: int = Field(1, ge=1, description="responses for each prompt; group methods need at least two")
    sampling: Sampling = Field(default_factory=Sampling, description="temperature, filters, limits")

    def __call__(self, policy: ModelGroup, prompts: Prompts) -> Samples:
        return policy.generate(self.requests(prompts), self.sampling)

    def requests(self, prompts: Prompts) -> Prompts:
        """Each prompt n times, with a seed of its own."""
        return repeated(prompts, range(self.n))

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
        return _beside(super().__call__(policy, prompts), policy.generate(prompts, greedy))


class AgainstOpponent(SampleRollout, name="against-opponent"):
    """Draw n independent responses for every prompt and some of an opponent, with which they are compared.

    The reward `win-rate` is then the probability of beating the opponent. Nothing is learned from the opponent's responses.

    Source: Nash-MD-PG and Nash-EMA-PG, Munos et al. 2023 (arXiv 2312.00886).
    """

    draws_anchor: ClassVar[bool] = True
    beside_policy: ClassVar[bool] = True

    opponent: Opponent = Field(default_factory=MixedPolicy, description="who gives the other responses")
    opponent_n: int = Field(
        1, ge=1, description="responses of the opponent to each prompt; more make the preference less noisy"
    )

    @property
    def needs_reference(self) -> bool:
        return self.opponent.needs_reference

    def open(self, run: Opener, model: ModelSpec, reference: ModelGroup | None) -> None:
        self.opponent.open(run, model, reference)

    def __call__(self, policy: ModelGroup, prompts: Prompts) -> Samples:
        # Other seeds than the policy's own, or an opponent that is the policy would say the same.
        requests = repeated(prompts, range(self.n, self.n + self.opponent_n))
        return _beside(super().__call__(policy, prompts), self.opponent(policy, requests, self.sampling))

    def learned(self, policy: ModelGroup) -> None:
        self.opponent.learned(policy)


def repeated(prompts: Prompts, copies: range) -> Prompts:
    """Each prompt once for every number in `copies`, from which its seed follows."""
    requests = repeat_rows(prompts, len(copies))
    numbers = requests.group.new_tensor(copies).repeat(prompts.batch_size[0])
    return requests.replace(seed=functional.mix_seeds(requests.seed, numbers))


def _beside(sampled: Samples, others: Samples) -> Samples:
    """Samples with those that they are only compared with, behind the others of their prompt."""
    anchor = torch.arange(len(sampled) + len(others)) >= len(sampled)
    whole = concatenate([sampled, others]).replace(anchor=anchor)
    return take(whole, torch.argsort(whole.group, stable=True))
