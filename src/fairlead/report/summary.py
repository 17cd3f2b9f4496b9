"""What a run comes to, in a handful of figures.

Knows: which numbers a newcomer asks for first.
Does not know: how they are laid out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fairlead.report.findings import RULES, findings, trained_channels
from fairlead.report.numbers import format_number, format_percent, format_seconds
from fairlead.report.read import RunData, StageData, mean_of, number, read_run

__all__ = ["Card", "cards", "headline", "measures"]


@dataclass(frozen=True)
class Card:
    """One headline figure. `value` may hold an arrow between before and after; `shares` is a little bar of the whole."""

    label: str
    value: str
    detail: str = ""
    tone: str = ""
    """good, bad, or nothing."""
    shares: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Measure:
    """A number by which runs are compared; `better` is 1 when more is better, −1 when less is, 0 when neither."""

    stage: str
    name: str
    value: float
    better: int = 0
    percent: bool = False


def headline(run_directory: Path) -> dict[str, str | float]:
    """The headline figures of a run as label → text, and `warnings` → how many there are."""
    run = read_run(run_directory)
    lines: dict[str, str | float] = {}
    for card in cards(run):
        lines[card.label] = f"{card.value}  ({card.detail})" if card.detail else card.value
    count = len(findings(run))
    if count:
        lines["warnings"] = float(count)
    return lines


def cards(run: RunData) -> list[Card]:
    """The headline figures that this run has, in the order of its stages' meaning."""
    found: list[Card] = []
    for stage in run.stages:
        if stage.part == "reward":
            found += _reward_card(stage)
    for stage in run.stages:
        loss = number(stage.validation.get("bits_per_byte"))
        if loss is not None:
            perplexity = number(stage.validation.get("perplexity"))
            found.append(
                Card(
                    f"{stage.id}: held-out text",
                    f"{format_number(loss)} bits/byte",
                    f"perplexity {format_number(perplexity)}",
                )
            )
        accuracy = number(stage.validation.get("accuracy"))
        if stage.part == "preference" and accuracy is not None:
            margin = number(stage.validation.get("margin"))
            detail = f"margin {format_number(margin)}" if margin is not None else ""
            found.append(
                Card(
                    f"{stage.id}: held-out pairs", format_percent(accuracy), detail, "good" if accuracy > 0.5 else "bad"
                )
            )
    for stage in run.stages:
        found += _certificate_card(stage)
    evaluation = next((s for s in reversed(run.stages) if s.channels), None)
    online = next((s for s in reversed(run.stages) if s.curve("score")), None)
    if evaluation is not None:
        found += _evaluation_cards(evaluation, trained_channels(run))
    elif online is not None:
        found += _online_cards(online)
    distance = _distance(evaluation, online)
    if distance is not None:
        found.append(
            Card("KL from the start", f"{format_number(distance)} nats", "per response", "bad" if distance > 20 else "")
        )
    found += _length_card(evaluation, online)
    found += _time_card(run)
    return found


def _reward_card(stage: StageData) -> list[Card]:
    accuracy = number(stage.validation.get("accuracy"))
    if accuracy is None:
        return []
    low, high = number(stage.validation.get("accuracy_low")), number(stage.validation.get("accuracy_high"))
    baselines = stage.validation.get("baselines")
    rules = {str(k): number(v) for k, v in baselines.items()} if isinstance(baselines, dict) else {}
    known = {name: value for name, value in rules.items() if value is not None}
    shown = [
        f"{RULES.get(name, name)} {format_percent(value)}"
        for name, value in known.items()
        if value >= 0.5 or name == "bag_of_words"
    ]
    tone = "" if low is None or not known else ("good" if low > max(known.values()) else "bad")
    interval = f" ± {(high - low) * 50:.1f}" if low is not None and high is not None else ""
    return [
        Card(f"Reward model accuracy: {stage.id}", f"{accuracy * 100:.1f}{interval}\u00a0%", ", ".join(shown), tone)
    ]


