"""Rewards: sources of judgement."""

from fairlead.rewards.base import Reward, combine
from fairlead.rewards.function import FunctionReward
from fairlead.rewards.model import ModelReward
from fairlead.rewards.preference import FunctionOracle, Oracle, RewardOracle, WinRate
from fairlead.rewards.rules import CheckReward, LengthReward, MustInclude, RepetitionPenalty, passes_check

__all__ = [
    "CheckReward",
    "FunctionOracle",
    "FunctionReward",
    "LengthReward",
    "ModelReward",
    "MustInclude",
    "Oracle",
    "RepetitionPenalty",
    "Reward",
    "RewardOracle",
    "WinRate",
    "combine",
    "passes_check",
]
