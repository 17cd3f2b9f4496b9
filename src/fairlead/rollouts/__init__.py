"""Rollouts: how a policy is asked for responses, and who answers it in a dialogue."""

from fairlead.rollouts.base import Rollout
from fairlead.rollouts.baseline import WithBaseline
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
from fairlead.rollouts.lookahead import LookaheadTree
from fairlead.rollouts.opponents import AveragedPolicy, FixedPolicy, MixedPolicy, Opponent, PastPolicy
from fairlead.rollouts.sample import AgainstOpponent, GreedyBaseline, SampleRollout
from fairlead.rollouts.several import Sampler, SeveralSamplers
from fairlead.rollouts.talk import Talk
from fairlead.rollouts.tasks import RolloutByTask
from fairlead.rollouts.think import ThinkRollout

__all__ = [
    "AgainstOpponent",
    "AveragedPolicy",
    "Branches",
    "Collection",
    "Dialogue",
    "Environment",
    "FixedPolicy",
    "FunctionEnvironment",
    "GreedyBaseline",
    "LookaheadTree",
    "MixedPolicy",
    "ModelUser",
    "Once",
    "Opponent",
    "PastPolicy",
    "RecordedTurns",
    "Refill",
    "Reply",
    "Rollout",
    "RolloutByTask",
    "SampleRollout",
    "Sampler",
    "SeveralSamplers",
    "Talk",
    "ThinkRollout",
    "Tools",
    "WithBaseline",
]