def _certificate_card(stage: StageData) -> list[Card]:
    """The outcome of a test of safety, and for each limit the bound beside what it may be."""
    if not stage.certificate:
        return []
    limits = stage.certificate.get("limits")
    details = [
        f"{name}: U {format_number(number(entry.get('U')))}, limit {format_number(number(entry.get('d')))}"
        for name, entry in (limits if isinstance(limits, dict) else {}).items()
    ]
    outcome = str(stage.certificate.get("outcome"))
    risk = f"δ {format_number(number(stage.certificate.get('delta')))}"
    return [
        Card(f"Safety: {stage.id}", outcome, ", ".join([risk, *details]), "good" if outcome == "returned" else "bad")
    ]


def _evaluation_cards(stage: StageData, trained: list[str]) -> list[Card]:
    channels, models = stage.channels, stage.models
    first, last = channels.get(models[0]) or {}, channels.get(models[-1]) or {}
    found = []
    for channel in sorted(last, key=lambda name: name in trained):
        before, after = mean_of(first.get(channel)), mean_of(last.get(channel))
        kind = "Trained reward" if channel in trained else "Judge"
        if after is None:
            continue
        if len(models) == 1 or before is None:
            found.append(Card(f"{kind}: {channel}", format_number(after), f"mean of {models[-1]}"))
            continue
        entry = stage.versus.get(channel) or {}
        low, high = number(entry.get("difference_low")), number(entry.get("difference_high"))
        rate = number(entry.get("win_rate"))
        details = []
        if low is not None and high is not None:
            details.append(f"gain {_signed(after - before)} [{_signed(low)} to {_signed(high)}]")
        if rate is not None:
            details.append(f"wins {format_percent(rate)}")
        tone = "good" if low is not None and low > 0 else ("bad" if high is not None and high < 0 else "")
        if channel in trained:
            tone = ""  # what was trained on should rise; that alone is neither good nor bad
        found.append(Card(f"{kind}: {channel}", _arrow(before, after), ", ".join(details), tone))
    return found[:6]


def _online_cards(stage: StageData) -> list[Card]:
    """Without an evaluation: the first and the last tenth of the training steps."""
    found = []
    for name in [*stage.names("monitor/"), "score"]:
        curve = stage.curve(name)
        if not curve:
            continue
        label = "Trained reward" if name == "score" else f"Judge: {name.removeprefix('monitor/')}"
        value = _arrow(curve.first(), curve.last())
        found.append(Card(label, value, f"during {stage.id}, first and last tenth", ""))
    return found


def _distance(evaluation: StageData | None, online: StageData | None) -> float | None:
    if evaluation is not None:
        distances, models = (evaluation.result or {}).get("distances"), evaluation.models
        if isinstance(distances, dict) and len(models) > 1 and isinstance(distances.get(models[-1]), dict):
            found = number(distances[models[-1]].get("kl_k1"))
            if found is not None:
                return found
    kl = online.curve("kl/k1") if online is not None else None
    return kl.last() if kl else None


def _length_card(evaluation: StageData | None, online: StageData | None) -> list[Card]:
    style = (evaluation.result or {}).get("style") if evaluation is not None else None
    if isinstance(style, dict) and evaluation is not None:
        models = evaluation.models
        before = number((style.get(models[0]) or {}).get("mean_words"))
        after = number((style.get(models[-1]) or {}).get("mean_words"))
        if before is not None and after is not None and len(models) > 1:
            return [_change("Response length", before, after, "words")]
    length = online.curve("length") if online is not None else None
    return [_change("Response length", length.first(), length.last(), "tokens")] if length else []


def _change(label: str, before: float, after: float, unit: str) -> Card:
    growth = after / before - 1 if before else 0.0
    detail = f"{unit}, {'+' if growth >= 0 else '−'}{abs(growth) * 100:.0f}\u00a0%"
    return Card(label, _arrow(before, after), detail, "bad" if growth > 0.5 else "")


