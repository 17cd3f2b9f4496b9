"""Rollouts: how a policy is asked for responses."""

from fairlead.rollouts.base import Rollout
from fairlead.rollouts.collection import Collection, Lagged, Once, Refill
from fairlead.rollouts.sample import GreedyBaseline, SampleRollout

__all__ = ["Collection", "GreedyBaseline", "Lagged", "Once", "Refill", "Rollout", "SampleRollout"]
