"""Regularisers: how far the policy may move from its reference."""

from fairlead.regularisers.base import Regulariser
from fairlead.regularisers.kl import KL, AdaptiveTarget
from fairlead.regularisers.threshold import EntropyGate, RewardVelocity, ThresholdKL, TrainingPhase

__all__ = ["KL", "AdaptiveTarget", "EntropyGate", "Regulariser", "RewardVelocity", "ThresholdKL", "TrainingPhase"]
