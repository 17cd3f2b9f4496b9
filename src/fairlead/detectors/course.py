"""What goes wrong in learning from reward, seen in the course of a run.

Knows: the metrics of the online stage and the experience of a step.
Does not know: what becomes of an alarm.
"""

from __future__ import annotations

import math
from statistics import fmean, median

from pydantic import Field

from fairlead import functional
from fairlead.batch import Experience
from fairlead.detectors.base import Alarm, Detector

__all__ = [
    "DeadGradients",
    "EntropyCollapse",
    "KLBlowUp",
    "LengthHacking",
    "Repetition",
    "RewardSpike",
    "ValueDrift",
]

_MAD = 1.4826  # standard deviations in a median absolute deviation of normal numbers


class EntropyCollapse(Detector, name="entropy-collapse"):
    """The policy hardly varies what it says: entropy has fallen to a small share of that of the first rollout.

    Source: Cui et al. 2025 (arXiv 2505.22617), section 2: reward is bought with entropy, and ends where that is used up.
    """

    left: float = Field(0.2, gt=0, lt=1, description="share of the first rollout's entropy that must be left")

    def look(self, metrics: dict[str, float], experience: Experience) -> Alarm | None:
        entropy = metrics.get("policy/entropy", math.nan)
        if not math.isfinite(entropy):
            return None
        before, now = self.at_first("entropy", entropy), self.mean("entropy", entropy)
        if now is None or now >= self.left * before:
            return None
        return Alarm(
            "Entropy has collapsed",
            f"From {before:.3g} to {now:.3g} nats per token: the policy hardly varies what it says.",
            "Raise `objective.entropy_coefficient` or the KL coefficient, lower the learning rate, or raise `clip_high`.",
        )


class KLBlowUp(Detector, name="kl-blow-up"):
    """The policy runs away from the reference: a large KL, one that grows by leaps, or one update that moves too far.

    Source: Zheng et al. 2023 (PPO-max, arXiv 2307.04964), section 5.2: the KL shows a collapse that reward and loss do not.
    """

    limit: float | None = Field(20.0, gt=0, description="mean KL to the reference, nats per response; null: no limit")
    growth: float = Field(4.0, gt=1, description="times the mean of the window before")
    least: float = Field(6.0, ge=0, description="nats per response below which growth does not count")
    update_limit: float = Field(
        0.2, gt=0, description="mean KL from the old policy within the update, nats per token (`policy/old_kl`)"
    )

    def look(self, metrics: dict[str, float], experience: Experience) -> Alarm | None:
        found = []
        kl, moved = metrics.get("kl/k1", math.nan), metrics.get("policy/old_kl", math.nan)
        if math.isfinite(kl):
            values = self.recent("kl", kl, 2 * self.window)
            now = fmean(values[-self.window :])
            if self.limit is not None and len(values) >= self.window and now > self.limit:
                found.append(f"The policy is {now:.3g} nats per response from the reference")
            elif len(values) == 2 * self.window:
                before = fmean(values[: self.window])
                if now > max(self.growth * before, self.least):
                    found.append(f"The KL to the reference leapt from {before:.3g} to {now:.3g} nats per response")
        if math.isfinite(moved):
            steps = self.recent("moved", moved)
            if len(steps) == self.window and fmean(steps) > self.update_limit:
                found.append(f"Updates move the policy by {fmean(steps):.3g} nats per token")
        if not found:
            return None
        return Alarm(
            "The KL is blowing up",
            "; ".join(found) + ".",
            "Raise the KL coefficient or give it a target, lower the learning rate, take fewer epochs or set `objective.target_kl`.",
        )


class LengthHacking(Detector, name="length-hacking"):
    """Responses have grown much longer, and longer ones score higher: the reward may be paying for length.

    Source: Singhal et al. 2023 (arXiv 2310.03716), section 3: much of what RLHF gains is length.
    """

    growth: float = Field(0.5, gt=0, description="growth over the mean length of the first rollout, as a share of it")
    correlation: float = Field(
        0.3, ge=0, le=1, description="mean correlation of length and score within the rollouts so far"
    )

    def look(self, metrics: dict[str, float], experience: Experience) -> Alarm | None:
        lengths, counted = experience.mask.sum(1).double(), experience.weight > 0
        if not bool(counted.any()):
            return None
        length = float(lengths[counted].mean())
        before, now = self.at_first("length", length), self.mean("length", length)
        within = math.nan
        if int(counted.sum()) > 1:
            within = functional.pearson(lengths[counted].numpy(), experience.score[counted].double().numpy())
        if math.isfinite(within):  # where all lengths or scores are equal there is nothing to correlate
            count, total = self._memory.get("correlations", [0.0, 0.0])
            self._memory["correlations"] = [count + 1, total + within]
        count, total = self._memory.get("correlations", [0.0, 0.0])
        if now is None or now <= (1 + self.growth) * before or total <= self.correlation * max(count, 1):
            return None
        return Alarm(
            "Length is being rewarded",
            f"Responses grew from {before:.3g} to {now:.3g} tokens, and within a rollout length and score correlate with "
            f"{total / count:.2f}.",
            "Compare length and judge: if only the trained reward likes it, add a length penalty (`overlong`, reward `length`) or train "
            "the reward on length-balanced pairs.",
        )


