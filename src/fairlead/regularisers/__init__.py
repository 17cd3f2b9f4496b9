"""Regularisers: how far the policy may move from its reference."""

from fairlead.regularisers.base import Regulariser
from fairlead.regularisers.kl import KL, AdaptiveTarget

__all__ = ["KL", "AdaptiveTarget", "Regulariser"]
