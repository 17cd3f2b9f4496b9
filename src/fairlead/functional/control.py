"""Controllers: when, and how hard, a policy is pulled back to its reference.

Knows plain numbers, one of each a step. Does not know batches, policies or losses.

Source: SAFE (arXiv 2602.04651) and its released code; the constants are those of the code and suit rewards between 0 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from fairlead.functional._checks import require_positive

__all__ = ["Velocity", "entropy_gate", "excess_penalty", "kl_threshold", "training_phase"]

PHASES = {"warmup": 1.5, "climbing": 1.2, "converged": 1.0, "plateau": 0.8}
"""Factor of the threshold in each phase."""


@dataclass(frozen=True)
class Velocity:
    """PID control of how fast the smoothed reward rises."""

    smoothed: float | None = None
    """Exponential mean of the reward; None before the first."""
    integral: float = 0.0
    error: float = 0.0
    output: float = 0.0
    """What to add to a threshold: positive where the reward rises faster than it should."""

    def observe(
        self, reward: float, gains: tuple[float, float, float], target: float = 0.001, keep: float = 0.95
    ) -> Velocity:
        """The state after another reward.

        The error is the rise of the smoothed reward less `target`; the output sums it, its integral (kept in ±1) and its change by the
        gains (proportional, integral, derivative). The first reward only begins the mean.
        """
        if self.smoothed is None:
            return replace(self, smoothed=reward, output=0.0)
        smoothed = keep * self.smoothed + (1 - keep) * reward
        error = smoothed - self.smoothed - target
        integral = min(max(self.integral + error, -1.0), 1.0)
        output = gains[0] * error + gains[1] * integral + gains[2] * (error - self.error)
        return Velocity(smoothed, integral, error, output)


def training_phase(
    rewards: Sequence[float], window: int = 50, rise: float = 0.01, still: float = 0.02, high: float = 0.7
) -> str:
    """ "warmup", "climbing", "converged" or "plateau", from the rewards so far.

    Fewer than `window` rewards are warm-up. With m the mean of the last `window` and m' that of as many before them (m where there are
    not): climbing where m > m' + rise; converged where the last ones spread by less than `still` (n − 1) and m > high; else plateau.

    Raises: ValueError when window is below 2.
    """
    if window < 2:
        raise ValueError(f"window must be at least 2, got {window}")
    if len(rewards) < window:
        return "warmup"
    last = rewards[-window:]
    mean = fmean(last)
    before = fmean(rewards[-2 * window : -window]) if len(rewards) >= 2 * window else mean
    if mean > before + rise:
        return "climbing"
    return "converged" if stdev(last) < still and mean > high else "plateau"


def kl_threshold(base: float, adjustment: float, factor: float, low: float = 0.1, high: float = 0.6) -> float:
    """(base + adjustment) · factor, kept between low and high: the KL below which nothing pulls."""
    return min(max((base + adjustment) * factor, low), high)


def entropy_gate(entropy: float, target: float, floor: float = 0.5) -> float:
    """target / (entropy + 0.1), at least `floor`: a policy that hardly varies what it says is pulled harder.

    Raises: ValueError when target is not positive. `entropy` below 0 counts as 0.
    """
    require_positive("target", target)
    return max(floor, target / (max(entropy, 0.0) + 0.1))


def excess_penalty(kl: float, threshold: float, coefficient: float, gate: float = 1.0) -> tuple[float, float]:
    """Penalty c·(k − τ)²·g above the threshold and 0 below, and its derivative in k, 2c·(k − τ)₊·g."""
    excess = max(kl - threshold, 0.0)
    return coefficient * excess**2 * gate, 2 * coefficient * excess * gate