class Repetition(Detector, name="repetition"):
    """Responses say the same again and again: many n-grams of tokens have occurred before in the same response.

    Source: Welleck et al. 2020 (arXiv 1908.04319), section 6: seq-rep-n, the share of repeated n-grams.
    """

    n: int = Field(4, ge=1, description="tokens of an n-gram")
    share: float = Field(0.3, gt=0, le=1, description="share of repeated n-grams that is too much")
    growth: float = Field(0.15, ge=0, le=1, description="by how much it must also exceed the share at first")

    def look(self, metrics: dict[str, float], experience: Experience) -> Alarm | None:
        share = float(functional.repeated_ngrams(experience.tokens, experience.mask, self.n).mean())
        before, now = self.at_first("share", share), self.mean("share", share)
        if now is None or now <= max(self.share, before + self.growth):
            return None
        return Alarm(
            "Texts repeat themselves",
            f"{now:.0%} of runs of {self.n} tokens have been said before in the same response; at first it was {before:.0%}.",
            "Raise the KL coefficient, lower the learning rate, add the reward `repetition`, and check that the reward sees whole responses.",
        )


class RewardSpike(Detector, name="reward-spike"):
    """A reward leaps, up or down, within one step: far outside its recent course and by more than responses differ.

    Up is often an exploit that has been found, down a policy that has broken or a judge that answers otherwise.

    Source: the median and the median absolute deviation as a test for outliers are Hampel 1974.
    """

    window: int = Field(10, ge=3, description="steps that the reward is compared with")
    deviations: float = Field(
        6.0, gt=0, description="robust standard deviations from the median, sampling error included"
    )
    spreads: float = Field(
        1.0,
        ge=0,
        description="by how many standard deviations of the responses of a rollout, at first or lately, it must also leap",
    )

    def look(self, metrics: dict[str, float], experience: Experience) -> Alarm | None:
        found = []
        for name, channel in sorted(experience.channels.items()):
            known = channel[channel.isfinite()].double()
            if known.numel() < 2:
                continue
            mean, spread = float(known.mean()), float(known.std())
            course = list(self._memory.get(name, []))
            spreads = list(self._memory.get(f"{name} spread", []))
            self.recent(name, mean)
            self.recent(f"{name} spread", spread)
            at_first = self.at_first(f"{name} spread", spread)
            if len(course) < self.window:
                continue
            middle, usual = median(course), median(spreads)
            noise = math.hypot(_MAD * median(abs(value - middle) for value in course), usual / known.numel() ** 0.5)
            leap = abs(mean - middle)
            if leap > self.deviations * noise and leap > self.spreads * max(usual, at_first) and leap > 0:
                found.append(f"{name} leapt from {middle:.3g} to {mean:.3g}")
        if not found:
            return None
        return Alarm(
            "A reward has leapt",
            "; ".join(found) + ".",
            "Read this step's samples: is it an exploit, a broken judge, or a jump of the policy? Then mend the reward, cut the score "
            "(`clip`), or lower the learning rate.",
        )


class DeadGradients(Detector, name="dead-gradients"):
    """The policy learns nothing any more: gradients have vanished, or advantages are all zero.

    Source: Yu et al. 2025 (DAPO, arXiv 2503.14476), section 3.2: groups of equal rewards have no gradient.
    """

    share: float = Field(1e-3, ge=0, lt=1, description="share of the first gradient's norm that must be left")
    flat: float = Field(0.95, gt=0, le=1, description="share of responses without advantage that is too much")

    def look(self, metrics: dict[str, float], experience: Experience) -> Alarm | None:
        norm = metrics.get("policy/gradient_norm")
        if norm is None or metrics.get("policy/skipped_steps", 0.0) > 0:
            return None  # the critic's warm-up; a step that was not finite is another matter
        before, norms = self.at_first("norm", norm), self.recent("norm", norm)
        flats = self.recent("flat", metrics.get("zero_advantages", 0.0))
        if len(norms) < self.window:
            return None
        if min(flats) >= self.flat:
            what = f"{min(flats):.0%} of the responses or more have no advantage, for {self.window} steps"
        elif max(norms) <= self.share * before:
            what = f"The gradient's norm is at most {max(norms):.2g}, for {self.window} steps"
        else:
            return None
        return Alarm(
            "Gradients are dead",
            what + ".",
            "Take prompts that are neither solved nor hopeless (collection `refill`, selection `drop-flat-groups`), more samples of each, "
            "or a reward that tells responses apart; where verdicts fail, mend the judge.",
        )


class ValueDrift(Detector, name="value-drift"):
    """The critic's values have left the returns: their error is larger than the returns' own spread explains.

    The fit is 1 − E[(return − value)²] / Var[return]: 1 is perfect, 0 as good as the mean, and unlike explained variance it also
    falls when all values are off by the same amount.

    Source: the coefficient of determination; of a critic, Andrychowicz et al. 2021 (arXiv 2006.05990) watch its error.
    """

    window: int = Field(10, ge=1, description="steps over which the mean is taken")
    fit: float = Field(-1.0, lt=1, description="mean fit that must be reached")
    after: int = Field(20, ge=0, description="steps in which the critic may find its way")

    def look(self, metrics: dict[str, float], experience: Experience) -> Alarm | None:
        if experience.values is None or experience.returns is None:
            return None
        counted = experience.mask & (experience.weight > 0)[:, None]
        fit = functional.goodness_of_fit(experience.values, experience.returns, counted)
        seen = self.recent("steps", 1 + (self._memory.get("steps") or [0.0])[-1], 1)[0]
        if not math.isfinite(fit):
            return None
        fits = self.recent("fit", fit)
        if seen <= self.after or len(fits) < self.window or fmean(fits) >= self.fit:
            return None
        return Alarm(
            "The critic has drifted",
            f"Its squared error is {1 - fmean(fits):.3g} times the variance of the returns (1 is that of a constant).",
            "Lower the critic's learning rate, train it first (`critic_warmup`), keep scores on one scale (`normalise`), or use a credit "
            "rule without a critic.",
        )
