"""Worlds: small places whose true answers are known exactly."""

from fairlead.worlds.cyclic import CyclicOracle, CyclicScore, cyclic_preferences
from fairlead.worlds.digit_sums import DigitSumReward, DigitSums
from fairlead.worlds.drills import DrillReward, Drills
from fairlead.worlds.figures import ExactGap, TokenWorldReward, UnsureReward, exact_figures
from fairlead.worlds.flawed import FlawedReward, HackableReward
from fairlead.worlds.hackable import HackableWorldReward, hackable
from fairlead.worlds.plans import PlanProbability, PlanReward, PlanWorld, plan_of
from fairlead.worlds.token_world import TokenWorld
from fairlead.worlds.turn_game import Echo, TurnGame, TurnGameReward

__all__ = [
    "CyclicOracle",
    "CyclicScore",
    "DigitSumReward",
    "DigitSums",
    "DrillReward",
    "Drills",
    "Echo",
    "ExactGap",
    "FlawedReward",
    "HackableReward",
    "HackableWorldReward",
    "PlanProbability",
    "PlanReward",
    "PlanWorld",
    "TokenWorld",
    "TokenWorldReward",
    "TurnGame",
    "TurnGameReward",
    "UnsureReward",
    "cyclic_preferences",
    "exact_figures",
    "hackable",
    "plan_of",
]
