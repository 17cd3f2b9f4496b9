"""The constraint slot: a limit on the mean of a judge, and what it adds to the reward.

Knows: costs of an experience, multipliers.
Does not know: credit, critics, losses.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import BeforeValidator, Field
from tensordict import TensorDict
from torch import Tensor

from fairlead import functional
from fairlead.batch import Experience
from fairlead.models import ModelSpec
from fairlead.parts import Part

__all__ = ["Constraint", "cost_lesson", "with_lagrangian", "with_lessons"]


class Constraint(Part, slot="constraint"):
    """A limit on the mean of a judge, kept by a multiplier of its cost.

    The judge stands among the stage's rewards, usually with weight 0. Where credit has a critic, every cost has one of its own.
    """

    default_part: ClassVar[str] = "lagrangian"

    channel: str = Field(description="name of the judge, among the stage's rewards, that tells the cost")
    limit: float = Field(0.0, description="what the mean of the channel may be")
    side: Literal["at-most", "at-least"] = Field(
        "at-most", description="the mean must not exceed the limit, or not fall below it"
    )
    critic: Annotated[ModelSpec, BeforeValidator(ModelSpec.coerce)] | None = Field(
        None, description="where the cost's own critic begins, e.g. the cost model; null: as the reward's critic"
    )
    normalise: bool = Field(True, description="divide the mixture of reward and cost by 1 + multiplier")
    kl: Literal["shared", "reward"] = Field(
        "shared",
        description="shared: the regulariser's penalty is added to the cost, too, so that the multiplier does not change its weight; "
        "reward: it stands in the reward alone, and weighs less the larger the multiplier is",
    )

    def cost(self, experience: Experience) -> Tensor:
        """[B]: the channel, with its sign turned where it must not fall below the limit; NaN where the judge failed."""
        channel: Tensor = experience.channels[self.channel]
        return channel if self.side == "at-most" else -channel

    @property
    def bound(self) -> float:
        """What the mean of `cost` may be."""
        return self.limit if self.side == "at-most" else -self.limit

    @property
    @abstractmethod
    def multiplier(self) -> float:
        """How much the cost weighs against the reward now; at least 0."""

    @abstractmethod
    def observe(self, experience: Experience) -> dict[str, float]:
        """Look at a rollout before it is learned from, move the multiplier, return metrics."""

    def learned_cost(self, experience: Experience) -> Tensor:
        """[B]: what the policy learns to lower, after `observe`; the cost itself unless a part says otherwise."""
        return self.cost(experience)

    def in_place_of_reward(self, experience: Experience) -> Experience:
        """The rows with the learned cost as their score, and at the last token, with the penalty where it is shared."""
        score = functional.place_at_last_token(experience.score.nan_to_num(), experience.mask)
        cost = self.learned_cost(experience).nan_to_num()
        if experience.anchor is not None:  # an anchor that failed is known by its score
            cost = torch.where(experience.anchor & experience.score.isnan(), torch.nan, cost)
        rewards = functional.place_at_last_token(cost.nan_to_num(), experience.mask)
        if self.kl == "shared":
            rewards = rewards + (score - experience.rewards)
        return experience.replace(score=cost, rewards=rewards)


def with_lagrangian(
    experience: Experience, constraints: Mapping[str, Constraint], costs: Mapping[str, Experience]
) -> Experience:
    """The experience whose score, rewards and values are mixtures of its own with those of every cost.

    `costs`: the same rows with each cost in the place of the reward.
    """

    def mixed(name: str) -> Tensor:
        multipliers = [constraint.multiplier for constraint in constraints.values()]
        normalised = [constraint.normalise for constraint in constraints.values()]
        others = [getattr(costs[key], name) for key in constraints]
        return functional.lagrangian(getattr(experience, name), others, multipliers, normalised)

    names = ("score", "rewards") if experience.values is None else ("score", "rewards", "values")
    return experience.replace(**{name: mixed(name) for name in names})


def with_lessons(experience: Experience, lessons: Mapping[str, Experience]) -> Experience:
    """The experience with the values and returns of every cost in its extras, where they follow its rows."""
    extras = {} if experience.extras is None else dict(experience.extras.items())
    for name, lesson in lessons.items():
        extras |= {f"{name}/values": lesson.values, f"{name}/returns": lesson.returns}
    return experience.replace(extras=TensorDict(extras, batch_size=experience.batch_size))


def cost_lesson(experience: Experience, name: str) -> Experience:
    """What the critic of a cost learns from: the rows with that cost's values and returns, which `with_lessons` wrote."""
    assert experience.extras is not None
    return experience.replace(values=experience.extras[f"{name}/values"], returns=experience.extras[f"{name}/returns"])
