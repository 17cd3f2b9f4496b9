"""Dr. GRPO, DAPO, GSPO, CISPO beside the plain policy gradient, and importance weights against a sampler that differs.

Knows: the token world, the recipe of each method, exact gradients of a table of logits.
Does not know: how figures become a verdict.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from fairlead.batch import Experience
from fairlead.evidence.base import Better, Experiment, Measurement, Rule
from fairlead.evidence.experiments.online_baselines import OnlineExperiment
from fairlead.evidence.laboratory import Laboratory
from fairlead.objectives import Mismatch, PolicyGradient
from fairlead.runtime import Outputs
from fairlead.worlds import TokenWorld

__all__ = ["CISPO", "DAPO", "GSPO", "DrGRPO", "TruncatedImportance", "expected_gradient"]

_MINIBATCHES = "Two optimiser steps a rollout, so that the ratio matters; the baseline takes one."


class DrGRPO(OnlineExperiment, name="dr-grpo"):
    """Dr. GRPO against the plain policy gradient.

    Source: Liu et al. 2025 (arXiv 2503.20783), section 3.2.
    """

    claim: ClassVar[str] = "Without the divisions by spread and length the group baseline is unbiased and still learns"
    recipe: ClassVar[dict[str, Any]] = {
        "credit": {"part": "group-relative", "scale": "none"},
        "objective": {"part": "ppo-clip", "aggregation": "constant-length", "maximum_length": 3},
    }


class DAPO(OnlineExperiment, name="dapo"):
    """DAPO's clip and aggregation against the plain policy gradient.

    Source: Yu et al. 2025 (arXiv 2503.14476).
    """

    claim: ClassVar[str] = "Clip-higher, the mean over tokens and batches without flat groups learn from group rewards"
    recipe: ClassVar[dict[str, Any]] = {
        "credit": "group-relative",
        "objective": {"part": "ppo-clip", "clip_high": 0.28},
        "selection": ["drop-flat-groups"],
        "collection": "refill",
        "minibatches": 2,
    }
    remarks: ClassVar[str] = (
        "The KL stays in the reward, since the figures are distances from the regularised optimum. Rewards of this world are seldom "
        "equal, so dynamic sampling has little to replace: what is shown is that the four pieces do no harm together. "
        + _MINIBATCHES
    )


class GSPO(OnlineExperiment, name="gspo"):
    """GSPO against the plain policy gradient.

    Source: Zheng et al. 2025 (arXiv 2507.18071).
    """

    claim: ClassVar[str] = "One clipped ratio for the whole response, its geometric mean over tokens, learns stably"
    recipe: ClassVar[dict[str, Any]] = {
        "credit": "group-relative",
        "objective": {
            "part": "ppo-clip",
            "ratio": "geometric",
            "clip_low": 3e-4,
            "clip_high": 4e-4,
            "aggregation": "sequence-mean-token-mean",
        },
        "minibatches": 2,
    }
    remarks: ClassVar[str] = (
        "The published clip range (0.0003 and 0.0004). Responses of three tokens move further in one step than those of a "
        "thousand, so most of the second step's tokens are clipped here. " + _MINIBATCHES
    )


class CISPO(OnlineExperiment, name="cispo"):
    """CISPO against the plain policy gradient.

    Source: MiniMax 2025 (arXiv 2506.13585), section 3.1.
    """

    claim: ClassVar[str] = "Bounding the importance weight, and never the gradient, learns from every token"
    recipe: ClassVar[dict[str, Any]] = {"credit": "group-relative", "objective": "cispo", "minibatches": 2}
    remarks: ClassVar[str] = _MINIBATCHES


class TruncatedImportance(Experiment, name="truncated-importance"):
    """The expected gradient under a sampler that differs, with and without importance weights.

    Source: Ionides 2008; Yao et al. 2025 for the mismatch of sampler and trainer.
    """

    claim: ClassVar[str] = (
        "Weights of the trainer's policy over the sampler's, cut at 2, restore the gradient's direction"
    )
    experiment: ClassVar[str] = (
        "Token world of 85 responses to 3 prompts (4 symbols, 3 tokens; another world for every seed); the policy is a table of "
        "logits, those of a random transformer times 3. Responses come from the logits divided by 1.3, the objective reinforce sees "
        "the policy at temperature 1 and the return less its mean. All responses are enumerated, so gradients are exact. angle is 1 − "
        "cosine to the gradient without mismatch; angle_masked with weights above 2 made 0, angle_sequence with one weight a response."
    )
    baseline: ClassVar[str] = "the same samples without weights"
    rules: ClassVar[tuple[Rule, ...]] = (Better("angle", 0.5),)

    def measure(self, seed: int, folder: Path) -> Measurement:
        lab = Laboratory(TokenWorld(symbols=4, maximum_tokens=3, prompts=3, seed=seed), folder)
        table = torch.log_softmax(3 * lab.world.conditionals(lab.open(lab.reference)), -1)
        exact = expected_gradient(lab.world, table, 1.0, None)

        def angle(mismatch: Mismatch | None) -> float:
            found = expected_gradient(lab.world, table, 1.3, mismatch)
            return 1 - float(torch.cosine_similarity(found.flatten(), exact.flatten(), dim=0))

        ours = {
            "angle": angle(Mismatch()),
            "angle_masked": angle(Mismatch(mode="mask")),
            "angle_sequence": angle(Mismatch(level="sequence")),
        }
        return Measurement(ours, {"angle": angle(None)})


def expected_gradient(world: TokenWorld, table: Tensor, temperature: float, mismatch: Mismatch | None) -> Tensor:
    """[X, N, V]: exact gradient of the objective `reinforce` in the logits, responses drawn at `temperature`."""
    logits = table.clone().requires_grad_()
    policy = torch.log_softmax(logits, -1)
    sampler = torch.log_softmax(table / temperature, -1)
    drawn = world.from_conditionals(sampler).exp()
    own = world.from_conditionals(policy.detach()).exp()
    advantage = (world.rewards - (own * world.rewards).sum(-1, keepdim=True)).flatten()
    batch = Experience.from_samples(world.batch).replace(rows=None)
    logprobs = _tokens(world, policy)
    batch = batch.replace(
        logprobs=logprobs.detach(),
        behaviour_logprobs=_tokens(world, sampler),
        advantages=torch.where(batch.mask, advantage[:, None], 0.0),
        weight=drawn.flatten(),
    )
    objective = PolicyGradient(aggregation="sequence-mean-token-sum", mismatch=mismatch)
    loss, _ = objective(Outputs(logprobs=logprobs, entropy=torch.zeros_like(logprobs)), objective.prepare(batch))
    return torch.autograd.grad(loss, logits)[0]


def _tokens(world: TokenWorld, table: Tensor) -> Tensor:
    """[X·Y, T]: log-probability of every token of every response."""
    per_token = world.token_logprobs(table)
    return per_token.reshape(-1, per_token.shape[-1])
