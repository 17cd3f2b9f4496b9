"""Rewards: sources of judgement."""

from fairlead.rewards.base import Reward, combine
from fairlead.rewards.function import FunctionReward
from fairlead.rewards.model import ModelReward
from fairlead.rewards.rules import CheckReward, LengthReward, MustInclude, RepetitionPenalty, passes_check

__all__ = [
    "CheckReward",
    "FunctionReward",
    "LengthReward",
    "ModelReward",
    "MustInclude",
    "RepetitionPenalty",
    "Reward",
    "combine",
    "passes_check",
]
