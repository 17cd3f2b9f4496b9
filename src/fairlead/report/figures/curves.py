"""Which curves of training are drawn, and how each is to be read.

Knows: the names of metrics that stages log, and what they mean to a reader.
Does not know: how a chart is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

from fairlead.report.charts import Guide

__all__ = ["DISTANCE", "LEARNING", "OPTIMISER", "SPECS", "SPEED", "Spec"]


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


LEARNING, DISTANCE, OPTIMISER, SPEED = "Learning", "Distance from the start", "Optimiser", "Speed"

SPECS: tuple[Spec, ...] = (
    Spec(
        LEARNING,
        "Loss",
        (("policy/loss", "training"), ("validation/loss", "held out")),
        "loss",
        "Both should fall; held-out loss that turns up while training loss falls is overfitting.",
        headline=True,
    ),
    Spec(
        LEARNING,
        "Accuracy on pairs",
        (("policy/accuracy", "training"), ("validation/accuracy", "held out")),
        "pairs ordered right",
        "Share of pairs whose preferred response is scored higher; a coin reaches 50 %, and a gap between the lines is overfitting.",
        (Guide(0.5, "coin"),),
        percent=True,
        headline=True,
    ),
    Spec(
        LEARNING,
        "Margin",
        (("policy/margin", "training"), ("validation/margin", "held out")),
        "preferred − other",
        "How far apart the two responses of a pair are scored; it grows as the model becomes surer, right or wrong.",
    ),
    Spec(
        LEARNING,
        "Implicit rewards",
        (("policy/reward_chosen", "preferred"), ("policy/reward_rejected", "other")),
        "β · log-ratio",
        "The two should part; when both sink, the model makes even preferred responses less likely.",
    ),
    Spec(
        LEARNING,
        "Bits per byte",
        (("validation/bits_per_byte", "held out"),),
        "bits per byte",
        "How many bits the model needs for each byte of held-out text; lower is better and tokenizers do not matter.",
        headline=True,
    ),
    Spec(
        DISTANCE,
        "KL from the reference",
        (("kl/k1", "k1 (unbiased)"), ("kl/k3", "k3 (low variance)")),
        "nats per response",
        "How far the policy has moved: every nat is paid for in fluency and variety, so reward should be bought cheaply.",
        headline=True,
    ),
    Spec(
        DISTANCE,
        "KL coefficient",
        (("kl/coefficient", "coefficient"),),
        "coefficient",
        "How strongly the policy is pulled back; an adaptive one rises when the KL is above its target.",
    ),
    Spec(
        DISTANCE,
        "Entropy",
        (("entropy", "policy"), ("policy/entropy", "during the update")),
        "nats per token",
        "How undecided the policy is at each token; a fall towards 0 means that it says the same thing every time.",
        headline=True,
    ),
    Spec(
        DISTANCE,
        "Response length",
        (("length", "mean length"),),
        "tokens",
        "Judges often like long answers: growth without a better judgement is the commonest way to game a reward.",
        headline=True,
    ),
    Spec(
        DISTANCE,
        "Cut-off responses",
        (("truncated", "cut by the length limit"),),
        "share of responses",
        "Responses that ran into the length limit are judged unfinished; keep this low.",
        percent=True,
    ),
    Spec(
        OPTIMISER,
        "Clipped tokens",
        (("policy/clip_fraction", "policy"),),
        "share of tokens",
        "Share of tokens whose gradient the clip removed; about 5–20 % is usual, much more means steps that are too large.",
        percent=True,
    ),
    Spec(
        OPTIMISER,
        "Probability ratio",
        (("policy/max/ratio", "largest"), ("policy/ratio", "mean")),
        "new / old probability",
        "How far one update moves a token's probability; the mean stays near 1 while updates are small.",
    ),
    Spec(
        OPTIMISER,
        "Explained variance",
        (("critic/explained_variance", "critic"),),
        "share of variance",
        "How much of the returns' variation the critic foresees: 1 is perfect, at 0 or below it is no help.",
        (Guide(0.0, "no help"),),
    ),
    Spec(
        OPTIMISER,
        "Critic loss",
        (("critic/loss", "critic"),),
        "loss",
        "It should fall at first and then follow the reward's scale.",
    ),
    Spec(
        OPTIMISER,
        "Gradient norm",
        (("policy/gradient_norm", "policy"), ("critic/gradient_norm", "critic")),
        "norm before clipping",
        "Steady is good; spikes that grow announce a divergence.",
    ),
    Spec(
        OPTIMISER,
        "Learning rate",
        (("policy/learning_rate", "policy"), ("critic/learning_rate", "critic")),
        "learning rate",
        "The schedule as it was really applied.",
    ),
    Spec(
        SPEED,
        "Throughput",
        (("tokens_per_second", "tokens"),),
        "tokens per second",
        "Tokens for each second of wall time; a slow decline usually means longer responses or a filling cache.",
    ),
)
