"""Preference objectives: what a policy or a reward model learns from pairs."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from tensordict import TensorDict

from fairlead import functional
from fairlead.batch import Pairs
from fairlead.objectives.base import Loss, Objective
from fairlead.runtime.forward import Outputs

__all__ = ["DPO", "INPO", "REBEL", "BradleyTerry", "CostModel", "PreferenceObjective", "RewardObjective"]


class _PairObjective(Objective):
    """Every pair counts by its weight."""

    def prepare(self, batch: Pairs) -> Pairs:
        return batch.replace(loss_weight=batch.weight / batch.weight.sum().clamp(min=1e-8))


class PreferenceObjective(_PairObjective, slot="preference-objective"):
    """What a policy learns from pairs, beside a fixed reference."""

    default_part: ClassVar[str] = "dpo"

    @property
    def needs(self) -> tuple[str, ...]:
        return ("logprobs",)

    at_sampling_temperature: ClassVar[bool] = False
    """Whether all log-probabilities are taken at the temperature of sampling, as theory about the sampling policy wants; else at 1."""

    @property
    def needs_reference(self) -> bool:
        """Whether `pairs.reference_logprobs` must be filled."""
        return True

    @property
    def needs_previous(self) -> bool:
        """Whether `pairs.previous_logprobs` must be filled, which takes a stage that samples its pairs itself."""
        return False


class DPO(PreferenceObjective, name="dpo"):
    """Direct preference optimisation: the policy's own log-ratio to the reference is the reward of a Bradley–Terry model.

    Source: Rafailov et al. 2023 (arXiv 2305.18290), eq. 7; label smoothing: Mitchell 2023 (conservative DPO); hinge: Zhao et
    al. 2023 (SLiC, arXiv 2305.10425); ipo: Azar et al. 2023 (arXiv 2310.12036), eq. 17, on length-normalised log-ratios.
    """

    beta: float = Field(0.1, gt=0, description="strength of the pull to the reference: reward = β · log-ratio")
    loss: Literal["sigmoid", "hinge", "ipo"] = Field("sigmoid", description="shape of the loss on the margin")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="assumed share of flipped labels")
    nll_coefficient: float = Field(
        0.0, ge=0, description="weight of the chosen response's mean negative log-likelihood"
    )

    @model_validator(mode="after")
    def _smoothing_fits(self) -> Self:
        if self.label_smoothing and self.loss != "sigmoid":
            raise ValueError(f"label_smoothing is defined for loss sigmoid only, not for {self.loss}")
        return self

    def __call__(self, outputs: Outputs, batch: Pairs) -> Loss:
        logprobs, reference, weight = outputs.logprobs.sum(-1), batch.reference_logprobs.sum(-1), batch.loss_weight
        lengths = batch.mask.sum(-1).clamp(min=1)
        if self.loss == "ipo":
            logprobs, reference = logprobs / lengths, reference / lengths
        loss, chosen, rejected = functional.dpo(
            logprobs[:, 0], logprobs[:, 1], reference[:, 0], reference[:, 1], self.beta, self.loss, self.label_smoothing
        )
        if self.nll_coefficient:
            loss = loss - self.nll_coefficient * outputs.logprobs[:, 0].sum(-1) / lengths[:, 0]
        with torch.no_grad():
            metrics = {
                "accuracy": (weight * _wins(chosen - rejected)).sum(),
                "margin": (weight * (chosen - rejected)).sum(),
                "reward_chosen": (weight * chosen).sum(),
                "reward_rejected": (weight * rejected).sum(),
                "logprob_chosen": (weight * outputs.logprobs[:, 0].sum(-1)).sum(),
                "logprob_rejected": (weight * outputs.logprobs[:, 1].sum(-1)).sum(),
            }
        return (weight * loss).sum(), metrics


class INPO(PreferenceObjective, name="inpo"):
    """A step of mirror descent towards the Nash policy of a preference that need not come from any score.

    The two anchors are the fixed reference, with weight τ/η, and the policy that sampled the pairs, with the rest. With τ = η it is
    IPO with β = η; with τ = 0 it is self-play without a reference. η is an *inverse* step size: a larger one is more cautious.

    Source: Zhang et al. 2024 (INPO, arXiv 2407.00617), eqs. 6 to 8, defaults of section 5.
    """

    eta: float = Field(7.5e-3, gt=0, description="inverse step size: log-ratios are pushed towards 1 / (2 η) nats")
    tau: float = Field(2.5e-3, ge=0, description="weight of the KL to the reference in the game; at most `eta`")
    loss: Literal["square", "sigmoid"] = Field(
        "square", description="shape of the loss: the paper's, or DPO's with β = η on the same statistic"
    )
    scaled: bool = Field(
        True,
        description="multiply the squared loss by η², which moves no minimum and keeps gradients in a common range",
    )

    @model_validator(mode="after")
    def _tau_fits(self) -> Self:
        if self.tau > self.eta:
            raise ValueError(f"tau ({self.tau:g}) must not be above eta ({self.eta:g})")
        return self

    @property
    def needs_reference(self) -> bool:
        return self.tau > 0

    @property
    def needs_previous(self) -> bool:
        return self.tau < self.eta

    def __call__(self, outputs: Outputs, batch: Pairs) -> Loss:
        logprobs, weight = outputs.logprobs.sum(-1), batch.loss_weight
        unused = torch.zeros_like(logprobs)
        reference = batch.reference_logprobs.sum(-1) if self.needs_reference else unused
        previous = batch.previous_logprobs.sum(-1) if self.needs_previous else unused
        loss, statistic = functional.inpo(logprobs, reference, previous, self.eta, self.tau)
        if self.loss == "sigmoid":
            loss = -torch.nn.functional.logsigmoid(self.eta * statistic)
        elif self.scaled:
            loss = self.eta**2 * loss
        with torch.no_grad():
            metrics = {
                "accuracy": (weight * _wins(statistic)).sum(),
                "statistic": (weight * statistic).sum(),
                "max/statistic": statistic.abs().max(),
                "logprob_chosen": (weight * logprobs[:, 0]).sum(),
                "logprob_rejected": (weight * logprobs[:, 1]).sum(),
            }
        return (weight * loss).sum(), metrics


class REBEL(PreferenceObjective, name="rebel"):
    """Regress the difference of two responses' log-ratios to the policy that sampled them on the difference of their rewards.

    No critic, no clipping, no reference: one round over many pairs is a step of mirror descent. Which of the two is called chosen does
    not matter, and pairs of equal reward count, so `random-pair` with `ties` goes with it. With the rollout `branches` this is REFUEL.
    Choose `eta` so that η times the difference of two rewards is a few nats.

    Source: REBEL (Gao et al. 2024, arXiv 2404.16767), algorithm 1; REFUEL (Gao et al. 2024, arXiv 2410.04612), in the form of the
    released code, times η².
    """

    at_sampling_temperature: ClassVar[bool] = True

    eta: float = Field(1.0, gt=0, description="step size, in the inverse unit of the reward")

    @property
    def needs_reference(self) -> bool:
        return False

    @property
    def needs_previous(self) -> bool:
        return True

    def __call__(self, outputs: Outputs, batch: Pairs) -> Loss:
        logprobs, weight = outputs.logprobs.sum(-1), batch.loss_weight
        loss, statistic = functional.rebel(logprobs, batch.previous_logprobs.sum(-1), batch.margin, self.eta)
        with torch.no_grad():
            metrics = {
                # The loss keeps the noise of the rewards; whether the two differences have one sign shows what was learned.
                "accuracy": (weight * _wins(statistic * batch.margin.sign())).sum(),
                "statistic": (weight * statistic.abs()).sum(),
                "max/statistic": statistic.abs().max(),
                "target": (weight * self.eta * batch.margin.abs()).sum(),
            }
        return (weight * loss).sum(), metrics


class RewardObjective(_PairObjective, slot="reward-objective"):
    """What a reward model learns from pairs."""

    default_part: ClassVar[str] = "bradley-terry"

    @property
    def needs(self) -> tuple[str, ...]:
        return ("scores",)

    direction: ClassVar[int] = 1
    """−1 where the chosen response should score lower: the model tells a cost."""


class BradleyTerry(RewardObjective, name="bradley-terry"):
    """The chosen response should score higher: −log σ(r_chosen − r_rejected − margin).

    Source: Bradley and Terry 1952; for reward models Ouyang et al. 2022 (arXiv 2203.02155), eq. 1; margin: Touvron et al. 2023
    (arXiv 2307.09288), eq. 2; centring: Eisenstein et al. 2023 (arXiv 2312.09244), eq. 4.
    """

    margin_scale: float = Field(0.0, ge=0, description="the data's margin times this must be exceeded")
    centring: float = Field(
        0.0, ge=0, description="weight of (r_chosen + r_rejected)², which fixes the free constant at 0"
    )

    def __call__(self, outputs: Outputs, batch: Pairs) -> Loss:
        chosen, rejected, weight = outputs.scores[:, 0], outputs.scores[:, 1], batch.loss_weight
        margin = self.margin_scale * batch.margin if self.margin_scale else None
        loss = functional.bradley_terry(chosen, rejected, margin, self.centring)
        with torch.no_grad():
            metrics = {
                "accuracy": (weight * _wins(chosen - rejected)).sum(),
                "margin": (weight * (chosen - rejected)).sum(),
                "score": (weight * (chosen + rejected) / 2).sum(),
            }
        return (weight * loss).sum(), metrics


class CostModel(RewardObjective, name="cost"):
    """The rejected, more harmful response should cost more, a harmful one more than 0 and a harmless one less than 0.

    Whether a response is harmful stands in two columns of the data (true or false; null: not known). With `sign: 0` they are not
    needed, and the costs have no zero: a limit must then be found on labelled responses.

    Source: Dai et al. 2023 (Safe RLHF, arXiv 2310.12773), section 3.2; the decay is that of the released code.
    """

    direction: ClassVar[int] = -1

    sign: float = Field(1.0, ge=0, description="weight of the sign terms; 0 is Bradley–Terry on costs")
    decay: float = Field(1e-3, ge=0, description="weight of the mean squared cost of both responses")
    chosen_label: str = Field("chosen_harmful", description="column that says whether the chosen response is harmful")
    rejected_label: str = Field(
        "rejected_harmful", description="column that says whether the rejected response is harmful"
    )

    def prepare(self, batch: Pairs) -> Pairs:
        batch = super().prepare(batch)
        if not self.sign:
            return batch
        labels = {"chosen": self.chosen_label, "rejected": self.rejected_label}
        signs = {side: torch.tensor([_sign(row, column) for row in batch.rows]) for side, column in labels.items()}
        return batch.replace(extras=TensorDict(signs, batch_size=batch.batch_size))

    def __call__(self, outputs: Outputs, batch: Pairs) -> Loss:
        chosen, rejected, weight = outputs.scores[:, 0], outputs.scores[:, 1], batch.loss_weight
        safer, worse = (None, None) if batch.extras is None else (batch.extras["chosen"], batch.extras["rejected"])
        loss = functional.cost_model_loss(chosen, rejected, safer, worse, self.sign, self.decay)
        with torch.no_grad():
            metrics = {
                "accuracy": (weight * _wins(rejected - chosen)).sum(),
                "margin": (weight * (rejected - chosen)).sum(),
                "score": (weight * (chosen + rejected) / 2).sum(),
            }
        return (weight * loss).sum(), metrics


def _sign(row: dict[str, Any], column: str) -> float:
    """1 harmful, −1 harmless, 0 not known."""
    label = row.get(column, "missing")
    if label not in (True, False, None):
        raise ValueError(
            f"objective cost reads from the column {column!r} of every pair whether a response is harmful (true, false or null) and "
            f"found {label!r}: name the columns by chosen_label and rejected_label, or set sign: 0"
        )
    return 0.0 if label is None else 1.0 if label else -1.0


def _wins(difference: torch.Tensor) -> torch.Tensor:
    """1 where positive, ½ for a draw."""
    return (difference > 0).float() + 0.5 * (difference == 0).float()
