"""The test of safety: whether a policy keeps its limits, said with an error rate that holds.

Knows: how held-out prompts are answered and judged, what a certificate holds.
Does not know: how the policy was made, the mathematics of bounds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from fairlead.batch import Samples
from fairlead.constraints import Bound, MeanBound
from fairlead.data import PromptRecord, prompt_key, prompt_keys, prompts_batch, read, sources_within, to_prompts
from fairlead.models import Checkpoint
from fairlead.parts import nearest
from fairlead.rewards import Reward
from fairlead.rollouts import Rollout, SampleRollout
from fairlead.runs import RunError, StageRun, write_json
from fairlead.stages.base import EvenSources, Model, Stage, fitting_prompts

__all__ = ["Limit", "SafetyTest"]

RETURNED, NO_SOLUTION = "returned", "no solution found"


class Limit(BaseModel):
    """What the cost of a judge must be shown to keep."""

    model_config = ConfigDict(extra="forbid")

    channel: str = Field(description="name of the judge, among the stage's costs")
    limit: float = Field(0.0, description="d: what the bound must not exceed")
    bound: Bound = Field(default_factory=MeanBound, description="which statistic of the cost, and how it is bounded")


class SafetyTest(Stage, name="safety-test"):
    """Return a policy only if held-out answers show, with probability 1 − δ, that it keeps every limit.

    One answer is drawn for every prompt and its cost asked; the policy passes a limit when the upper confidence bound of the cost does
    not exceed it. With several limits each is tested at δ / their number. The outcome, `returned` or `no solution found`, stands
    in `certificate.json` of the stage with the figures that it follows from.

    The statement is about these judges, and about prompts drawn as these were. It holds for prompts that nothing before has looked at:
    the stage refuses those that an earlier stage of the recipe reads. Testing again, on the same prompts, until it passes voids it.

    Source: HC-RLHF 2025 (arXiv 2506.08266), the safety test; several limits: Bonferroni's inequality.
    """

    model: Model = Field(description="the policy to test")
    prompts: EvenSources = Field(description="prompts that nothing else uses")
    costs: dict[str, Reward] = Field(
        min_length=1, description="name → judge; the cost is its weight times what it says"
    )
    limits: dict[str, Limit] = Field(min_length=1, description="name → limit")
    delta: float = Field(0.1, gt=0, le=0.5, description="δ: probability with which an unsafe policy may be returned")
    seen: Literal["refuse", "tell"] = Field(
        "refuse",
        description="prompts that an earlier stage of the recipe reads are an error, or are counted in the certificate",
    )
    rollout: Rollout = Field(
        default_factory=SampleRollout, description="how the policy will be asked, one answer a prompt"
    )
    batch_size: int = Field(
        256, ge=1, description="prompts answered at a time; a run that is asked to stop stops between two batches"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> SafetyTest:
        if getattr(self.rollout, "n", 1) != 1 or self.rollout.draws_anchor:
            raise ValueError(
                "answers to one prompt are not independent: set rollout to one answer a prompt, {part: sample, n: 1}"
            )
        for name, limit in self.limits.items():
            if limit.channel not in self.costs:
                raise ValueError(
                    f"limit {name} is on the judge {limit.channel!r}, which is not among the costs; "
                    f"{nearest(limit.channel, self.costs)}"
                )
        for name, cost in self.costs.items():
            if not cost.weight:
                raise ValueError(f"cost {name} has weight 0 and is 0 always: set its weight to 1, or −1 for a reward")
        if self.model.lora is not None or self.model.initialise is not None:
            raise ValueError("a policy is tested as it is: take out `lora` and `initialise` of the model")
        return self

    def check(self, run: StageRun) -> None:
        records, _ = to_prompts([read(source, run.run.data_root) for source in self.prompts])
        self._independence(run, records)

    def run(self, run: StageRun) -> dict[str, Any]:
        records, report = to_prompts([run.read(source) for source in self.prompts])
        independence = self._independence(run, records)
        for name, cost in self.costs.items():
            cost.open(run, name)
        policy = run.open("policy", self.model)
        self.rollout.open(run, self.model, None)
        records, report, _ = fitting_prompts(policy, records, report, self.rollout.maximum_tokens, None)
        run.count(report)
        if len(records) < 2:
            raise RunError(f"a test needs two prompts or more, and there are {len(records)}")
        found = _Costs(len(records), list(self.costs))
        run.keep("costs", found)
        self.keep_parts(run)

        starts = range(0, len(records), self.batch_size)
        for step in run.steps(len(starts), self.save_every, self.retain):
            start = starts[step - 1]
            prompts = prompts_batch(records[start : start + self.batch_size], policy.codec, run.seed, start)
            samples = self.rollout(policy, prompts)
            costs = {name: cost.weight * cost.ask(samples) for name, cost in self.costs.items()}
            found.add(costs)
            if start == 0:
                run.log_samples(0, _texts(samples, costs))
            run.run.console.step(step, {})

        limits = {name: self._test(name, limit, found.tensor(limit.channel)) for name, limit in self.limits.items()}
        with Checkpoint(run.resolve(self.model)) as checkpoint:
            digest = checkpoint.digest()
        certificate = {
            "outcome": RETURNED if all(entry["passed"] for entry in limits.values()) else NO_SOLUTION,
            "delta": self.delta,
            "limits": limits,
            "model": {"path": self.model.path, "sha256": digest},
            "data": {"prompts": len(records), "left_out": report.dropped.total(), "sha256": _digest(records)},
            "independence": independence,
            "rollout": self.rollout.model_dump(mode="json"),
            "costs": {name: cost.model_dump(mode="json") for name, cost in self.costs.items()},
            "seed": run.seed,
        }
        write_json(run.directory / "certificate.json", certificate)
        return run.finish({"certificate": certificate})

    def _test(self, name: str, limit: Limit, costs: Tensor) -> dict[str, Any]:
        """The figures of one limit, and whether the policy passes it; a cost that nobody could tell never speaks for it."""
        delta = self.delta / len(self.limits)
        known = costs[costs.isfinite()]
        upper: float | None = None
        if len(known) == len(costs) or limit.bound.missing is not None:
            worst = torch.tensor(limit.bound.missing or 0.0, dtype=costs.dtype)
            try:
                upper = limit.bound(torch.where(costs.isfinite(), costs, worst), delta)
            except ValueError as error:
                raise RunError(f"limit {name} cannot be tested: {error}") from error
        return {
            "channel": limit.channel,
            "bound": limit.bound.model_dump(mode="json"),
            "n": len(costs),
            "missing": len(costs) - len(known),
            "mean": float(known.mean()) if len(known) else None,
            "std": float(known.std()) if len(known) > 1 else None,
            "U": upper,
            "d": limit.limit,
            "delta": delta,
            "passed": upper is not None and upper <= limit.limit,
        }

    def _independence(self, run: StageRun, records: Sequence[PromptRecord]) -> dict[str, Any]:
        """How many of the prompts each earlier stage of the recipe reads, and what cannot be told; RunError where it must be none."""
        keys = [prompt_key(record.prompt) for record in records]
        shared: dict[str, int] = {}
        unreadable: dict[str, int] = {}
        for identifier, stage in run.earlier.items():
            read_there: set[str] = set()
            for source in sources_within(stage):
                found, without = prompt_keys(read(source, run.run.data_root))
                read_there |= found
                unreadable[identifier] = unreadable.get(identifier, 0) + without
            shared[identifier] = sum(key in read_there for key in keys)
        seen = [f"{count} by stage {identifier}" for identifier, count in shared.items() if count]
        if seen and self.seen == "refuse":
            raise RunError(
                f"stage {run.id}: of its {len(keys)} prompts the recipe reads elsewhere {', '.join(seen)}, and a test holds only for prompts "
                "that nothing else has seen: give it prompts of its own, or set seen: tell to have them counted in the certificate"
            )
        return {
            "prompts_read_by_earlier_stages": shared,
            "records_without_a_prompt": {identifier: count for identifier, count in unreadable.items() if count},
            "different_prompts": len(set(keys)),
        }


class _Costs:
    """The cost of every answer so far, by judge: what an interrupted test must not lose, and must not draw anew."""

    def __init__(self, prompts: int, names: list[str]) -> None:
        self.prompts = prompts
        self.costs: dict[str, list[float]] = {name: [] for name in names}

    def add(self, costs: dict[str, Tensor]) -> None:
        """Append a batch."""
        for name, values in costs.items():
            self.costs[name] += values.tolist()

    def tensor(self, name: str) -> Tensor:
        """[n] float64, NaN where the judge failed."""
        return torch.tensor(self.costs[name], dtype=torch.float64)

    def state_dict(self) -> dict[str, Any]:
        """Everything so far."""
        return {"prompts": self.prompts, "costs": self.costs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; ValueError when the prompts are no longer the same."""
        if state["prompts"] != self.prompts:
            raise ValueError(f"the data has changed: there were {state['prompts']} prompts and are {self.prompts} now")
        self.costs = state["costs"]


def _digest(records: Sequence[PromptRecord]) -> str:
    """SHA-256 of the prompts in their order."""
    found = hashlib.sha256()
    for record in records:
        found.update(prompt_key(record.prompt).encode() + b"\0")
    return found.hexdigest()


def _texts(samples: Samples, costs: dict[str, Tensor], limit: int = 8) -> list[dict[str, Any]]:
    first = next(iter(costs.values()))
    return [
        {"prompt": row["prompt"], "response": row["response"], "score": float(cost)}
        for row, cost in list(zip(samples.rows, first.tolist(), strict=True))[:limit]
    ]
