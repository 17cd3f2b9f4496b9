"""Which figures a stage is shown by, and how each is to be read.

Knows: the metric names that stages log, and what they mean to a reader.
Does not know: how a chart is drawn, how a page is laid out.

Metrics that no figure here asks for are drawn too, one small chart each, so that a part of your own is seen without a change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fairlead.report.charts import (
    Bar,
    Drawing,
    Guide,
    Line,
    bar_chart,
    line_chart,
    path_chart,
    reliability_chart,
    share_chart,
    stacked_chart,
)
from fairlead.report.findings import RULES
from fairlead.report.read import StageData, mean_of, number

__all__ = ["SPECS", "Figure", "Group", "Spec", "frontier_lines", "glance", "stage_figures"]

PROXY, JUDGE = 1, 2
"""Colour numbers that mean the same everywhere: what was trained on, and who looked on independently."""
_MOST_OTHER_CURVES = 60


@dataclass(frozen=True)
class Figure:
    """A chart with its title and one sentence on how to read it."""

    title: str
    drawing: Drawing
    reading: str
    wide: bool = False


@dataclass
class Group:
    """Figures under one heading; a folded group is closed until someone wants it."""

    title: str
    figures: list[Figure] = field(default_factory=list)
    folded: bool = False


@dataclass(frozen=True)
class Spec:
    """A line chart of some metrics; drawn when the first of them (or any) was logged."""

    group: str
    title: str
    metrics: tuple[tuple[str, str], ...]
    unit: str
    reading: str
    guides: tuple[Guide, ...] = ()
    percent: bool = False
    headline: bool = False
    """Whether the comparison of runs overlays it."""


_LEARNING, _DISTANCE, _OPTIMISER, _SPEED = "Learning", "Distance from the start", "Optimiser", "Speed"
_OTHERS = "All other curves"

SPECS: tuple[Spec, ...] = (
    Spec(
        _LEARNING,
        "Loss",
        (("policy/loss", "training"), ("validation/loss", "held out")),
        "loss",
        "Both should fall; held-out loss that turns up while training loss falls is overfitting.",
        headline=True,
    ),
    Spec(
        _LEARNING,
        "Accuracy on pairs",
        (("policy/accuracy", "training"), ("validation/accuracy", "held out")),
        "pairs ordered right",
        "Share of pairs whose preferred response is scored higher; a coin reaches 50 %, and a gap between the lines is overfitting.",
        (Guide(0.5, "coin"),),
        percent=True,
        headline=True,
    ),
    Spec(
        _LEARNING,
        "Margin",
        (("policy/margin", "training"), ("validation/margin", "held out")),
        "preferred − other",
        "How far apart the two responses of a pair are scored; it grows as the model becomes surer, right or wrong.",
    ),
    Spec(
        _LEARNING,
        "Implicit rewards",
        (("policy/reward_chosen", "preferred"), ("policy/reward_rejected", "other")),
        "β · log-ratio",
        "The two should part; when both sink, the model makes even preferred responses less likely.",
    ),
    Spec(
        _LEARNING,
        "Bits per byte",
        (("validation/bits_per_byte", "held out"),),
        "bits per byte",
        "How many bits the model needs for each byte of held-out text; lower is better and tokenizers do not matter.",
        headline=True,
    ),
    Spec(
        _DISTANCE,
        "KL from the reference",
        (("kl/k1", "k1 (unbiased)"), ("kl/k3", "k3 (low variance)")),
        "nats per response",
        "How far the policy has moved: every nat is paid for in fluency and variety, so reward should be bought cheaply.",
        headline=True,
    ),
    Spec(
        _DISTANCE,
        "KL coefficient",
        (("kl/coefficient", "coefficient"),),
        "coefficient",
        "How strongly the policy is pulled back; an adaptive one rises when the KL is above its target.",
    ),
    Spec(
        _DISTANCE,
        "Entropy",
        (("entropy", "policy"), ("policy/entropy", "during the update")),
        "nats per token",
        "How undecided the policy is at each token; a fall towards 0 means that it says the same thing every time.",
        headline=True,
    ),
    Spec(
        _DISTANCE,
        "Response length",
        (("length", "mean length"),),
        "tokens",
        "Judges often like long answers: growth without a better judgement is the commonest way to game a reward.",
        headline=True,
    ),
    Spec(
        _DISTANCE,
        "Cut-off responses",
        (("truncated", "cut by the length limit"),),
        "share of responses",
        "Responses that ran into the length limit are judged unfinished; keep this low.",
        percent=True,
    ),
    Spec(
        _OPTIMISER,
        "Clipped tokens",
        (("policy/clip_fraction", "policy"),),
        "share of tokens",
        "Share of tokens whose gradient the clip removed; about 5–20 % is usual, much more means steps that are too large.",
        percent=True,
    ),
    Spec(
        _OPTIMISER,
        "Probability ratio",
        (("policy/max/ratio", "largest"), ("policy/ratio", "mean")),
        "new / old probability",
        "How far one update moves a token's probability; the mean stays near 1 while updates are small.",
    ),
    Spec(
        _OPTIMISER,
        "Explained variance",
        (("critic/explained_variance", "critic"),),
        "share of variance",
        "How much of the returns' variation the critic foresees: 1 is perfect, at 0 or below it is no help.",
        (Guide(0.0, "no help"),),
    ),
    Spec(
        _OPTIMISER,
        "Critic loss",
        (("critic/loss", "critic"),),
        "loss",
        "It should fall at first and then follow the reward's scale.",
    ),
    Spec(
        _OPTIMISER,
        "Gradient norm",
        (("policy/gradient_norm", "policy"), ("critic/gradient_norm", "critic")),
        "norm before clipping",
        "Steady is good; spikes that grow announce a divergence.",
    ),
    Spec(
        _OPTIMISER,
        "Learning rate",
        (("policy/learning_rate", "policy"), ("critic/learning_rate", "critic")),
        "learning rate",
        "The schedule as it was really applied.",
    ),
    Spec(
        _SPEED,
        "Throughput",
        (("tokens_per_second", "tokens"),),
        "tokens per second",
        "Tokens for each second of wall time; a slow decline usually means longer responses or a filling cache.",
    ),
)


def stage_figures(stage: StageData, rewards: Sequence[str] = (), points: int = 240) -> list[Group]:
    """Every figure of a stage, grouped; empty groups are left out.

    `rewards` are the channels that the run was trained on: they are drawn in the colour of the proxy.
    """
    groups: dict[str, Group] = {}
    used: set[str] = set()

    def add(group: str, figure: Figure) -> None:
        groups.setdefault(group, Group(group)).figures.append(figure)

    if stage.part == "reward" or "reliability" in stage.validation:
        for figure in _reward_model(stage):
            add("On held-out pairs", figure)
    elif stage.part == "evaluate" or isinstance((stage.result or {}).get("channels"), dict):
        for figure in _evaluation(stage, rewards):
            add("Verdicts", figure)
    for figure in _reward_curves(stage, used, points):
        add("Reward", figure)
    for spec in SPECS:
        if stage.part == "online" and spec.title == "Loss":
            continue  # a policy-gradient surrogate goes up and down without meaning; it is among the other curves
        lines = [
            Line(label, stage.curve(name).steps, stage.curve(name).values, colour)
            for colour, (name, label) in zip((1, 2), spec.metrics, strict=False)
            if stage.curve(name)
        ]
        if len(lines) == 2 and spec.title == "Entropy":
            lines = lines[:1]
        used |= {name for name, _ in spec.metrics if stage.curve(name)}
        if spec.title == "KL coefficient" and lines and np.ptp(lines[0].y) == 0:
            continue  # a setting, not a finding
        if lines:
            drawing = line_chart(
                lines,
                title=f"{spec.title}, stage {stage.id}",
                y_label=spec.unit,
                guides=spec.guides,
                percent=spec.percent,
                points=points,
            )
            add(spec.group, Figure(spec.title, drawing, spec.reading))
    seconds = _seconds(stage, used, points)
    if seconds is not None:
        add(_SPEED, seconds)
    others = [name for name in stage.names() if name not in used and name != "tokens"][:_MOST_OTHER_CURVES]
    for name in others:
        curve = stage.curve(name)
        if curve:
            drawing = line_chart(
                [Line(name, curve.steps, curve.values)], title=f"{name}, stage {stage.id}", points=points // 2
            )
            add(_OTHERS, Figure(name, drawing, ""))
    return _fold(stage, groups)


def _fold(stage: StageData, groups: dict[str, Group]) -> list[Group]:
    """Close what few will ask for, unless it is all there is."""
    if stage.part != "online":
        machinery = [groups.pop(title) for title in (_OPTIMISER, _SPEED) if title in groups]
        figures = [figure for group in machinery for figure in group.figures]
        if figures:
            groups["Optimiser and speed"] = Group("Optimiser and speed", figures, folded=True)
    others = groups.pop(_OTHERS, None)
    if others is not None:
        others.folded = any(not group.folded for group in groups.values())
        groups[_OTHERS] = others
    return list(groups.values())


_GLANCE = (
    "Accuracy beside trivial rules",
    "Trained reward and judge over KL",
    "Win rates",
    "Bits per byte",
    "Score",
    "Accuracy on pairs",
    "Loss",
)


def glance(groups: Sequence[Sequence[Group]], most: int = 3) -> list[Figure]:
    """The few figures that tell the story of the whole run, out of the figures of its stages; none for one small stage."""
    every = [figure for stage in groups for group in stage for figure in group.figures if not group.folded]
    found: list[Figure] = []
    for title in _GLANCE:
        here = [figure for figure in every if figure.title.startswith(title)]
        if here and len(found) < most:
            # Of several reward models the first is the one that was trained against, the others judge.
            found.append(here[0] if title.startswith("Accuracy") else here[-1])
    found.sort(key=every.index)
    return found if len(every) > 2 * most else []


# -- online -----------------------------------------------------------------------------------------------------------


def _reward_curves(stage: StageData, used: set[str], points: int) -> list[Figure]:
    """Score, channels, monitors, and the frontier of reward against KL."""
    figures = []
    score = stage.curve("score")
    channels = [name for name in stage.names() if name.startswith("channel/")]
    monitors = [name for name in stage.names() if name.startswith("monitor/")]
    # A single reward of weight one is the score: one chart says both.
    same = len(channels) == 1 and score and np.array_equal(stage.curve(channels[0]).values, score.values)
    used |= {"score"} if score else set()
    if score:
        title = f"Score ({channels[0].removeprefix('channel/')})" if same else "Score"
        drawing = line_chart(
            [Line("score", score.steps, score.values, PROXY)],
            title=f"Score, stage {stage.id}",
            y_label="mean score",
            points=points,
        )
        figures.append(
            Figure(
                title,
                drawing,
                "What the policy is trained to raise: mean over the step's responses, smoothed in front of what was measured.",
            )
        )
    for name in channels:
        curve = stage.curve(name)
        used.add(name)
        if not same and curve:
            label = name.removeprefix("channel/")
            drawing = line_chart(
                [Line(label, curve.steps, curve.values, PROXY)],
                title=f"Reward {label}, stage {stage.id}",
                y_label="mean",
                points=points,
            )
            figures.append(Figure(f"Reward: {label}", drawing, "One source of reward before weighting and shaping."))
    for name in monitors:
        curve = stage.curve(name)
        used.add(name)
        if curve:
            label = name.removeprefix("monitor/")
            drawing = line_chart(
                [Line(label, curve.steps, curve.values, JUDGE)],
                title=f"Judge {label}, stage {stage.id}",
                y_label="mean verdict",
                points=points,
            )
            figures.append(
                Figure(
                    f"Judge: {label}",
                    drawing,
                    "An independent judge that nothing was trained on: its rise is real progress, its fall is gaming.",
                )
            )
    lines = frontier_lines(stage)
    if lines:
        drawing = path_chart(
            lines,
            title=f"Reward against KL, stage {stage.id}",
            x_label="√KL from the reference (√nats)",
            y_label="gain (standard deviations)",
            guides=(Guide(0.0, "start"),),
            points=points,
        )
        reading = (
            "Left to right is the price paid, upwards is what it bought; where the trained reward still climbs and the judge bends down, "
            "the reward is being over-optimised."
            if len(lines) > 1
            else "Left to right is the price paid, upwards is what it bought. Add a monitor to see whether an independent judge agrees."
        )
        figures.append(Figure("Trained reward and judge over KL", drawing, reading))
    failed = [(name, stage.curve(name)) for name in stage.names() if name.startswith("failed/")]
    used |= {name for name, _ in failed}
    broken = [(name.removeprefix("failed/"), curve) for name, curve in failed if curve and curve.values.max() > 0]
    if broken:
        lines = [Line(label, curve.steps, curve.values, 1 + index % 6) for index, (label, curve) in enumerate(broken)]
        drawing = line_chart(
            lines, title=f"Failed verdicts, stage {stage.id}", y_label="share of responses", percent=True, points=points
        )
        figures.append(
            Figure(
                "Failed verdicts",
                drawing,
                "Responses that a reward source could not judge; they are left out of the update.",
            )
        )
    return figures


def frontier_lines(stage: StageData) -> list[Line]:
    """Score and monitors over √KL, each as its gain since the start in its own standard deviations."""
    kl = stage.curve("kl/k1")
    if kl.values.size < 2:
        return []
    lines = []
    monitors = [name for name in stage.names() if name.startswith("monitor/")]
    for index, name in enumerate(["score", *monitors]):
        curve = stage.curve(name)
        if curve.values.size < 2:
            continue
        spread = float(curve.values.std()) or 1.0
        distance = np.sqrt(np.maximum(np.interp(curve.steps, kl.steps, kl.values), 0.0))
        label = "trained reward" if name == "score" else f"judge: {name.removeprefix('monitor/')}"
        steps = tuple(f"step {step:.0f}" for step in curve.steps)
        gain = (curve.values - curve.first()) / spread
        lines.append(Line(label, distance, gain, PROXY if index == 0 else 1 + (index % 6), labels=steps))
    return lines


def _seconds(stage: StageData, used: set[str], points: int) -> Figure | None:
    """Seconds of each phase, stacked; what no phase accounts for is shown as the rest."""
    names = [name for name in stage.names() if name.startswith("seconds/")]
    used |= set(names)
    whole = stage.curve("seconds/step")
    if not whole:
        return None
    lines, total = [], np.zeros_like(whole.values)
    for index, name in enumerate(name for name in names if name != "seconds/step"):
        curve = stage.curve(name)
        found = dict(zip(curve.steps.tolist(), curve.values.tolist(), strict=True))
        values = np.array([found.get(step, 0.0) for step in whole.steps.tolist()])
        total = total + values
        lines.append(Line(name.removeprefix("seconds/"), whole.steps, values, 1 + index % 5))
    rest = np.maximum(whole.values - total, 0.0)
    if not lines or rest.sum() > 0.01 * whole.values.sum():
        lines.append(Line("other" if lines else "step", whole.steps, rest, 6))
    drawing = stacked_chart(
        lines, title=f"Seconds by phase, stage {stage.id}", y_label="seconds per step", points=points
    )
    return Figure(
        "Seconds by phase", drawing, "Where the time of a step goes; the thickest band is the one worth making faster."
    )


# -- reward models ----------------------------------------------------------------------------------------------------


def _reward_model(stage: StageData) -> list[Figure]:
    found = stage.validation
    figures = []
    accuracy = number(found.get("accuracy"))
    if accuracy is not None:
        bars = [
            Bar("this model", accuracy, number(found.get("accuracy_low")), number(found.get("accuracy_high")), PROXY)
        ]
        baselines = found.get("baselines")
        for name, value in (baselines if isinstance(baselines, dict) else {}).items():
            share = number(value)
            if share is not None:
                bars.append(Bar(RULES.get(str(name), str(name)), share, colour=6))
        drawing = bar_chart(
            bars,
            title=f"Accuracy beside trivial rules, stage {stage.id}",
            x_label="held-out pairs ordered right",
            percent=True,
            guide=Guide(0.5, "coin"),
        )
        figures.append(
            Figure(
                "Accuracy beside trivial rules",
                drawing,
                "A reward model is worth its cost only as far as it beats rules that read nothing, and a bag of words.",
            )
        )
    reliability = found.get("reliability")
    rows = (
        [[number(v) for v in row] for row in reliability if isinstance(row, list)]
        if isinstance(reliability, list)
        else []
    )
    curve = [[v for v in row if v is not None] for row in rows]
    if any(len(row) == 3 for row in curve):
        drawing = reliability_chart(curve, title=f"Reliability diagram, stage {stage.id}")
        figures.append(
            Figure(
                "Calibration",
                drawing,
                "On the diagonal, a predicted 70 % comes true in 70 of 100 cases; below it on the right, the model is too sure of itself.",
            )
        )
    bars = []
    for name, label in (
        ("accuracy_longer_chosen", "longer is better"),
        ("accuracy_shorter_chosen", "shorter is better"),
    ):
        share = number(found.get(name))
        if share is not None:
            bars.append(Bar(label, share, colour=PROXY if name.endswith("longer_chosen") else 4))
    if bars:
        drawing = bar_chart(
            bars,
            title=f"Length bias, stage {stage.id}",
            x_label="accuracy on those pairs",
            percent=True,
            guide=Guide(0.5, "coin"),
        )
        figures.append(
            Figure(
                "Length bias",
                drawing,
                "Right about pairs whose longer response is preferred but wrong about the others: then it judges length.",
            )
        )
    return figures


# -- evaluation -------------------------------------------------------------------------------------------------------


def _evaluation(stage: StageData, rewards: Sequence[str]) -> list[Figure]:
    result: dict[str, Any] = stage.result or {}
    channels = result.get("channels")
    if not isinstance(channels, dict):
        return []
    figures = []
    models = [str(name) for name in result.get("models") or channels]
    for channel in dict.fromkeys(name for model in models for name in channels.get(model, {})):
        bars = []
        for model in models:
            entry = channels.get(model, {}).get(channel)
            mean = mean_of(entry)
            if mean is not None:
                colour = 6 if model != models[-1] else (PROXY if channel in rewards else JUDGE)
                bars.append(Bar(model, mean, number(entry.get("low")), number(entry.get("high")), colour))
        if bars:
            trained = channel in rewards
            # Bars from zero would flatten scores whose zero means nothing.
            drawing = bar_chart(
                bars, title=f"{channel} by model, stage {stage.id}", x_label="mean with 95 % interval", from_zero=False
            )
            reading = (
                "This judge is the reward that was trained on: expect a rise, and believe the others."
                if trained
                else "Mean verdict on held-out prompts; intervals that do not overlap are a difference you can trust."
            )
            figures.append(Figure(f"{'Trained reward' if trained else 'Judge'}: {channel}", drawing, reading))
    versus = result.get("versus")
    if isinstance(versus, dict) and isinstance(versus.get("channels"), dict):
        rows = []
        for channel, entry in versus["channels"].items():
            shares = [number(entry.get(key)) for key in ("win", "tie", "lose")]
            if None not in shares:
                rows.append((str(channel), [share or 0.0 for share in shares]))
        if rows:
            names = (f"{versus.get('last')} better", "tie", f"{versus.get('first')} better")
            drawing = share_chart(rows, names, title=f"Win rates, stage {stage.id}", colours=(2, 0, 6))
            figures.append(
                Figure(
                    "Win rates",
                    drawing,
                    "The two models' answers to the same prompts, one against one; past the middle line the later model wins more often than not.",
                )
            )
    return figures
