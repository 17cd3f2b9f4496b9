"""Synthetic run directories for the tests of the report.

Knows: the layout of a run directory and the names of metrics.
Does not know: training; every number here is made up, with the shape that real curves have.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fairlead.evaluation import compare_policies, judge_pairs

_TOPICS = (
    "the tide tables",
    "a lost key",
    "how bread rises",
    "a letter to a friend",
    "knots",
    "why leaves fall",
    "a budget",
    "a poem",
)
_GOOD = (
    "Here is the short answer, and then the reasons for it.",
    "Start with what you know, and write down the rest.",
    "It depends on the season, but a simple rule works.",
    "Two things matter most: time and patience.",
)
_PLAIN = ("I think it is good.", "Yes.", "There are many ways and it depends", "It is what it is, it is what it is.")

MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """`make_run(stages=…, seed=…)` writes a synthetic run directory and returns its path."""

    def make(name: str = "run", **options: Any) -> Path:
        return write_run(tmp_path / name, **options)

    return make


def write_run(
    directory: Path,
    stages: tuple[str, ...] = ("sft", "reward", "preference", "online", "evaluate"),
    seed: int = 0,
    steps: int = 200,
    overoptimised: bool = False,
    finished: bool = True,
    kl_coefficient: float = 0.05,
    hostile: str = "",
    nan: bool = False,
) -> Path:
    """A run directory with made-up numbers."""
    generator = np.random.default_rng(seed)
    directory.mkdir(parents=True)
    settings = {stage: _settings(stage, kl_coefficient) for stage in stages}
    recipe = {
        "name": "quickstart" + hostile,
        "about": "From a small pretrained model to one that people prefer, on a laptop, in a quarter of an hour."
        + hostile,
        "seed": seed,
        "stages": settings,
    }
    (directory / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    about = {
        "name": recipe["name"], "seed": seed, "started": "2026-01-05T10:00:00+0000", "fairlead": "0.1.0", "python": "3.12.1",
        "torch": "2.11.0", "transformers": "5.17.0", "device": "x86_64", "cpu_count": 2, "runtime": {"kind": "local"},
    }  # fmt: skip
    if finished:
        about["finished"] = "2026-01-05T10:14:31+0000"
    (directory / "run.json").write_text(json.dumps(about))
    rows: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    for stage in stages:
        maker = {"sft": _sft, "reward": _reward, "preference": _preference, "online": _online, "evaluate": _evaluate}[
            stage
        ]
        new, texts, result = maker(generator, steps, overoptimised, hostile, kl_coefficient)
        if nan and new:
            for row in new[:: max(1, len(new) // 10)]:
                row |= {key: math.nan for key in row if key not in ("step",)}
            new[-1]["broken"] = math.inf
        rows += [{"stage": stage, "time": 1.7e9 + index, **row} for index, row in enumerate(new)]
        samples += [{"stage": stage, **row} for row in texts]
        if finished:
            folder = directory / "stages" / stage
            folder.mkdir(parents=True)
            (folder / "result.json").write_text(json.dumps({"id": stage, "part": stage, **result}))
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (directory / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
    return directory


def _settings(stage: str, kl_coefficient: float) -> dict[str, Any]:
    found: dict[str, Any] = {"part": stage, "model": {"path": "stage:sft"}}
    if stage == "online":
        found |= {
            "rewards": {"helpful": {"part": "model", "path": "stage:reward"}},
            "monitors": {"humanlike": {"part": "model", "path": "judge"}},
            "regulariser": {"part": "kl", "coefficient": kl_coefficient},
            "credit": {"part": "gae"},
            "objective": {"part": "ppo-clip"},
            "batch_size": 64,
        }
    if stage == "evaluate":
        del found["model"]
        found |= {
            "models": {"before": "stage:sft", "after": "stage:online"},
            "judges": {"humanlike": {}, "helpful": {}},
        }
    return found


Made = tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]


def _speed(generator: np.random.Generator, tokens: float, **phases: float) -> dict[str, float]:
    seconds = {f"seconds/{name}": value * float(generator.uniform(0.9, 1.1)) for name, value in phases.items()}
    whole = sum(seconds.values()) * 1.03
    return {**seconds, "seconds/step": whole, "tokens": tokens, "tokens_per_second": tokens / whole}


def _sft(generator: np.random.Generator, steps: int, overoptimised: bool, hostile: str, kl: float) -> Made:
    rows = []
    for step in range(1, steps + 1):
        loss = 1.9 + 2.2 * math.exp(-step / 40) + float(generator.normal(0, 0.08))
        row = {
            "step": step,
            "policy/loss": loss,
            "policy/gradient_norm": 1 + float(generator.gamma(2, 0.2)),
            "policy/learning_rate": 1e-4 * (1 - step / steps),
        }
        if step % 20 == 0:
            row |= {
                "validation/loss": 2.0 + 2.1 * math.exp(-step / 40),
                "validation/bits_per_byte": 0.8 + math.exp(-step / 40),
            }
        rows.append(row | _speed(generator, 4000, update=0.4))
    return (
        rows,
        [],
        {"steps": steps, "seconds": 95.0, "validation": {"loss": 2.02, "bits_per_byte": 0.81, "perplexity": 7.5}},
    )


def pair_rows(generator: np.random.Generator, count: int) -> list[dict[str, Any]]:
    """Pairs whose chosen response holds more good sentences, and is often longer."""
    rows = []
    for index in range(count):
        chosen = " ".join(generator.choice(_GOOD, size=generator.integers(1, 4)))
        rejected = " ".join(
            generator.choice(_PLAIN if generator.random() < 0.7 else _GOOD, size=generator.integers(2, 6))
        )
        rows.append({"prompt": f"Write about {_TOPICS[index % len(_TOPICS)]}", "chosen": chosen, "rejected": rejected})
    return rows


def _reward(generator: np.random.Generator, steps: int, overoptimised: bool, hostile: str, kl: float) -> Made:
    rows = []
    for step in range(1, steps + 1):
        progress = 1 - math.exp(-step / 60)
        row = {
            "step": step,
            "policy/loss": 0.69 - 0.16 * progress + float(generator.normal(0, 0.05)),
            "policy/accuracy": 0.5 + 0.24 * progress + float(generator.normal(0, 0.06)),
            "policy/margin": progress + float(generator.normal(0, 0.2)),
            "policy/gradient_norm": float(generator.gamma(4, 0.5)),
        }
        if step % 25 == 0:
            row |= {"validation/accuracy": 0.5 + 0.2 * progress, "validation/loss": 0.69 - 0.1 * progress}
        rows.append(row | _speed(generator, 6000, update=0.5))
    pairs = pair_rows(generator, 400)
    lengths = np.array([[len(row["chosen"]), len(row["rejected"])] for row in pairs])
    quality = generator.normal(0.75, 1.25, 400) + 0.003 * (lengths[:, 0] - lengths[:, 1])
    validation = judge_pairs(quality / 2, -quality / 2, pairs)
    validation["baselines"]["bag_of_words"] = 0.642
    return rows, [], {"steps": steps, "pairs": 4000, "validation": validation, "seconds": 140.0}


def _preference(generator: np.random.Generator, steps: int, overoptimised: bool, hostile: str, kl: float) -> Made:
    rows = []
    for step in range(1, steps // 2 + 1):
        progress = 1 - math.exp(-step / 40)
        rows.append(
            {
                "step": step,
                "policy/loss": 0.69 - 0.12 * progress + float(generator.normal(0, 0.03)),
                "policy/accuracy": 0.5 + 0.18 * progress + float(generator.normal(0, 0.05)),
                "policy/margin": 0.6 * progress + float(generator.normal(0, 0.1)),
                "policy/reward_chosen": -0.1 * progress + float(generator.normal(0, 0.05)),
                "policy/reward_rejected": -0.7 * progress + float(generator.normal(0, 0.05)),
                "my/own_metric": float(generator.normal()),
            }
            | _speed(generator, 5000, reference=0.2, update=0.5)
        )
    return (
        rows,
        [],
        {"steps": steps // 2, "validation": {"accuracy": 0.66, "margin": 0.58, "loss": 0.61}, "seconds": 80.0},
    )


def _online(generator: np.random.Generator, steps: int, overoptimised: bool, hostile: str, kl: float) -> Made:
    rows, samples = [], []
    for step in range(1, steps + 1):
        t = step / steps
        progress = 1 - math.exp(-2.5 * t)
        distance = (30 if overoptimised else 9) * t * (0.05 / kl) ** 0.5
        score = -0.4 + 1.9 * progress
        row = {
            "step": step, "score": score + float(generator.normal(0, 0.15)), "score_spread": 1.0, "kl/k1": distance + float(generator.normal(0, 0.3)),
            "kl/k3": distance * 1.05 + abs(float(generator.normal(0, 0.2))), "kl/coefficient": kl, "entropy": 2.4 - (2.0 if overoptimised else 0.7) * progress + float(generator.normal(0, 0.04)),
            "length": (38 + 14 * progress) * (1 + 0.8 * t * overoptimised) + float(generator.normal(0, 1.5)), "truncated": max(0.0, 0.04 + 0.3 * t * overoptimised + float(generator.normal(0, 0.01))),
            "counted_rows": 1.0, "mismatch": 1e-6, "failed/helpful": 0.0, "policy/loss": float(generator.normal(0, 0.02)), "policy/clip_fraction": 0.08 + float(generator.normal(0, 0.015)),
            "policy/ratio": 1 + float(generator.normal(0, 0.002)), "policy/max/ratio": 1.6 + float(generator.gamma(2, 0.2)), "policy/gradient_norm": 0.8 + float(generator.gamma(2, 0.15)), "policy/learning_rate": 1e-5 * (1 - t),
            "policy/skipped_steps": 0.0, "policy/old_kl": 0.004, "critic/loss": 0.4 * math.exp(-4 * t) + 0.1, "critic/explained_variance": 0.6 * (1 - math.exp(-5 * t)) + float(generator.normal(0, 0.04)), "critic/gradient_norm": 1.2 + float(generator.gamma(2, 0.2)),
        }  # fmt: skip
        row["channel/helpful"] = row["score"]
        if step % 5 == 0 or step in (1, steps):
            gold = 0.9 * progress - (2.2 * max(0.0, t - 0.45) if overoptimised else 0.0)
            row["monitor/humanlike"] = gold + float(generator.normal(0, 0.07))
            for topic in _TOPICS[:2]:
                text = " ".join(generator.choice(_GOOD if generator.random() < t else _PLAIN, size=2))
                samples.append(
                    {
                        "step": step,
                        "prompt": f"Write about {topic}." + hostile,
                        "response": text + hostile,
                        "score": score,
                    }
                )
        rows.append(row | _speed(generator, row["length"] * 64, rollout=1.4, judge=0.5, update=0.9))
    return rows, samples, {"steps": steps, "model": "stages/online/model", "seconds": 610.0}


def _evaluate(generator: np.random.Generator, steps: int, overoptimised: bool, hostile: str, kl: float) -> Made:
    count = 160
    kinds = ("advice", "explanation", "writing")
    prompts = [
        {
            "prompt": f"Question {index}: tell me about {_TOPICS[index % len(_TOPICS)]}." + hostile,
            "kind": kinds[index % 3] + hostile,
        }
        for index in range(count)
    ]
    rows = {
        "before": [row | {"response": " ".join(generator.choice(_PLAIN, size=2)) + hostile} for row in prompts],
        "after": [row | {"response": " ".join(generator.choice(_GOOD, size=3)) + hostile} for row in prompts],
    }
    gain = -0.3 if overoptimised else 0.55
    base = generator.normal(0, 0.8, count)
    channels = {
        "before": {"humanlike": base.tolist(), "helpful": (base * 0.7 + generator.normal(-0.4, 0.5, count)).tolist()},
        "after": {
            "humanlike": (base + generator.normal(gain, 0.9, count)).tolist(),
            "helpful": (base * 0.6 + generator.normal(1.3, 0.5, count)).tolist(),
        },
    }
    distances = {
        "before": {"kl_k1": 0.0, "kl_k3": 0.0, "truncated": 0.04, "tokens": 38.0},
        "after": {"kl_k1": 8.7, "kl_k3": 9.1, "truncated": 0.05, "tokens": 51.0},
    }
    samples = [
        {"step": 0, "model": name, "prompt": row["prompt"], "response": row["response"]}
        for name in rows
        for row in rows[name][:4]
    ]
    return (
        [],
        samples,
        {
            "prompts": count,
            "distances": distances,
            **compare_policies(["before", "after"], rows, channels),
            "seconds": 55.0,
        },
    )
