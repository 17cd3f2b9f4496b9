"""Warnings computed from a run's numbers, each with what to do about it.

Knows: what goes wrong in learning from human feedback, and how it shows.
Does not know: how a page is laid out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fairlead import functional
from fairlead.report.numbers import format_number, format_percent
from fairlead.report.read import Curve, RunData, StageData, mean_of, number

__all__ = ["RULES", "Finding", "findings", "trained_channels"]

TRUNCATED, LENGTH_GROWTH, KL_NATS, ENTROPY_LEFT = 0.20, 0.50, 20.0, 0.30
RULES = {"longer": "longer wins", "shorter": "shorter wins", "bag_of_words": "bag of words"}
CLIPPED, FAILED, CALIBRATION, LENGTH_CORRELATION = 0.30, 0.01, 0.10, 0.50
DEEP, SHORTEST_CURVE = 0.20, 20  # of a shorter curve the first tenth is a single step
REPETITION, EMPTY, VARIETY_LOST = 0.20, 0.02, 0.25


@dataclass(frozen=True)
class Finding:
    """Something a reader should know before trusting the run. `serious` ones put the result in doubt."""

    stage: str
    title: str
    what: str
    remedy: str
    serious: bool = True


def trained_channels(run: RunData) -> list[str]:
    """Names of the rewards that any stage was trained on."""
    names: list[str] = []
    for stage in run.stages:
        rewards = stage.settings.get("rewards")
        names += list(map(str, rewards)) if isinstance(rewards, dict) else []
        names += [name.removeprefix("channel/") for name in stage.names("channel/")]
    return list(dict.fromkeys(names))


def findings(run: RunData) -> list[Finding]:
    """Every warning of a run, serious ones first."""
    found: list[Finding] = []
    trained = trained_channels(run)
    for stage in run.stages:
        told = _warnings(stage)
        titles = {finding.title for finding in told}
        found += told + [finding for finding in _curves(stage) if finding.title not in titles]
        if stage.part == "reward":
            found += _reward_model(stage)
        if stage.channels:
            found += _evaluation(stage, trained)
        if stage.certificate:
            found += _safety(stage)
    return sorted(found, key=lambda finding: not finding.serious)


def _warnings(stage: StageData) -> list[Finding]:
    """What detectors said while the stage ran: one finding for each title, with every step at which it was said."""
    by_title: dict[str, list[dict[str, Any]]] = {}
    for row in stage.warnings:
        by_title.setdefault(str(row.get("title")), []).append(row)
    found = []
    for title, rows in by_title.items():
        steps = ", ".join(str(row.get("step")) for row in rows)
        where = f"At step {steps}" if len(rows) == 1 else f"At steps {steps}; the first time"
        found.append(Finding(stage.id, title, f"{where}: {rows[0].get('what')}", str(rows[0].get("remedy"))))
    return found


def _curves(stage: StageData) -> list[Finding]:
    found = []

    def add(title: str, what: str, remedy: str, serious: bool = True) -> None:
        found.append(Finding(stage.id, title, what, remedy, serious))

    score = stage.curve("score")
    for name in stage.names():
        if name.startswith("monitor/"):
            label, judge = name.removeprefix("monitor/"), stage.curve(name)
            peak = _turned(judge, score)
            if peak is not None:
                add(
                    "The reward is being over-optimised",
                    f"The judge {label} was best around step {peak:.0f} and has fallen since, while the trained reward kept rising.",
                    "Stop earlier, raise the KL coefficient, or strengthen the reward: more data, an ensemble, or a second source of reward.",
                )
        if name.startswith("failed/"):
            curve = stage.curve(name)
            if curve and curve.values.mean() > FAILED:
                add(
                    "Verdicts are missing",
                    f"{name.removeprefix('failed/')} failed on {_percent(float(curve.values.mean()))} of responses; they were left out of the update.",
                    "Look at the run's log for the first error, and at the time limit of the reward.",
                )
    entropy = stage.curve("entropy") or stage.curve("policy/entropy")
    if entropy and entropy.first() > 0.05 and entropy.last() < ENTROPY_LEFT * entropy.first():
        add(
            "Entropy has collapsed",
            f"From {format_number(entropy.first())} to {format_number(entropy.last())} nats per token: the policy hardly varies what it says.",
            "Raise `objective.entropy_coefficient` or the KL coefficient, lower the learning rate, or raise `clip_high`.",
        )
    truncated = stage.curve("truncated")
    if truncated and truncated.last() > TRUNCATED:
        add(
            "Many responses are cut off",
            f"{_percent(truncated.last())} of responses ran into the length limit at the end of the stage.",
            "Raise the rollout's length limit, or give unfinished responses a low score.",
        )
    length = stage.curve("length")
    if length.values.size > 1 and length.first() > 0 and length.last() / length.first() - 1 > LENGTH_GROWTH:
        add(
            "Responses have grown much longer",
            f"From {format_number(length.first())} to {format_number(length.last())} tokens ({_percent(length.last() / length.first() - 1)} more).",
            "Compare length and judge: if only the trained reward likes it, add a length penalty or train the reward on length-balanced pairs.",
        )
    if (
        length.values.size >= SHORTEST_CURVE
        and length.first() > 0
        and functional.length_collapsed(length.values.tolist())
    ):
        add(
            "Responses collapsed at the start",
            f"They fell to {_percent(functional.length_retention(length.values.tolist()))} of their first length at once and did not recover.",
            "See whether the reward likes short answers; begin from a model between the imitations and their base (stage `merge`).",
        )
    rewards = score.values.tolist()
    if len(rewards) >= SHORTEST_CURVE and rewards[-1] > rewards[0]:
        depth, regained = functional.dip_depth(rewards), functional.recovery_step(rewards)
        if regained is not None and DEEP < depth < float("inf"):
            add(
                "The reward fell before it rose",
                f"The fall was {_percent(depth)} of the later rise, and made good after {format_number(float(score.steps[regained]))} steps.",
                "Warm up the critic, lower the learning rate, or begin from a model nearer to the base (stage `merge`).",
                serious=False,
            )
    kl = stage.curve("kl/k1")
    if kl and kl.last() > KL_NATS:
        add(
            "The policy is far from the reference",
            f"{format_number(kl.last())} nats per response at the end; trained rewards are seldom right that far out.",
            "Raise the KL coefficient or give it a target, and lower the learning rate.",
        )
    clipped = stage.curve("policy/clip_fraction")
    if clipped and clipped.last() > CLIPPED:
        add(
            "Most of an update is clipped away",
            f"{_percent(clipped.last())} of tokens were clipped at the end.",
            "Lower the learning rate, or take fewer epochs or minibatches from each rollout.",
        )
    skipped = stage.curve("policy/skipped_steps")
    if skipped and skipped.values.sum() > 0:
        add(
            "Updates were skipped",
            f"At {int((skipped.values > 0).sum())} steps a gradient was not finite and was not applied.",
            "Lower the learning rate, or use float32 where bfloat16 overflows.",
        )
    explained = stage.curve("critic/explained_variance")
    if explained and explained.last() < 0:
        add(
            "The critic is no help",
            f"It explains {format_number(explained.last())} of the returns' variance, less than a constant would.",
            "Train the critic first (`critic_warmup`), raise its learning rate, or use a credit rule without a critic.",
            serious=False,
        )
    for name in ("score", "policy/loss"):
        curve = stage.curve(name)
        if curve.missing:
            add(
                f"{name} is not a number at times",
                f"At {curve.missing} steps {name} was not finite; those points are left out of the charts.",
                "Look at the reward's output at those steps, and at the learning rate.",
            )
    return found


def _reward_model(stage: StageData) -> list[Finding]:
    found: list[Finding] = []
    validation = stage.validation
    low, accuracy = number(validation.get("accuracy_low")), number(validation.get("accuracy"))
    baselines = validation.get("baselines")
    rules = {str(k): v for k, v in baselines.items() if number(v) is not None} if isinstance(baselines, dict) else {}
    if accuracy is not None and low is not None and rules:
        best = max(rules, key=lambda name: rules[name])
        if rules[best] >= low:
            found.append(
                Finding(
                    stage.id,
                    "The reward model is not clearly better than a trivial rule",
                    f"It orders {_percent(accuracy)} of held-out pairs right (at least {_percent(low)}); the rule '{RULES.get(best, best)}' reaches {_percent(rules[best])}.",
                    "More or cleaner pairs, a larger backbone, or more held-out pairs to tell the two apart.",
                )
            )
    error, temperature = number(validation.get("calibration_error")), number(validation.get("temperature"))
    if error is not None and error > CALIBRATION:
        found.append(
            Finding(
                stage.id,
                "The reward model's confidence is off",
                f"Calibration error {_percent(error)}.",
                f"Divide its scores by {format_number(temperature)} before reading them as log-odds; the order of responses stays the same.",
                serious=False,
            )
        )
    correlation = number(validation.get("length_correlation"))
    if correlation is not None and abs(correlation) > LENGTH_CORRELATION:
        found.append(
            Finding(
                stage.id,
                "The reward model follows length",
                f"Rank correlation of score and length: {format_number(correlation)}.",
                "Watch the length during training, add a length penalty, or balance lengths in the pairs.",
            )
        )
    return found


def _evaluation(stage: StageData, trained: list[str]) -> list[Finding]:
    found: list[Finding] = []
    result: dict[str, Any] = stage.result or {}
    models = stage.models
    versus = {channel: entry for channel, entry in stage.versus.items() if isinstance(entry, dict)}
    highs = {channel: number(entry.get("difference_high")) for channel, entry in versus.items()}
    lows = {channel: number(entry.get("difference_low")) for channel, entry in versus.items()}
    better = [c for c, low in lows.items() if c in trained and low is not None and low > 0]
    for channel, high in highs.items():
        if channel not in trained and high is not None and high < 0:
            found.append(
                Finding(
                    stage.id,
                    f"{channel} finds the last model worse than the first",
                    f"Mean difference {format_number(number(versus[channel].get('difference')))}"
                    + (f", although {' and '.join(better)}, which it was trained on, rose." if better else "."),
                    "Read the largest losses; then stop earlier, raise the KL coefficient, or improve the reward.",
                )
            )
    style = result.get("style")
    if isinstance(style, dict) and models and isinstance(style.get(models[-1]), dict):
        last, first = style[models[-1]], style.get(models[0]) or {}
        repetition, empty = number(last.get("self_repetition")), number(last.get("empty"))
        if repetition is not None and repetition > REPETITION:
            found.append(
                Finding(
                    stage.id,
                    "Texts repeat themselves",
                    f"{_percent(repetition)} of three-word phrases have been said before in the same text.",
                    "Lower the learning rate or raise the KL coefficient; check that the reward sees whole responses.",
                )
            )
        if empty is not None and empty > EMPTY:
            found.append(
                Finding(
                    stage.id,
                    "Some responses are empty",
                    f"{_percent(empty)} of the last model's responses hold nothing.",
                    "Score empty responses low, or ask for a minimum length.",
                    serious=False,
                )
            )
        before, after = number(first.get("distinct_2")), number(last.get("distinct_2"))
        if len(models) > 1 and before and after is not None and after < (1 - VARIETY_LOST) * before:
            found.append(
                Finding(
                    stage.id,
                    "Variety has been lost",
                    f"Distinct two-word phrases fell from {_percent(before)} to {_percent(after)}.",
                    "Raise the KL coefficient or the entropy bonus, and look at the texts side by side.",
                )
            )
    for model, entries in stage.channels.items():
        for channel, entry in entries.items() if isinstance(entries, dict) else ():
            if isinstance(entry, dict) and entry.get("failed") and mean_of(entry) is None:
                found.append(
                    Finding(
                        stage.id,
                        f"{channel} judged nothing of {model}",
                        "Every verdict is missing.",
                        "Look at the judge's settings and time limit.",
                    )
                )
    return found


def _safety(stage: StageData) -> list[Finding]:
    """What keeps a test of safety from being a certificate."""
    found: list[Finding] = []
    limits = stage.certificate.get("limits")
    failed = {
        name: entry for name, entry in (limits if isinstance(limits, dict) else {}).items() if not entry.get("passed")
    }
    if failed:
        told = [
            f"{name}: the bound is {format_number(number(entry.get('U')))} and may be {format_number(number(entry.get('d')))}"
            + (f", {entry['missing']} of {entry.get('n')} costs are missing" if entry.get("missing") else "")
            for name, entry in failed.items()
        ]
        found.append(
            Finding(
                stage.id,
                "No solution found: the policy has not been shown to be safe",
                "; ".join(told) + ".",
                "Train under a more cautious constraint (`high-confidence` with larger factors) and test on prompts that are new.",
            )
        )
    independence = stage.certificate.get("independence")
    shared = independence.get("prompts_read_by_earlier_stages") if isinstance(independence, dict) else None
    seen = {name: count for name, count in (shared if isinstance(shared, dict) else {}).items() if count}
    if seen:
        found.append(
            Finding(
                stage.id,
                "The test of safety used prompts that were seen before",
                ", ".join(f"{count} of them by stage {name}" for name, count in seen.items())
                + "; its error rate holds only if they are new draws from the same prompts.",
                "Keep prompts for the test alone.",
            )
        )
    return found


def _turned(judge: Curve, proxy: Curve) -> float | None:
    """The step around which the judge was best, if it has fallen since by more than chance while the proxy rose."""
    if judge.values.size < 8 or proxy.values.size < 8:
        return None
    quarters = np.array_split(np.arange(judge.values.size), 4)
    means = [float(judge.values[q].mean()) for q in quarters]
    errors = [float(judge.values[q].std(ddof=1)) / math.sqrt(q.size) for q in quarters]
    best = int(np.argmax(means))
    if best == 3 or means[best] - means[3] <= 2 * math.hypot(errors[best], errors[3]):
        return None
    middle = float(judge.steps[quarters[best]].mean())
    until, since = proxy.steps <= judge.steps[quarters[best]][-1], proxy.steps >= judge.steps[quarters[3]][0]
    around = until & (proxy.steps >= judge.steps[quarters[best]][0])
    if not around.any() or not since.any() or proxy.values[since].mean() <= proxy.values[around].mean():
        return None
    return middle


def _percent(share: float) -> str:
    return format_percent(share, 0 if share >= 0.1 else 1)
