"""Shapings of the score that need no model."""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
from pydantic import Field, PrivateAttr, model_validator

from fairlead import functional
from fairlead.batch import Experience
from fairlead.parts import nearest
from fairlead.shaping.base import Shaping

__all__ = ["BelowWorst", "Clip", "Gated", "MissingEnd", "Normalise", "Overlong"]


class Clip(Shaping, name="clip"):
    """Cut the score at ± limit.

    Source: Zheng et al. 2023 (PPO-max, arXiv 2307.04964), section 5.
    """

    limit: float = Field(10.0, gt=0, description="largest absolute score")

    def __call__(self, experience: Experience) -> Experience:
        return experience.replace(score=experience.score.clamp(-self.limit, self.limit))


class MissingEnd(Shaping, name="missing-end"):
    """Subtract a penalty from responses that were cut by the length limit.

    Source: Huang et al. 2024 (arXiv 2403.17031), detail 4; in place of the score: REBEL (Gao et al. 2024, arXiv 2404.16767), with 1, and
    REFUEL (Gao et al. 2024, arXiv 2410.04612), with 10.
    """

    penalty: float = Field(1.0, ge=0, description="taken from the score of a truncated response")
    replace: bool = Field(False, description="put −penalty in place of the score")
    scale: float = Field(
        1.0,
        ge=0,
        le=1,
        description="multiplies the score of a truncated response first (OpenRLHF's stop_properly_penalty_coef)",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.replace and self.scale != 1:
            raise ValueError("replace puts −penalty in place of the score, so there is none to scale: leave one out")
        return self

    def __call__(self, experience: Experience) -> Experience:
        kept = torch.zeros_like(experience.score) if self.replace else self.scale * experience.score
        return experience.replace(score=torch.where(experience.truncated, kept - self.penalty, experience.score))


class Gated(Shaping, name="gated"):
    """A rule first, a judge second: 1 and the judge's standing in the group (0 to 1) for what passes, 0 for what does not.

    It replaces the score. A rule alone is followed at the cost of everything else; the judge, which may have weight 0 in the score,
    decides among responses that follow it.

    Source: Nemotron-Cascade (arXiv 2512.13607), the reward of its stage for following instructions.
    """

    rule: str = Field(description="the channel of the rule, 1 where it is passed")
    judge: str = Field(description="the channel of the judge")

    def __call__(self, experience: Experience) -> Experience:
        rule, judge = (_channel(self, experience, name) for name in (self.rule, self.judge))
        score = functional.gated_reward(rule, judge, experience.group)
        failed = score.isnan()  # a row without a verdict teaches nothing
        weight = torch.where(failed, 0.0, experience.weight)
        return experience.replace(score=score.nan_to_num(), weight=weight)


class BelowWorst(Shaping, name="below-worst"):
    """Put a response that a channel speaks against below every other of the batch.

    One such score widens the spread of its group, so that the others come out nearly alike there (group-relative credit divides by it).

    Source: Nemotron-Cascade (arXiv 2512.13607): answers to English prompts that mix languages, in its stage of human feedback.
    """

    channel: str = Field(
        description="the channel that speaks against a response where it is above 0, e.g. of `mixed-scripts`"
    )
    margin: float = Field(10.0, ge=0, description="below the lowest score of the batch")

    def __call__(self, experience: Experience) -> Experience:
        flagged = _channel(self, experience, self.channel) > 0
        return experience.replace(score=functional.below_worst(experience.score, flagged, self.margin))


class Overlong(Shaping, name="overlong"):
    """Subtract a penalty that grows as a response nears the length limit: a soft edge in place of a cliff.

    Source: soft overlong punishment of DAPO (Yu et al. 2025, arXiv 2503.14476), eq. 13.
    """

    maximum_length: int = Field(ge=1, description="length at which the whole penalty is due, tokens")
    buffer: int = Field(ge=1, description="tokens before `maximum_length` over which the penalty grows")
    factor: float = Field(1.0, ge=0, description="the whole penalty")
    beyond: Literal["flat", "falling"] = Field(
        "flat", description="past maximum_length: the whole penalty (paper, TRL), or growing on (verl)"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.buffer > self.maximum_length:
            raise ValueError(f"buffer ({self.buffer}) exceeds maximum_length ({self.maximum_length})")
        return self

    def __call__(self, experience: Experience) -> Experience:
        floor = -1.0 if self.beyond == "flat" else None
        penalty = functional.overlong_penalty(experience.mask.sum(1), self.maximum_length, self.buffer, floor)
        return experience.replace(score=experience.score + self.factor * penalty)


class Normalise(Shaping, name="normalise"):
    """Centre and scale the score by running statistics of all rollouts so far, or by those of the batch.

    Source: Zheng et al. 2023 (PPO-max, arXiv 2307.04964), section 5; moments are merged by the parallel-variance rule and
    include the batch itself.
    """

    over: Literal["running", "batch"] = Field("running", description="whose mean and standard deviation")
    centre: bool = Field(True, description="subtract the mean; false only divides")

    _count: float = PrivateAttr(0.0)
    _mean: float = PrivateAttr(0.0)
    _squares: float = PrivateAttr(0.0)

    def __call__(self, experience: Experience) -> Experience:
        score = experience.score.double()
        counted = score[torch.isfinite(score) & (experience.weight > 0)]
        if self.over == "batch":
            self._count, self._mean, self._squares = 0.0, 0.0, 0.0
        self._merge(counted)
        deviation = (self._squares / max(self._count - 1, 1)) ** 0.5
        centred = score - self._mean if self.centre else score
        return experience.replace(score=(centred / max(deviation, 1e-8)).float())

    def _merge(self, score: torch.Tensor) -> None:
        count = float(score.numel())
        if count == 0:
            return
        mean = float(score.mean())
        squares = float(((score - mean) ** 2).sum())
        total = self._count + count
        self._squares += squares + (mean - self._mean) ** 2 * self._count * count / total
        self._mean += (mean - self._mean) * count / total
        self._count = total

    def state_dict(self) -> dict[str, Any]:
        return {"count": self._count, "mean": self._mean, "squares": self._squares}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._count, self._mean, self._squares = state["count"], state["mean"], state["squares"]


def _channel(part: Shaping, experience: Experience, name: str) -> torch.Tensor:
    if name not in experience.channels.keys():  # noqa: SIM118 - a TensorDict is no mapping
        raise ValueError(
            f"shaping {part.part_name}: there is no reward {name!r}; {nearest(name, experience.channels.keys())}"
        )
    return experience.channels[name]  # type: ignore[no-any-return]
