"""Stages: the loops."""

from fairlead.stages.base import Stage
from fairlead.stages.evaluate import Evaluate
from fairlead.stages.merge import Merge
from fairlead.stages.online import Online
from fairlead.stages.preference import Preference
from fairlead.stages.reward import RewardModel
from fairlead.stages.rounds import PreferenceRounds
from fairlead.stages.safety import Limit, SafetyTest
from fairlead.stages.supervised import Supervised
from fairlead.stages.tokenizer import LearnTokenizer

__all__ = [
    "Evaluate",
    "LearnTokenizer",
    "Limit",
    "Merge",
    "Online",
    "Preference",
    "PreferenceRounds",
    "RewardModel",
    "SafetyTest",
    "Stage",
    "Supervised",
]
