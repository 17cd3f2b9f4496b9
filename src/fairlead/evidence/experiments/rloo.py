"""RLOO: how far it gets, and how noisy its gradient is, against the exact gradient.

Knows: the token world, gradients of single responses, credit parts.
Does not know: how figures become a verdict.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from fairlead import functional
from fairlead.batch import Experience, take
from fairlead.credit import Credit, GroupRelative, LeaveOneOut, Reinforce
from fairlead.evidence.base import Better, Measurement, Rule
from fairlead.evidence.experiments.online_baselines import BETA, PLAIN, OnlineExperiment, laboratory
from fairlead.evidence.laboratory import Laboratory
from fairlead.models import ModelSpec
from fairlead.objectives import PolicyGradient
from fairlead.runtime import GroupSpec, Lesson, LocalGroup, OptimiserSpec
from fairlead.worlds import TokenWorld

__all__ = ["RLOO", "gradient_noise", "response_gradients"]

_GROUP = 4


class RLOO(OnlineExperiment, name="rloo"):
    """Leave-one-out baseline against none: distance to the optimum, and noise of the gradient.

    Source: Ahmadian et al. 2024 (arXiv 2402.14740), section 2; Kool et al. 2019.
    """

    claim: ClassVar[str] = (
        "The mean of the other samples is a baseline that lowers the gradient's variance without bias"
    )
    experiment: ClassVar[str] = (
        OnlineExperiment.experiment
        + " gradient_noise is the total variance of the gradient of one prompt's group of 4 over the squared norm of the exact "
        "gradient (all 85 gradients enumerated, 4,000 groups a prompt), summed over prompts, at a policy trained for 20 rollouts; "
        "gradient_noise_at_start the same at the reference policy, gradient_noise_group_mean with the group's own mean as baseline."
    )
    rules: ClassVar[tuple[Rule, ...]] = (Better("relative_gap", 0.9, except_for=1), Better("gradient_noise", 0.9))
    recipe: ClassVar[dict[str, Any]] = {"credit": "rloo"}
    remarks: ClassVar[str] = (
        "How much a baseline helps depends on how far the mean return lies from zero: at the start it is near zero in this world, "
        "and there the baseline's own sampling noise weighs against it. The group's own mean gives the same direction and noise "
        "as leave-one-out, shorter by (G − 1)/G."
    )

    def measure(self, seed: int, folder: Path) -> Measurement:
        lab = laboratory(seed, folder)
        kl = {"regulariser": {"part": "kl", "coefficient": BETA}}
        half = lab.run(lab.online(20, 24, _GROUP, 5e-3, credit="rloo", **kl), seed).model
        ours, theirs = self.train(lab, seed, self.recipe), self.train(lab, seed, PLAIN)
        for model, name in ((half, "gradient_noise"), (lab.reference, "gradient_noise_at_start")):
            noise = gradient_noise(lab, model, seed)
            ours |= {name: noise["rloo"], f"{name}_group_mean": noise["group mean"]}
            theirs[name] = noise["none"]
        return Measurement(ours, theirs)


def response_gradients(world: TokenWorld, model: Path) -> Tensor:
    """[X, Y, parameters]: gradient of log π(y | x) of every response, as the policy's own update computes it."""
    spec = GroupSpec(
        role="policy", model=ModelSpec(path=str(model)), optimiser=OptimiserSpec(maximum_gradient_norm=None)
    )
    worker = LocalGroup(spec).worker
    objective = PolicyGradient(aggregation="sequence-mean-token-sum").with_kl(0.0, "k1")
    everything = Experience.from_samples(world.batch).replace(rows=None)
    everything = everything.replace(advantages=everything.mask.float())
    found = []
    for row in range(everything.batch_size[0]):
        worker.drop_gradient()
        worker.accumulate(Lesson(objective.prepare(take(everything, [row])), objective))
        found.append(-torch.cat([_gradient(parameter) for parameter in worker.trained()]))
    return torch.stack(found).reshape(len(world.prompts), len(world.responses), -1)


def _gradient(parameter: Tensor) -> Tensor:
    return (torch.zeros_like(parameter) if parameter.grad is None else parameter.grad).flatten().double()


def gradient_noise(lab: Laboratory, model: Path, seed: int, groups: int = 4_000) -> dict[str, float]:
    """Variance of a group's gradient of the regularised return over the squared norm of its expectation, by baseline."""
    world = lab.world
    log_policy = world.log_distribution(lab.open(model))
    policy = log_policy.exp()
    returns = world.rewards - BETA * (log_policy - lab.log_reference)
    gradients = response_gradients(world, model)
    gram = gradients @ gradients.transpose(1, 2)  # [X, Y, Y]: all that norms of sums of gradients need
    exact = policy * (returns - (policy * returns).sum(-1, keepdim=True))
    signal = torch.einsum("xy,xyz,xz->x", exact, gram, exact)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(policy, groups * _GROUP, replacement=True, generator=generator)
    members: dict[str, tuple[Credit, float]] = {
        "none": (Reinforce(baseline="none"), 1.0),
        "rloo": (LeaveOneOut(), 1.0),
        "group mean": (GroupRelative(scale="none"), 1 - 1 / _GROUP),
    }
    noise: dict[str, float] = {}
    for name, (credit, length) in members.items():
        variance = torch.zeros(len(world.prompts), dtype=torch.float64)
        for x in range(len(world.prompts)):
            weight = _advantages(world, credit, drawn[x], returns[x]).reshape(groups, _GROUP) / _GROUP
            y = drawn[x].reshape(groups, _GROUP)
            squares = torch.einsum("gi,gij,gj->g", weight, gram[x][y[:, :, None], y[:, None, :]], weight)
            variance[x] = squares.mean() - length**2 * signal[x]
        noise[name] = float(variance.sum() / (length**2 * signal.sum()))
    return noise


def _advantages(world: TokenWorld, credit: Credit, drawn: Tensor, returns: Tensor) -> Tensor:
    """[rows]: what a credit part makes of the returns of the drawn responses, group after group."""
    responses = Experience.from_samples(world.batch).replace(rows=None)[drawn]
    experience = responses.replace(
        group=torch.arange(len(drawn)) // _GROUP,
        rewards=functional.place_at_last_token(returns[drawn], responses.mask),
    )
    return credit(experience).advantages[:, 0].double()
