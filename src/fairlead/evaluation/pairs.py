"""How good a judge of pairs is: accuracy beside trivial rules, calibration, length bias.

Knows: the two scores of every pair, and the two texts.
Does not know: the model that gave the scores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fairlead.evaluation.texts import plain_text
from fairlead.functional import expected_calibration_error, pearson, reliability_curve, spearman, wilson_interval

__all__ = ["bag_of_words_accuracy", "judge_pairs"]

Vector: TypeAlias = "NDArray[np.float64]"
Row: TypeAlias = Mapping[str, Any]

_TEMPERATURES = (0.01, 100.0)
_REGULARISATION = (0.01, 0.1, 1.0, 10.0)
_MOST_PAIRS = 20_000


def judge_pairs(
    score_chosen: ArrayLike, score_rejected: ArrayLike, rows: Sequence[Row], train_rows: Sequence[Row] | None = None
) -> dict[str, Any]:
    """What the scores of held-out pairs say about the judge, as JSON-able numbers.

    Keys: `pairs`, `failed` (pairs left out because a score was missing), `accuracy` (a draw counts half) with its Wilson
    interval `accuracy_low`, `accuracy_high`; `baselines` (accuracy of `longer`, `shorter`, `bag_of_words`; the last only with
    `train_rows`); `calibration_error`, `reliability` (rows of mean predicted, observed, count) and `temperature` (the number
    that score differences should be divided by to be log-odds); `length_correlation` (Spearman, over all responses) and
    `length_correlation_within` (of the differences within a pair); `accuracy_longer_chosen`, `accuracy_shorter_chosen` with
    their counts; `score_mean`, `score_sd`.

    Raises: ValueError when the lengths differ.
    """
    chosen, rejected = np.asarray(score_chosen, dtype=np.float64), np.asarray(score_rejected, dtype=np.float64)
    if chosen.shape != rejected.shape or chosen.shape != (len(rows),):
        raise ValueError(f"got {chosen.shape} chosen scores, {rejected.shape} rejected scores and {len(rows)} rows")
    whole = np.isfinite(chosen) & np.isfinite(rejected)
    chosen, rejected = chosen[whole], rejected[whole]
    rows = [row for row, counts in zip(rows, whole, strict=True) if counts]
    result: dict[str, Any] = {"pairs": len(rows), "failed": int((~whole).sum())}
    if not rows:
        return result | {"accuracy": None, "baselines": {}, "reliability": []}

    margin = chosen - rejected
    longer = _lengths(rows, "chosen") - _lengths(rows, "rejected")
    won = _wins(margin)
    low, high = wilson_interval(float(won.sum()), len(won))
    baselines: dict[str, float | None] = {
        "longer": float(_wins(longer).mean()),
        "shorter": float(_wins(-longer).mean()),
    }
    if train_rows is not None:
        baselines["bag_of_words"] = bag_of_words_accuracy(train_rows, rows)
    scores = np.concatenate([chosen, rejected])
    lengths = np.concatenate([_lengths(rows, "chosen"), _lengths(rows, "rejected")])
    return result | {
        "accuracy": float(won.mean()),
        "accuracy_low": low,
        "accuracy_high": high,
        "baselines": baselines,
        **_calibration(margin),
        "length_correlation": _number(spearman(scores, lengths)),
        "length_correlation_within": _number(pearson(margin, longer)) if len(rows) > 1 else None,
        "accuracy_longer_chosen": _mean(won[longer > 0]),
        "pairs_longer_chosen": int((longer > 0).sum()),
        "accuracy_shorter_chosen": _mean(won[longer < 0]),
        "pairs_shorter_chosen": int((longer < 0).sum()),
        "margin_mean": float(margin.mean()),
        "score_mean": float(scores.mean()),
        "score_sd": float(scores.std(ddof=1)),
    }


def bag_of_words_accuracy(train_rows: Sequence[Row], validation_rows: Sequence[Row], seed: int = 0) -> float | None:
    """Accuracy on held-out pairs of a linear model on word counts: what needs no language model at all.

    Logistic regression on the difference of the responses' one- and two-word features. Binary counts or tf-idf, and the
    strength of regularisation, are chosen on a fifth of the training pairs, so that the baseline is as strong as it can
    honestly be. At most 20,000 training pairs are used. None when there are too few pairs to fit or to validate.
    """
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer  # slow import, needed only here

    generator = np.random.default_rng(seed)
    order = generator.permutation(len(train_rows))[:_MOST_PAIRS]
    train = [train_rows[index] for index in order]
    if len(train) < 10 or not validation_rows:
        return None
    cut = max(1, len(train) // 5)
    pattern = r"(?u)\b\w+\b"  # one-letter words count too: "I" is the strongest style marker there is
    settings: dict[str, Any] = {"ngram_range": (1, 2), "min_df": 2 if len(train) > 100 else 1, "token_pattern": pattern}
    best: tuple[float, Any, float] | None = None
    for vectoriser in (
        CountVectorizer(binary=True, **settings),
        TfidfVectorizer(sublinear_tf=True, **settings),
    ):
        try:
            learned, held_out = _differences(vectoriser, train[cut:], train[:cut])
        except ValueError:  # the texts hold no words
            continue
        for strength in _REGULARISATION:
            accuracy = float(_wins(_fit(learned, strength, generator).decision_function(held_out)).mean())
            if best is None or accuracy > best[0]:
                best = accuracy, vectoriser, strength
    if best is None:
        return None
    learned, held_out = _differences(best[1], train, validation_rows)
    return float(_wins(_fit(learned, best[2], generator).decision_function(held_out)).mean())


def _differences(vectoriser: Any, train: Sequence[Row], validation: Sequence[Row]) -> tuple[Any, Any]:
    """Features of chosen minus rejected, for both sets; the vocabulary is the training set's."""
    vectoriser.fit([plain_text(row[side]) for row in train for side in ("chosen", "rejected")])

    def difference(rows: Sequence[Row]) -> Any:
        texts = [[plain_text(row[side]) for row in rows] for side in ("chosen", "rejected")]
        return vectoriser.transform(texts[0]).astype(np.float64) - vectoriser.transform(texts[1]).astype(np.float64)

    return difference(train), difference(validation)


