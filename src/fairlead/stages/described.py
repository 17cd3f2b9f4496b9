"""What is always told of a judged rollout: its figures, and some of its texts.

Knows: the columns of an experience.
Does not know: where it comes from, or what is learned from it.
"""

from __future__ import annotations

from typing import Any

from fairlead import functional
from fairlead.batch import Experience
from fairlead.stages.base import shown_response

__all__ = ["describe", "texts"]


def describe(experience: Experience) -> dict[str, float]:
    """Lengths, scores, failures, and how well values explain returns."""
    lengths = experience.mask.sum(1).float()
    counted = experience.weight > 0
    metrics = {
        "score": float(experience.score[counted].mean()) if bool(counted.any()) else float("nan"),
        "score_spread": float(experience.score[counted].std()) if int(counted.sum()) > 1 else 0.0,
        "length": float(lengths.mean()),
        "longest": float(lengths.max()),
        "truncated": float(experience.truncated.float().mean()),
        "empty": sum(not row["response"].strip() for row in experience.rows) / len(experience),
        "distinct": len(set(zip(experience.group.tolist(), (row["response"] for row in experience.rows), strict=True)))
        / len(experience),
        "counted_rows": float(counted.float().mean()),
        "zero_advantages": float((experience.advantages[counted] == 0).all(1).float().mean())
        if bool(counted.any())
        else 1.0,
        "mismatch": float(
            functional.masked_mean((experience.logprobs - experience.behaviour_logprobs).abs(), experience.mask)
        ),
        "tokens": float(lengths.sum()),
    }
    for name, channel in experience.channels.items():
        metrics[f"channel/{name}"] = float(channel.nanmean())
        metrics[f"failed/{name}"] = float(channel.isnan().float().mean())
    if experience.values is not None and experience.returns is not None:
        metrics["critic/explained_variance"] = functional.explained_variance(
            experience.values, experience.returns, experience.mask
        )
    return metrics


def texts(experience: Experience, limit: int = 4) -> list[dict[str, Any]]:
    """The first few prompts with their responses and scores."""
    rows = list(experience.rows)[:limit]
    return [
        {"prompt": row["prompt"], "response": shown_response(row), "score": float(experience.score[index])}
        for index, row in enumerate(rows)
    ]
