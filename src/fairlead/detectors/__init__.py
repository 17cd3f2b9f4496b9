"""Detectors: what watches a run of online learning while it goes on."""

from fairlead.detectors.base import Alarm, Detector, raised
from fairlead.detectors.course import (
    DeadGradients,
    EntropyCollapse,
    KLBlowUp,
    LengthHacking,
    Repetition,
    RewardSpike,
    ValueDrift,
)
from fairlead.detectors.defaults import DEFAULTS, Detectors, default_detectors
from fairlead.detectors.rollback import Rollback
from fairlead.detectors.threshold import Threshold

__all__ = [
    "DEFAULTS",
    "Alarm",
    "DeadGradients",
    "Detector",
    "Detectors",
    "EntropyCollapse",
    "KLBlowUp",
    "LengthHacking",
    "Repetition",
    "RewardSpike",
    "Rollback",
    "Threshold",
    "ValueDrift",
    "default_detectors",
    "raised",
]