def _fit(differences: Any, strength: float, generator: np.random.Generator) -> Any:
    from scipy.sparse import diags
    from sklearn.linear_model import LogisticRegression

    # Without an intercept the loss of (x, 1) is that of (-x, 0): flipping half the pairs is the same fit as using every
    # pair in both orders, at half the cost.
    labels = np.arange(differences.shape[0]) % 2
    generator.shuffle(labels)
    model = LogisticRegression(C=strength, fit_intercept=False, solver="liblinear", max_iter=200)
    return model.fit(diags(2.0 * labels - 1.0) @ differences, labels)


def _calibration(margin: Vector, seed: int = 0) -> dict[str, Any]:
    """Calibration of sigmoid(margin), each pair shown in a random order so that both answers occur."""
    first_is_chosen = np.random.default_rng(seed).random(margin.size) < 0.5
    shown = np.where(first_is_chosen, margin, -margin)
    probability = _sigmoid(shown)
    label = first_is_chosen.astype(np.float64)
    curve = [
        [float(predicted), float(observed), int(count)]
        for predicted, observed, count in zip(*reliability_curve(probability, label), strict=True)
        if count
    ]
    return {
        "calibration_error": expected_calibration_error(probability, label),
        "reliability": curve,
        "temperature": _temperature(margin),
        "log_loss": float(np.logaddexp(0.0, -margin).mean()),
    }


def _temperature(margin: Vector) -> float:
    """The T that minimises the log-loss of sigmoid(margin / T), within 0.01 … 100.

    Source: Guo et al. 2017 (arXiv 1706.04599), section 4.2. The loss is convex in 1/T.
    """
    from scipy.optimize import minimize_scalar

    low, high = _TEMPERATURES
    found = minimize_scalar(
        lambda inverse: float(np.logaddexp(0.0, -margin * inverse).mean()), bounds=(1 / high, 1 / low), method="bounded"
    )
    return float(1 / found.x)


def _lengths(rows: Sequence[Row], side: str) -> Vector:
    """Length of each response in characters, which no tokenizer and no language can argue with."""
    return np.array([len(plain_text(row.get(side))) for row in rows], dtype=np.float64)


def _wins(difference: NDArray[Any]) -> Vector:
    """1 where positive, ½ for a draw."""
    return np.asarray((difference > 0) + 0.5 * (difference == 0), dtype=np.float64)


def _sigmoid(x: Vector) -> Vector:
    return np.asarray(0.5 * (1 + np.tanh(x / 2)), dtype=np.float64)


def _mean(values: Vector) -> float | None:
    return float(values.mean()) if values.size else None


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
