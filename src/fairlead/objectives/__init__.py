"""Objectives: the losses of policies, critics, reward models and imitation."""

from fairlead.objectives.base import Objective
from fairlead.objectives.policy import CISPO, FilteredNLL, Mismatch, PolicyGradient, PolicyObjective, PPOClip
from fairlead.objectives.preference import (
    DPO,
    INPO,
    REBEL,
    BradleyTerry,
    CostModel,
    PreferenceObjective,
    RewardObjective,
)
from fairlead.objectives.supervised import NegativeLogLikelihood, SupervisedObjective
from fairlead.objectives.trunk import OneTrunk
from fairlead.objectives.value import ValueClip, ValueHuber, ValueObjective

__all__ = [
    "CISPO",
    "DPO",
    "INPO",
    "REBEL",
    "BradleyTerry",
    "CostModel",
    "FilteredNLL",
    "Mismatch",
    "NegativeLogLikelihood",
    "Objective",
    "OneTrunk",
    "PPOClip",
    "PolicyGradient",
    "PolicyObjective",
    "PreferenceObjective",
    "RewardObjective",
    "SupervisedObjective",
    "ValueClip",
    "ValueHuber",
    "ValueObjective",
]
