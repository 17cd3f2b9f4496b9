"""Rollouts: how a policy is asked for responses."""

from fairlead.rollouts.base import Rollout
from fairlead.rollouts.baseline import WithBaseline
from fairlead.rollouts.collection import Collection, Once, Refill
from fairlead.rollouts.sample import GreedyBaseline, SampleRollout
from fairlead.rollouts.tasks import RolloutByTask

__all__ = [
    "Collection",
    "GreedyBaseline",
    "Once",
    "Refill",
    "Rollout",
    "RolloutByTask",
    "SampleRollout",
    "WithBaseline",
]