def _time_card(run: RunData) -> list[Card]:
    by_stage = [(stage.id, stage.seconds) for stage in run.stages if stage.seconds]
    if not by_stage:
        return []
    total = sum(seconds or 0.0 for _, seconds in by_stage)
    phases: dict[str, float] = {}
    for stage in run.stages:
        for name in stage.phases():
            phase = name.removeprefix("seconds/")
            phases[phase] = phases.get(phase, 0.0) + float(stage.curve(name).values.sum())
    rest = total - sum(phases.values())
    if phases and rest > 0.01 * total:
        phases["other"] = rest
    shares = tuple(
        (name, seconds / max(total, sum(phases.values()))) for name, seconds in phases.items() if seconds > 0
    )
    detail = ", ".join(f"{name} {format_seconds(seconds)}" for name, seconds in by_stage[:6])
    return [Card("Wall time", format_seconds(total), detail, "", shares)]


def measures(run: RunData) -> list[Measure]:
    """The numbers by which this run is compared with others."""
    found: list[Measure] = []

    def add(stage: StageData, name: str, value: float | None, better: int = 0, percent: bool = False) -> None:
        if value is not None:
            found.append(Measure(stage.id, name, value, better, percent))

    trained = trained_channels(run)
    for stage in run.stages:
        validation, result = stage.validation, stage.result or {}
        add(stage, "held-out accuracy", number(validation.get("accuracy")), 1, percent=True)
        baselines = validation.get("baselines")
        for rule, value in (baselines if isinstance(baselines, dict) else {}).items():
            add(stage, f"rule: {RULES.get(rule, rule)}", number(value), percent=True)
        add(stage, "calibration error", number(validation.get("calibration_error")), -1, percent=True)
        add(stage, "held-out bits per byte", number(validation.get("bits_per_byte")), -1)
        if number(validation.get("bits_per_byte")) is None:
            add(stage, "held-out loss", number(validation.get("loss")), -1)
        limits = stage.certificate.get("limits")
        for limit, entry in (limits if isinstance(limits, dict) else {}).items():
            add(stage, f"bound of {limit}", number(entry.get("U")), -1)
        models = stage.models
        if stage.channels:
            for channel, entry in (stage.channels.get(models[-1]) or {}).items():
                kind = "trained reward" if channel in trained else "judge"
                if len(models) > 1:
                    first = (stage.channels.get(models[0]) or {}).get(channel)
                    add(stage, f"{kind} {channel}, {models[0]}", mean_of(first))
                add(stage, f"{kind} {channel}", mean_of(entry), 1)
                add(
                    stage,
                    f"win rate by {channel}",
                    number((stage.versus.get(channel) or {}).get("win_rate")),
                    1,
                    percent=True,
                )
            distances = result.get("distances")
            if isinstance(distances, dict) and len(models) > 1:
                add(stage, "KL (nats)", number((distances.get(models[-1]) or {}).get("kl_k1")))
            style = (result.get("style") or {}).get(models[-1]) or {}
            add(stage, "mean words", number(style.get("mean_words")))
            add(stage, "distinct two-word phrases", number(style.get("distinct_2")), 1, percent=True)
        for name in ("score", *stage.names("monitor/")):
            curve = stage.curve(name)
            add(
                stage,
                "score, last tenth" if name == "score" else f"judge {name[8:]}, last tenth",
                curve.last() if curve else None,
                1,
            )
        for name, label in (
            ("kl/k1", "KL, last tenth"),
            ("entropy", "entropy, last tenth"),
            ("length", "length, last tenth"),
        ):
            curve = stage.curve(name)
            add(stage, label, curve.last() if curve and stage.curve("score") else None)
        add(stage, "seconds", stage.seconds, -1)
    return found


def _signed(value: float) -> str:
    return ("+" if value >= 0 else "") + format_number(value, 2)


def _arrow(before: float, after: float) -> str:
    """Before and after with the same number of decimals."""
    size = max(abs(before), abs(after))
    if not 1e-2 <= size < 1e4:
        return f"{format_number(before)} → {format_number(after)}"
    decimals = 0 if size >= 1000 else 1 if size >= 10 else 2 if size >= 0.1 else 4
    first, last = (f"{value:,.{decimals}f}".replace("-", "−") for value in (before, after))
    return f"{first} → {last}"
