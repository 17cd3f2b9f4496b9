"""Rollouts: how a policy is asked for responses."""

from fairlead.rollouts.base import Rollout
from fairlead.rollouts.baseline import WithBaseline
from fairlead.rollouts.collection import Collection, Lagged, Once, Refill
from fairlead.rollouts.opponents import AveragedPolicy, MixedPolicy, Opponent, PastPolicy
from fairlead.rollouts.sample import AgainstOpponent, GreedyBaseline, SampleRollout
from fairlead.rollouts.tasks import RolloutByTask

__all__ = [
    "AgainstOpponent",
    "AveragedPolicy",
    "Collection",
    "GreedyBaseline",
    "Lagged",
    "MixedPolicy",
    "Once",
    "Opponent",
    "PastPolicy",
    "Refill",
    "Rollout",
    "RolloutByTask",
    "SampleRollout",
    "WithBaseline",
]
