"""The loss of a policy and a critic that are one model.

Knows: a policy objective and a value objective.
Does not know: what either computes, or that the model has two heads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tensordict import TensorDict

from fairlead.batch import Experience
from fairlead.objectives.base import Loss
from fairlead.objectives.policy import PolicyObjective
from fairlead.objectives.value import ValueObjective
from fairlead.runtime import Outputs
from fairlead.runtime.group import under

__all__ = ["OneTrunk"]

_WEIGHT = "critic/loss_weight"


@dataclass(frozen=True)
class OneTrunk:
    """L_policy + coefficient · L_value, of what one forward pass says.

    Source: Schulman et al. 2017 (arXiv 1707.06347), eq. 9 (its c1).
    """

    policy: PolicyObjective
    value: ValueObjective
    coefficient: float

    @property
    def needs(self) -> tuple[str, ...]:
        """The outputs that either loss is made of."""
        return tuple(dict.fromkeys((*self.policy.needs, *self.value.needs)))

    @property
    def temperature(self) -> float:
        """The policy's."""
        return self.policy.temperature

    @property
    def limits(self) -> dict[str, float]:
        """The policy's; the critic learns for as long."""
        return self.policy.limits

    def with_kl(
        self, coefficient: float, estimator: str, reduction: str = "loss", clamp: float | None = None
    ) -> OneTrunk:
        """As in `PolicyObjective`."""
        return replace(self, policy=self.policy.with_kl(coefficient, estimator, reduction, clamp))

    def prepare(self, batch: Experience) -> Experience:
        """The minibatch with the weights of both losses."""
        prepared = self.policy.prepare(batch)
        extras = {} if prepared.extras is None else dict(prepared.extras.items())
        extras[_WEIGHT] = self.value.prepare(batch).loss_weight
        return prepared.replace(extras=TensorDict(extras, batch_size=batch.batch_size))

    def __call__(self, outputs: Outputs, batch: Experience) -> Loss:
        """The weighted sum of both; the critic's metrics, its loss without the coefficient among them, are named `critic/…`."""
        assert batch.extras is not None, "prepare the minibatch first"
        policy_loss, metrics = self.policy(outputs, batch)
        value_loss, found = self.value(outputs, batch.replace(loss_weight=batch.extras[_WEIGHT]))
        return policy_loss + self.coefficient * value_loss, metrics | under("critic", {"loss": value_loss, **found})
