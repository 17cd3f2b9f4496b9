"""The detectors that watch a stage unless its recipe says otherwise.

Knows: names and settings.
Does not know: how anything is detected.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator

from fairlead.detectors.base import Detector
from fairlead.detectors.course import (
    DeadGradients,
    EntropyCollapse,
    KLBlowUp,
    LengthHacking,
    Repetition,
    RewardSpike,
    ValueDrift,
)
from fairlead.detectors.threshold import Threshold

__all__ = ["DEFAULTS", "Detectors", "default_detectors"]

_FAILED = "Look at the run's log for the first error, at the reward's time limit, and whether the judge is up."
_CUT_OFF = "Raise the rollout's length limit, or give unfinished responses a low score (`missing-end`, `overlong`)."
_EMPTY = "Score empty responses low, set `sampling.minimum_tokens`, or raise the KL coefficient."
_SKIPPED = "Lower the learning rate, look for extreme rewards or advantages, or use float32 where bfloat16 overflows."

DEFAULTS: dict[str, dict[str, Any]] = {
    "entropy-collapse": EntropyCollapse().model_dump(),
    "kl-blow-up": KLBlowUp().model_dump(),
    "length-hacking": LengthHacking().model_dump(),
    "repetition": Repetition().model_dump(),
    "reward-spike": RewardSpike().model_dump(),
    "dead-gradients": DeadGradients().model_dump(),
    "value-drift": ValueDrift().model_dump(),
    "missing-verdicts": Threshold(
        metric="failed/*", above=0.05, window=1, title="Verdicts are missing", remedy=_FAILED
    ).model_dump(),
    "skipped-steps": Threshold(
        metric="*/skipped_steps", above=0, window=1, title="Updates were skipped", remedy=_SKIPPED
    ).model_dump(),
    "truncation": Threshold(
        metric="truncated", above=0.9, window=3, title="Many responses are cut off", remedy=_CUT_OFF
    ).model_dump(),
    "empty-responses": Threshold(
        metric="empty", above=0.5, window=3, title="Many responses are empty", remedy=_EMPTY
    ).model_dump(),
}
"""Name → part and settings of every detector that is on by default."""


def default_detectors() -> dict[str, Detector | None]:
    """New detectors with the settings of `DEFAULTS`."""
    return {name: Detector.resolve(settings) for name, settings in DEFAULTS.items()}


def _with_defaults(value: Any) -> Any:
    """What a recipe says laid over the defaults: settings change one, null switches one off, other names are added."""
    if value is None:
        return dict.fromkeys(DEFAULTS)
    if not isinstance(value, dict):
        return value
    merged: dict[str, Any] = dict(DEFAULTS)
    for name, own in value.items():
        known = DEFAULTS.get(name)
        if known is not None and isinstance(own, dict) and own.get("part", known["part"]) == known["part"]:
            own = known | own
        merged[name] = own
    return merged


Detectors = Annotated[dict[str, Detector | None], BeforeValidator(_with_defaults)]
"""Detectors by name in a recipe. A name of `DEFAULTS` needs only the settings that differ."""
