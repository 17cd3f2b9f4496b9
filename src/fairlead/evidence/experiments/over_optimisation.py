"""A reward model that is over-optimised in real text, and what each stabiliser does about it.

Knows: the shipped recipe, how its reward is put in place of the feedback's, and where its runs keep the course of reward and KL.
Does not know: how figures become a verdict.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

import yaml

from fairlead.checks.plain_answers import worth
from fairlead.data import prompts_batch, to_prompts
from fairlead.data import read as read_data
from fairlead.evidence.base import AtMost, Better, Experiment, Measurement, Rule
from fairlead.generation import Sampling
from fairlead.models import ModelSpec
from fairlead.recipes.execute import execute
from fairlead.recipes.load import load_recipe
from fairlead.rollouts import SampleRollout
from fairlead.runs import Run, read_json_lines
from fairlead.runtime import GroupSpec, LocalGroup

__all__ = ["OverOptimisation"]

_STABILISERS = ("kl", "ppo-max", "safe", "rehearsal")
_STEPS = 50
_WORTH = "fairlead.checks.plain_answers:worth"


class OverOptimisation(Experiment, name="over-optimisation"):
    """PPO on a learned reward without and with stabilisers, at equal samples, measured by the reward that was to be learned.

    Source: Gao et al. 2022 (arXiv 2210.10760), whose gold reward is a model; the stabilisers name theirs.
    """

    claim: ClassVar[str] = (
        "Without a stabiliser the true reward falls behind its peak while the learned one rises; with one it loses less"
    )
    experiment: ClassVar[str] = (
        "Shipped model and prompts of the starter data. The true reward is a rule (topic, length, finished sentence, no repetition: at "
        "most 2.5). A reward model learns it from pairs of the imitator's own answers, two for each of two draws of every prompt, the "
        f"better one chosen. Then, as in the recipe over-optimisation, {_STEPS} rollouts of 48 prompts for each of PPO without KL (the "
        "baseline), with a KL penalty of 0.2, PPO-max, SAFE, and PPO-ptx. Every fifth step the true reward is looked at; figures are "
        "means of three such looks. lost_NAME is the highest true reward in the baseline's course less that at the method's end, "
        "rise_NAME what the learned reward gained, kl_NAME the KL at the end, nats a response. after_peak is the baseline's end less "
        "its peak; accuracy is the reward model's on held-out pairs."
    )
    baseline: ClassVar[str] = "PPO without a stabiliser, as many samples"
    rules: ClassVar[tuple[Rule, ...]] = (
        AtMost("after_peak", -0.1),
        *(Better(f"lost_{name}", except_for=1) for name in _STABILISERS),
    )
    remarks: ClassVar[str] = (
        "Before this form there was another, broken off after two arms of its first seed: its judge was a model that had "
        "learned from other feedback of the same kind. Without a stabiliser that judge rose with the reward, from −0.7 to 1.86, "
        "while the KL reached 140 nats and every response the longest length: it followed the policy into nonsense, so it could "
        "not show what was lost (the recipe over-optimisation has that judge still, and shows this). In this form the true "
        "reward cannot be fooled. Without a stabiliser it rose for 25 rollouts and fell from there on (seed 0, whose course was "
        "looked at); SAFE held it at the same level at four times the KL of the two with a KL penalty. These last sentences were written "
        "after the figures of the first page, which were of an earlier shipped model; nothing was changed for later ones."
    )

    def measure(self, seed: int, folder: Path) -> Measurement:
        imitator = _run({"extends": "starter", "stages": {"reward": None}}, seed, folder / "imitation")
        policy = str(imitator.model_path("stage:sft"))
        pairs = {split: _label(policy, split, seed, folder / f"{split}.jsonl") for split in ("train", "validation")}
        run = _run(_with_true_reward(policy, pairs), seed, folder / "run")
        rows = read_json_lines(run.directory / "metrics.jsonl")
        courses = {name: _course(rows, name) for name in ("plain", *_STABILISERS)}
        peak = max(courses["plain"]["monitor/judge"])
        ours = {"after_peak": courses["plain"]["monitor/judge"][-1] - peak, "accuracy": _accuracy(rows)}
        for name in _STABILISERS:
            ours |= _figures(courses[name], name, peak)
        theirs = {key: value for name in _STABILISERS for key, value in _figures(courses["plain"], name, peak).items()}
        return Measurement(ours, theirs | {"after_peak": ours["after_peak"]}, courses)


def _run(tree: dict[str, Any], seed: int, folder: Path) -> Run:
    """Run a recipe that is written down here."""
    folder.mkdir(parents=True)
    file = folder.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    recipe = load_recipe(str(file), ["runtime.threads=1", f"seed={seed}"])
    return execute(recipe, folder, quiet=True)


def _label(policy: str, split: str, seed: int, file: Path) -> str:
    """Write pairs of the policy's answers to the prompts of a split, the better one by the true reward chosen; equals are left out."""
    group = LocalGroup(GroupSpec(role="policy", model=ModelSpec(path=policy)))
    records, _ = to_prompts([read_data(f"fairlead:starter/{split}")])
    rollout = SampleRollout(n=4, sampling=Sampling(maximum_tokens=48))
    rows = list(rollout(group, prompts_batch(records, group.codec, seed)).rows)
    pairs = []
    for one, other in zip(rows[::2], rows[1::2], strict=True):
        better, worse = sorted((one, other), key=lambda row: worth(row["prompt"], row["response"]), reverse=True)
        if worth(better["prompt"], better["response"]) > worth(worse["prompt"], worse["response"]):
            pairs.append({"prompt": better["prompt"], "chosen": better["response"], "rejected": worse["response"]})
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    return str(file)


def _with_true_reward(policy: str, pairs: dict[str, str]) -> dict[str, Any]:
    """The shipped recipe with a reward learned from these pairs, and the true reward in place of the judge."""
    true = {"part": "function", "function": _WORTH}
    stages: dict[str, Any] = {"sft": None, "judge": None, "evaluate": None}
    stages["reward"] = {"data": pairs["train"], "validation": pairs["validation"]}
    for name in ("plain", *_STABILISERS):
        stages[name] = {"model": policy, "monitors": {"judge": true}, "steps": _STEPS}
    return {"extends": "over-optimisation", "stages": stages}


def _accuracy(rows: list[dict[str, Any]]) -> float:
    found = [row["validation/accuracy"] for row in rows if row["stage"] == "reward" and "validation/accuracy" in row]
    return float(found[-1])


def _course(rows: list[dict[str, Any]], stage: str) -> dict[str, list[float]]:
    """Reward, judge and KL of a stage at the steps at which the judge was asked, each as a mean of three looks in a row."""
    looks = [row for row in rows if row["stage"] == stage and "monitor/judge" in row]
    return {
        name: [fmean(float(row[name]) for row in looks[i : i + 3]) for i in range(len(looks) - 2)]
        for name in ("channel/reward", "monitor/judge", "kl/k1")
    }


def _figures(course: dict[str, list[float]], name: str, peak: float) -> dict[str, float]:
    reward = course["channel/reward"]
    return {
        f"lost_{name}": peak - course["monitor/judge"][-1],
        f"rise_{name}": reward[-1] - reward[0],
        f"kl_{name}": course["kl/k1"][-1],
    }
