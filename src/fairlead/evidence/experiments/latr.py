"""LATR: how many plans a group of samples has, and how soon a rare one is learned.

Knows: the language of plans, the recipe of the method.
Does not know: how figures become a verdict.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from fairlead.data import PromptRecord, prompts_batch
from fairlead.evidence.base import AtMost, Better, Experiment, Measurement, Rule
from fairlead.models import ModelSpec
from fairlead.recipes.execute import execute
from fairlead.recipes.schema import Recipe
from fairlead.rollouts import LookaheadTree, Rollout, SampleRollout
from fairlead.runs import read_json_lines
from fairlead.runtime import GroupSpec, RuntimeSpec, open_group
from fairlead.worlds import PlanWorld, plan_of

__all__ = ["LookaheadTrees"]

_K, _GROUPS = 8, 16
_TREE = {"least_probability": 0.15, "largest_gap": 0.25, "edit": 0.4, "lookahead": [3, 5]}
_SCHEDULE = {0: 1.0, 40: 0.75, 80: 0.5}
_STEPS, _STEPS_DENSE, _RATE = 90, 60, 8e-4


class LookaheadTrees(Experiment, name="latr"):
    """Samples that begin as a tree against independent samples.

    Source: LATR (arXiv 2510.24302), method and results.
    """

    claim: ClassVar[str] = (
        "Branching where the policy is undecided, and pruning branches that write the same again, makes the samples of a prompt differ, "
        "and rare successes are learned sooner at equal samples"
    )
    experiment: ClassVar[str] = (
        "A language of questions with segments of 6 tokens; the first token of a segment (0.60 or 0.38) decides all of it, one in its middle "
        f"has two spellings (0.51, 0.49), the others are 95 % settled. lost_plans: share of {_K} samples without a plan of their own, "
        f"3 questions, mean of {_GROUPS} groups, thresholds 0.15 and 0.25, edit distance below 0.4 at ages 3 and 5. narrow_plans: "
        "plans found where variants have 0.58 and 0.40 and the gap may be 0.15. steps: rollouts until the one rewarded plan of 32 (5 "
        f"questions, probability 0.9 % at first) has an exact probability above one half; GRPO, 2 groups of {_K}, no KL, AdamW at "
        f"{_RATE:g}, shares of the tree 1, 0.75 and 0.5 from steps 0, 40 and 80; {_STEPS + 1} if never. steps_dense: the same with 3 "
        f"questions and 4 groups, where the reward is not rare; {_STEPS_DENSE + 1} if never."
    )
    baseline: ClassVar[str] = "independent samples, as many"
    rules: ClassVar[tuple[Rule, ...]] = (
        Better("lost_plans", 0.25),
        AtMost("narrow_plans", 1.0),
        Better("steps", 0.9, except_for=1),
    )
    remarks: ClassVar[str] = (
        "The language is made for the method: variants differ in all that follows for longer than the longest look ahead. steps_dense is "
        "a control, and no gain is expected of it: where the reward is not rare, groups are seldom all alike."
    )

    def measure(self, seed: int, folder: Path) -> Measurement:
        independent: dict[str, Any] = {"part": "sample", "n": _K}
        ours: dict[str, Any] = {"part": "lookahead-tree", "n": _K, "tree": _TREE, "schedule": _SCHEDULE}
        world, narrow = PlanWorld(3), PlanWorld(3, likely=0.58)
        figures = {}
        for name, rollout in (("method", ours), ("baseline", independent)):
            figures[name] = {
                "lost_plans": 1 - _plans(world, rollout, seed, folder / f"{name}-plans") / _K,
                "steps": _learn(PlanWorld(5), rollout, 2, _STEPS, seed, folder / f"{name}-rare"),
                "steps_dense": _learn(world, rollout, 4, _STEPS_DENSE, seed, folder / f"{name}-dense"),
            }
        thresholds = ours | {"tree": _TREE | {"largest_gap": 0.15}}
        figures["method"]["narrow_plans"] = _plans(narrow, thresholds, seed, folder / "narrow")
        return Measurement(figures["method"], figures["baseline"])


def _plans(world: PlanWorld, rollout: dict[str, Any], seed: int, folder: Path) -> float:
    """Distinct plans in a group, mean over groups."""
    spec = GroupSpec(role="policy", model=ModelSpec(path=str(world.save_model(folder))))
    policy = open_group(spec, RuntimeSpec(threads=1))
    kind = LookaheadTree if rollout["part"] == "lookahead-tree" else SampleRollout
    settings = {key: value for key, value in rollout.items() if key != "part"}
    drawn: Rollout = kind(sampling={"maximum_tokens": world.length}, **settings)
    samples = drawn(policy, prompts_batch([PromptRecord("start", {})] * _GROUPS, policy.codec, seed))
    plans = [plan_of(row["response"]) for row in samples.rows]
    return fmean(len(set(plans[first : first + _K])) for first in range(0, len(plans), _K))


def _learn(world: PlanWorld, rollout: dict[str, Any], groups: int, steps: int, seed: int, folder: Path) -> float:
    """Rollouts until the plan of unlikely answers is more probable than all others together."""
    folder.mkdir()
    target = [1] * world.decisions
    stage = {
        "model": str(world.save_model(folder / "model")),
        "prompts": str(world.save_prompts(folder / "prompts.jsonl")),
        "rewards": {"plan": {"part": "plan", "target": target}},
        "diagnostics": {"plan": {"part": "plan", "target": target, "segment": world.segment}},
        "monitor_every": 1,
        "rollout": rollout | {"sampling": {"maximum_tokens": world.length}},
        "credit": "group-relative",
        "regulariser": {"part": "kl", "coefficient": 0},
        "steps": steps,
        "batch_size": groups,
        "save_every": 0,
        "optimiser": {"learning_rate": _RATE},
    }
    recipe = Recipe.model_validate({"seed": seed, "runtime": {"threads": 1}, "stages": {"online": stage}})
    execute(recipe, folder / "run", quiet=True)
    rows = read_json_lines(folder / "run" / "metrics.jsonl")
    reached = [row["step"] for row in rows if row["diagnostic/plan/probability"] > 0.5]
    return float(min(reached, default=steps + 1))
