"""Worlds: small places whose true answers are known exactly."""

from fairlead.worlds.cyclic import CyclicOracle, cyclic_preferences
from fairlead.worlds.digit_sums import DigitSumReward, DigitSums
from fairlead.worlds.drills import DrillReward, Drills
from fairlead.worlds.figures import ExactGap, TokenWorldReward, UnsureReward, exact_figures
from fairlead.worlds.flawed import FlawedReward
from fairlead.worlds.plans import PlanProbability, PlanReward, PlanWorld, plan_of
from fairlead.worlds.token_world import TokenWorld

__all__ = [
    "CyclicOracle",
    "DigitSumReward",
    "DigitSums",
    "DrillReward",
    "Drills",
    "ExactGap",
    "FlawedReward",
    "PlanProbability",
    "PlanReward",
    "PlanWorld",
    "TokenWorld",
    "TokenWorldReward",
    "UnsureReward",
    "cyclic_preferences",
    "exact_figures",
    "plan_of",
]
