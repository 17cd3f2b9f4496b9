"""Rollouts: how a policy is asked for responses."""

from fairlead.rollouts.base import Rollout
from fairlead.rollouts.collection import Collection, Once, Refill
from fairlead.rollouts.lookahead import LookaheadTree
from fairlead.rollouts.sample import GreedyBaseline, SampleRollout
from fairlead.rollouts.think import ThinkRollout

__all__ = [
    "Collection",
    "GreedyBaseline",
    "LookaheadTree",
    "Once",
    "Refill",
    "Rollout",
    "SampleRollout",
    "ThinkRollout",
]
