"""The opponent slot: who gives the responses that the policy's own are compared with, or that it learns from beside them."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, ClassVar

import torch
from pydantic import BeforeValidator, Field, PrivateAttr
from torch import Tensor

from fairlead.batch import Prompts, Samples
from fairlead.generation import Sampling
from fairlead.models import ModelSpec
from fairlead.parts import Part
from fairlead.runtime import Mixture, ModelGroup, Opener

__all__ = ["AveragedPolicy", "FixedPolicy", "MixedPolicy", "Opponent", "PastPolicy"]


class Opponent(Part, slot="opponent"):
    """The second player of a preference game, or a second sampler. The rollout says whether its responses are learned from."""

    default_part: ClassVar[str] = "mixture"

    @property
    def needs_reference(self) -> bool:
        """Whether it plays with the reference model."""
        return False

    def open(self, run: Opener, model: ModelSpec, reference: ModelGroup | None) -> None:
        """As `Rollout.open`."""

    @abstractmethod
    def __call__(self, policy: ModelGroup, requests: Prompts, sampling: Sampling) -> Samples:
        """One response for each row of `requests`."""

    def learned(self, policy: ModelGroup) -> None:
        """As `Rollout.learned`."""


class MixedPolicy(Opponent, name="mixture"):
    """The geometric mixture of the present policy and the reference, token by token: the opponent of Nash-MD.

    Share 0 is self-play, share 1 the reference itself. The mixture is normalised at every token, which is not exactly that of
    whole responses. Filters such as top-p cut the mixture.

    Source: Nash-MD-PG, Munos et al. 2023 (arXiv 2312.00886); β there is the share.
    """

    share: float = Field(0.125, ge=0, le=1, description="share of the reference (paper: 0.125 to 0.375 did best)")

    _opened: bool = PrivateAttr(False)
    _reference: ModelGroup | None = PrivateAttr(None)

    @property
    def needs_reference(self) -> bool:
        return self.share > 0

    def open(self, run: Opener, model: ModelSpec, reference: ModelGroup | None) -> None:
        self._opened, self._reference = True, reference

    def __call__(self, policy: ModelGroup, requests: Prompts, sampling: Sampling) -> Samples:
        if not self.share:
            return policy.generate(requests, sampling)
        if not self._opened:
            raise _not_here(self)
        if self.share == 1 and self._reference is not None:
            return self._reference.generate(requests, sampling)
        return policy.generate(requests, sampling, Mixture(self.share, self._reference))


class _OtherWeights(Opponent):
    """A model like the policy, with weights of its own."""

    _group: ModelGroup | None = PrivateAttr(None)

    @property
    def group(self) -> ModelGroup:
        """The opponent's model."""
        if self._group is None:
            raise _not_here(self)
        return self._group

    def open(self, run: Opener, model: ModelSpec, reference: ModelGroup | None) -> None:
        # Adapters of the policy are merged into the weights that it hands over.
        self._group = run.open("opponent", model.model_copy(update={"lora": None}))

    def __call__(self, policy: ModelGroup, requests: Prompts, sampling: Sampling) -> Samples:
        return self.group.generate(requests, sampling)


class FixedPolicy(_OtherWeights, name="model"):
    """A model that stays as it is: an older checkpoint, or one that was trained for something else.

    It must have the policy's tokens.

    Source: older checkpoints as second sampler, RLHF Workflow (Dong et al. 2024, arXiv 2405.07863), section 3.
    """

    model: Annotated[ModelSpec, BeforeValidator(ModelSpec.coerce)] = Field(description="the model")

    def open(self, run: Opener, model: ModelSpec, reference: ModelGroup | None) -> None:
        self._group = run.open("opponent", self.model)

    def __call__(self, policy: ModelGroup, requests: Prompts, sampling: Sampling) -> Samples:
        if self.group.codec.tokenizer.get_vocab() != policy.codec.tokenizer.get_vocab():
            raise ValueError(
                f"the opponent {self.model.path} has other tokens than the policy, so what it writes means something else to it: "
                "take a checkpoint of the same family"
            )
        return super().__call__(policy, requests, sampling)


class AveragedPolicy(_OtherWeights, name="ema"):
    """The moving average of the policy's weights: the opponent of Nash-EMA.

    After every step average ← keep · average + (1 − keep) · policy, beginning with the first policy. Keep 0 is self-play, keep 1
    the first policy for ever. The average is kept in float32 whatever the precision of the weights.

    Source: Nash-EMA-PG, Munos et al. 2023 (arXiv 2312.00886).
    """

    keep: float = Field(0.999, ge=0, le=1, description="share of the old average (paper: 0.999 and 0.9995)")

    _average: dict[str, Tensor] = PrivateAttr(default_factory=dict)

    def open(self, run: Opener, model: ModelSpec, reference: ModelGroup | None) -> None:
        super().open(run, model, reference)
        self._average = {name: _wide(tensor) for name, tensor in self.group.weights().items()}

    def learned(self, policy: ModelGroup) -> None:
        for name, tensor in policy.weights().items():
            old = self._average[name]
            self._average[name] = old.lerp(_wide(tensor), 1 - self.keep) if old.is_floating_point() else tensor
        self.group.load_weights(self._average)

    def state_dict(self) -> dict[str, Any]:
        return {"average": self._average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._average = state["average"]
        self.group.load_weights(self._average)


class PastPolicy(_OtherWeights, name="past"):
    """A policy of the past, drawn anew for every rollout, each as likely: fictitious play.

    Source: Brown 1951, "Iterative solution of games by fictitious play".
    """

    every: int = Field(10, ge=1, description="steps from one kept policy to the next")
    most: int | None = Field(10, ge=1, description="how many are kept, the newest ones; null: all")

    _steps: int = PrivateAttr(0)
    _past: list[dict[str, Tensor]] = PrivateAttr(default_factory=list)

    def open(self, run: Opener, model: ModelSpec, reference: ModelGroup | None) -> None:
        super().open(run, model, reference)
        self._past = [self.group.weights()]

    def __call__(self, policy: ModelGroup, requests: Prompts, sampling: Sampling) -> Samples:
        self.group.load_weights(self._past[int(torch.randint(len(self._past), ()))])
        return super().__call__(policy, requests, sampling)

    def learned(self, policy: ModelGroup) -> None:
        self._steps += 1
        if self._steps % self.every == 0:
            self._past.append(policy.weights())
            self._past = self._past if self.most is None else self._past[-self.most :]

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps, "past": self._past}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._steps, self._past = state["steps"], list(state["past"])


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _not_here(opponent: Opponent) -> RuntimeError:
    return RuntimeError(
        f"the opponent {opponent.part_name} plays where a policy is trained only: give this stage another rollout"
    )
