"""Rewards: sources of judgement."""

from fairlead.rewards.answer import AnswerReward
from fairlead.rewards.base import Reward, combine
from fairlead.rewards.cosine import CosineVerifier, VerdictReward
from fairlead.rewards.function import FunctionReward
from fairlead.rewards.judges import Judge, Judges
from fairlead.rewards.model import ModelReward, QuestionReward
from fairlead.rewards.patches import PatchReward
from fairlead.rewards.pooled import PooledReward
from fairlead.rewards.preference import FunctionOracle, ModelOracle, Oracle, RewardOracle, WinRate
from fairlead.rewards.rules import CheckReward, LengthReward, MixedScripts, MustInclude, RepetitionPenalty
from fairlead.rewards.tasks import RewardByTask
from fairlead.rewards.verify import (
    CodeTestsReward,
    ExactReward,
    InstructionsReward,
    JsonReward,
    MathReward,
    RegexReward,
)

__all__ = [
    "AnswerReward",
    "CheckReward",
    "CodeTestsReward",
    "CosineVerifier",
    "ExactReward",
    "FunctionOracle",
    "FunctionReward",
    "InstructionsReward",
    "JsonReward",
    "Judge",
    "Judges",
    "LengthReward",
    "MathReward",
    "MixedScripts",
    "ModelOracle",
    "ModelReward",
    "MustInclude",
    "Oracle",
    "PatchReward",
    "PooledReward",
    "QuestionReward",
    "RegexReward",
    "RepetitionPenalty",
    "Reward",
    "RewardByTask",
    "RewardOracle",
    "VerdictReward",
    "WinRate",
    "combine",
]
