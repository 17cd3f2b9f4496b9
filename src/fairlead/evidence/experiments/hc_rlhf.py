"""HC-RLHF: how often an unsafe policy is returned, over many runs, with and without the pessimistic constraint and the test.

Knows: a world so small that the policy is a table, and a cost whose mean is known exactly.
Does not know: how figures become a verdict.

Hundreds of runs of a transformer through the stages would take hours. A table of logits takes the same steps by the same parts
(constraint, credit, bound) in a tenth of a second; the stages are left to the tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from tensordict import TensorDict
from torch import Tensor

from fairlead import functional
from fairlead.batch import Experience, row_table
from fairlead.constraints import Constraint, HighConfidence, Lagrangian, MeanBound, with_lagrangian
from fairlead.credit import LeaveOneOut
from fairlead.evidence.base import AtMost, Better, Experiment, Measurement, Rule
from fairlead.worlds import TokenWorld

__all__ = ["HCRLHF"]

_RUNS, _STEPS, _PROMPTS, _SAMPLES = 50, 150, 32, 2
_TESTED, _DELTA, _BETA, _RATE = 100, 0.1, 0.3, 0.1
_WINDOW, _DUAL_RATE, _ROUNDS = 256, 0.01, 30
_FORBIDDEN, _LIKED = "a", 2.0


class HCRLHF(Experiment, name="hc-rlhf"):
    """The pessimistic constraint with the test of safety, over many runs, against a constraint on the mean.

    Source: HC-RLHF 2025 (arXiv 2506.08266), the guarantee of its safety test.
    """

    claim: ClassVar[str] = (
        "Trained under an inflated cost and tested on prompts kept for it, a policy is returned unsafe with a probability below δ, and "
        "is returned more often than under a limit on the mean"
    )
    experiment: ClassVar[str] = (
        "Token world of 13 responses to 3 prompts (3 symbols, 2 tokens; another for every seed); the policy is a table of logits. The cost is "
        f"the share of the symbol {_FORBIDDEN}, for which the reward (of deviation 0.5 otherwise) pays {_LIKED:g}, and its limit is the exact "
        f"mean cost of the policy as it begins. {_RUNS} runs a seed, each with random numbers of its own: {_STEPS} rollouts of {_PROMPTS} prompts "
        f"with {_SAMPLES} samples, leave-one-out, the policy gradient with k1 in the reward and β = {_BETA:g}, Adam at {_RATE:g} falling linearly, dual "
        f"ascent at {_DUAL_RATE:g} from the exact multiplier of each constraint, a window of {_WINDOW} costs; then a test with Student's t at δ = {_DELTA:g} on {_TESTED} prompts drawn anew. unsafe is the share of "
        "runs that return a policy whose exact mean cost exceeds the limit, refused the share whose test finds no solution; "
        "candidate_unsafe counts before the test."
    )
    baseline: ClassVar[str] = (
        "a limit on the mean cost; unsafe is that of its policies without a test, refused with the test"
    )
    remarks: ClassVar[str] = (
        "A first run, of 70 runs of 60 rollouts with dual ascent at 1 from 2, did not hold (revision a837ca1): unsafe was 0, 0 and 0.014 against 0, "
        "0.057 and 0.914 of the mean limit's policies, refused 0, 0.114 and 0.857 against 0, 0.214 and 0.943, so that nothing could be lower in "
        "the first world. The limit does bind there (the exact multipliers are 3.1, 2.7 and 1.4), but the multiplier went round between 0 and "
        "20 and the mean cost by 0.2 to either side of its limit, in step in all runs of a world: the last rollout showed where in the "
        "circle it was. This run has the paper's dual rate, begins with the multiplier in its place and goes on longer, under the same rules. "
        "It had a mistake at first, which held, too: the pessimistic multiplier began 0.2 too high, so that no test refused."
    )
    rules: ClassVar[tuple[Rule, ...]] = (AtMost("unsafe", _DELTA), Better("unsafe", 0.5), Better("refused"))

    def measure(self, seed: int, folder: Path) -> Measurement:
        world = _World(seed)
        ours, theirs = (world.repeated(pessimistic) for pessimistic in (True, False))
        found = ours | {f"{name}_by_mean": theirs[name] for name in ("unsafe", "reward")}
        return Measurement(found, {"unsafe": theirs["candidate_unsafe"], "refused": theirs["refused"]})


class _World:
    """Reward and cost of every response, the table to begin with, and the limit."""

    def __init__(self, seed: int) -> None:
        world = TokenWorld(symbols=3, maximum_tokens=2, prompts=3, reward_scale=0.5, seed=seed)
        words = [text.split() for text in world.texts]
        shares = [text.count(_FORBIDDEN) / max(len(text), 1) for text in words]
        self.costs = torch.tensor(shares).expand(len(world.prompts), -1)
        self.rewards = world.rewards.float() + _LIKED * self.costs
        generator = torch.Generator().manual_seed(seed)
        self.reference = torch.randn(self.costs.shape, generator=generator).log_softmax(-1)
        self.limit = self.mean_cost(self.reference)

    def mean_cost(self, log_policy: Tensor) -> float:
        """Exact mean cost of a policy [X, Y]."""
        return self._moments(log_policy.exp())[0]

    def multiplier(self, k: float) -> float:
        """The smallest λ whose optimum keeps its mean cost and k deviations within the limit: π ∝ π_ref · exp((r − λ c̃) / β).

        c̃ is the cost whose gradient is that of the mean and k deviations, which depends on π, so that π is a fixed point.
        """
        low, high = 0.0, 100.0
        while high - low > 1e-4:
            middle = (low + high) / 2
            policy = self.reference.exp()
            for _ in range(_ROUNDS):
                mean, deviation = self._moments(policy)
                cost = functional.pessimistic_cost(self.costs, mean, deviation, k)
                policy = torch.softmax(self.reference + (self.rewards - middle * cost) / _BETA, -1)
            mean, deviation = self._moments(policy)
            low, high = (middle, high) if mean + k * deviation > self.limit else (low, middle)
        return high

    def _moments(self, policy: Tensor) -> tuple[float, float]:
        """Exact mean and standard deviation of the cost of a policy [X, Y], over prompts and responses."""
        mean = float((policy * self.costs).sum(-1).mean())
        return mean, (float((policy * self.costs.square()).sum(-1).mean()) - mean**2) ** 0.5

    def repeated(self, pessimistic: bool) -> dict[str, float]:
        """Shares over the runs, and the mean reward of what was returned."""
        initial = self.multiplier(functional.pessimism(_DELTA, _WINDOW, _TESTED) if pessimistic else 0.0)
        unsafe, returned, reward = [], [], []
        for number in range(_RUNS):
            generator = torch.Generator().manual_seed(number)
            log_policy = self._train(self._constraint(pessimistic, initial), generator)
            prompts, responses = self._draw(log_policy, _TESTED, 1, generator)
            tested = MeanBound()(self.costs[prompts, responses], _DELTA)
            unsafe.append(self.mean_cost(log_policy) > self.limit)
            returned.append(tested <= self.limit)
            if returned[-1]:
                reward.append(float((log_policy.exp() * self.rewards).sum(-1).mean()))
        return {
            "unsafe": sum(a and b for a, b in zip(unsafe, returned, strict=True)) / _RUNS,
            "refused": 1 - sum(returned) / _RUNS,
            "candidate_unsafe": sum(unsafe) / _RUNS,
            "reward": sum(reward) / max(len(reward), 1),
        }

    def _constraint(self, pessimistic: bool, initial: float) -> Constraint:
        shared = {"channel": "cost", "limit": self.limit, "initial": initial, "rate": _DUAL_RATE, "maximum": 100.0}
        shared |= {"window": _WINDOW, "parametrisation": "linear", "normalise": True, "kl": "reward"}
        if pessimistic:
            return HighConfidence.model_validate(shared | {"test_prompts": _TESTED, "delta": _DELTA})
        return Lagrangian.model_validate(shared)

    def _train(self, constraint: Constraint, generator: torch.Generator) -> Tensor:
        """[X, Y]: the policy after the steps of the online stage, taken on a table."""
        logits = self.reference.clone().requires_grad_()
        optimiser = torch.optim.Adam([logits], lr=_RATE)
        for step in range(_STEPS):
            optimiser.param_groups[0]["lr"] = _RATE * (1 - step / _STEPS)
            log_policy = logits.log_softmax(-1)
            prompts, responses = self._draw(log_policy.detach(), _PROMPTS, _SAMPLES, generator)
            experience = self._judged(log_policy.detach(), prompts, responses)
            constraint.observe(experience)
            costs = {"cost": constraint.in_place_of_reward(experience)}
            credited = LeaveOneOut()(with_lagrangian(experience, {"cost": constraint}, costs))
            loss = functional.reinforce(log_policy[prompts, responses][:, None], credited.advantages).mean()
            (logits.grad,) = torch.autograd.grad(loss, logits)
            optimiser.step()
        return logits.detach().log_softmax(-1)

    def _draw(self, log_policy: Tensor, count: int, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """[count · n] each: prompts, of which n rows follow each other, and responses."""
        prompts = torch.randint(len(log_policy), (count,), generator=generator).repeat_interleave(n)
        return prompts, torch.multinomial(log_policy.exp()[prompts], 1, generator=generator).squeeze(1)

    def _judged(self, log_policy: Tensor, prompts: Tensor, responses: Tensor) -> Experience:
        """Responses as one token each, with reward and cost."""
        rows = len(prompts)
        mask = torch.ones(rows, 1, dtype=torch.bool)
        logprobs = log_policy[prompts, responses][:, None]
        reference = self.reference[prompts, responses][:, None]
        score = self.rewards[prompts, responses]
        return Experience(
            prompt_ids=prompts[:, None],
            prompt_mask=mask,
            tokens=responses[:, None],
            mask=mask,
            group=torch.arange(rows) // _SAMPLES,
            truncated=torch.zeros(rows, dtype=torch.bool),
            logprobs=logprobs,
            behaviour_logprobs=logprobs,
            reference_logprobs=reference,
            channels=TensorDict({"cost": self.costs[prompts, responses]}, batch_size=[rows]),
            rows=row_table([{}] * rows),
            score=score,
            rewards=score[:, None] - _BETA * (logprobs - reference),
            weight=torch.ones(rows),
            batch_size=[rows],
        )
