"""Rollouts: how a policy is asked for responses, and who answers it in a dialogue."""

from fairlead.rollouts.base import Rollout
from fairlead.rollouts.collection import Collection, Once, Refill
from fairlead.rollouts.dialogue import Branches, Dialogue
from fairlead.rollouts.environments import (
    Environment,
    FunctionEnvironment,
    ModelUser,
    RecordedTurns,
    Reply,
    Tools,
)
from fairlead.rollouts.sample import GreedyBaseline, SampleRollout
from fairlead.rollouts.talk import Talk

__all__ = [
    "Branches",
    "Collection",
    "Dialogue",
    "Environment",
    "FunctionEnvironment",
    "GreedyBaseline",
    "ModelUser",
    "Once",
    "RecordedTurns",
    "Refill",
    "Reply",
    "Rollout",
    "SampleRollout",
    "Talk",
    "Tools",
]
