"""A cascade of verifiers: a rule first, then a judge with tools for what the rule cannot settle.

Knows: how a judge is asked in turns, and what is remembered of its verdicts.
Does not know: rules and tools (`fairlead.checks` does), who is judged.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, Field, PrivateAttr, model_validator

from fairlead.batch import Prompts, Samples
from fairlead.checks import judging
from fairlead.checks.maths import Preset
from fairlead.checks.sandbox import Isolation, ensure_isolation
from fairlead.data import prompts_batch, responses_batch
from fairlead.data.records import Prompt, PromptRecord
from fairlead.generation import Sampling
from fairlead.models import ModelSpec
from fairlead.rewards.base import Reward
from fairlead.rewards.pooled import PooledReward, column
from fairlead.rewards.verify import need_package
from fairlead.runtime import ModelGroup, Opener

__all__ = ["CosineVerifier", "VerdictReward"]

_Case = tuple[str, str, str]
"""Question, candidate, reference."""


class CosineVerifier(PooledReward, name="cosine-verifier"):
    """1 when the answer equals the reference: by rule, else by a judge that may compute and convert units; else 0.

    The rule is that of `math` with units compared. An empty answer is 0 without a judge. What is left goes to `judge`: nobody
    (`rule`), tools without a model (`program`), the probability that a model gives to "Correct" (`label`), or a model that calls
    tools in turns and then says Correct or Incorrect (`tool`). A judge without a verdict, after `retries`, says Incorrect and is
    counted. Verdicts are remembered by question, reference and candidate. A judge's random numbers depend on these only.

    The judge's instructions state the rules of the paper in this package's words; a released judge that was trained on its
    own wording needs that. Its interpreter has Python's standard library.

    Source: CoSineVerifier (2025, arXiv 2512.01224), inference with tools; the cascade is this package's.
    """

    field: str = Field("answer", description="column that holds the reference, or a list of equivalent ones")
    judge: judging.Judge = Field("tool", description="who decides where the rule says no: rule, program, label, tool")
    model: Annotated[ModelSpec | None, BeforeValidator(lambda v: v if v is None else ModelSpec.coerce(v))] = Field(
        None, description="the judge, for `label` and `tool`: a language model"
    )
    preset: Preset = Field("reward", description="which answers the rule reads, as in `math`")
    decimals: int = Field(2, ge=0, description="decimals to which two numbers must agree at least, for `program`")
    tools: list[judging.Tool] = Field(
        default_factory=lambda: list(judging.TOOLS),
        description="what the judge `tool` may call; none: it only writes",
    )
    sampling: Sampling = Field(
        default_factory=lambda: Sampling(temperature=0.6, top_p=0.85, maximum_tokens=512),
        description="how the judge `tool` is sampled",
    )
    turns: int = Field(5, ge=1, description="messages of the judge at most")
    votes: int = Field(1, ge=1, description="independent judgements, of which the majority counts; a tie is Incorrect")
    abstain: float = Field(
        0.0,
        ge=0,
        lt=0.5,
        description="a share (or, of `label`, a probability) nearer to one half than this leaves the response out",
    )
    retries: int = Field(2, ge=0, description="further attempts of a judge that gave no verdict")
    candidate_characters: int = Field(8192, ge=1, description="the judge sees only so much of the end of the response")
    tool_seconds: float = Field(60.0, gt=0, description="time limit of one run of the interpreter")
    isolation: Isolation = Field("require", description="of the interpreter, as in `code-tests`")
    timeout: float = Field(90.0, gt=0, description="seconds for one sample of the rule, or one call of a tool")

    _group: ModelGroup | None = PrivateAttr(None)
    _known: dict[_Case, float] = PrivateAttr(default_factory=dict)
    _counts: dict[str, float] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _has_a_judge(self) -> CosineVerifier:
        speaks = self.judge in ("label", "tool")
        if speaks != (self.model is not None):
            raise ValueError(
                f"judge: {self.judge} needs `model`" if speaks else f"judge: {self.judge} asks no model: leave it out"
            )
        if self.timeout <= self.tool_seconds:
            raise ValueError(f"timeout ({self.timeout:g}) must be more than tool_seconds ({self.tool_seconds:g})")
        return self

    def open(self, run: Opener, name: str) -> None:
        need_package("math_verify", self.part_name, "math")
        if self.judge == "tool" and "python_interpreter" in self.tools:
            ensure_isolation(self.isolation)
        super().open(run, name)
        if self.model is not None:
            self._group = run.open(name, self.model, kind="causal")

    def close(self) -> None:
        self._group = None
        self._known.clear()
        super().close()

    def task(self, row: dict[str, Any]) -> tuple[Callable[..., float], tuple[Any, ...]]:
        golds = self._references(row)
        return judging.decide, (row["response"], golds, self.preset, self.judge == "program", self.decimals)

    def judge_rows(self, rows: list[dict[str, Any]]) -> list[float]:
        values = super().judge_rows(rows)
        cases = {i: self._case(rows[i]) for i, value in enumerate(values) if value == judging.UNDECIDED}
        new = [case for case in dict.fromkeys(cases.values()) if case not in self._known]
        self._counts = {
            "ruled": 1 - len(cases) / max(len(rows), 1),
            "asked": float(len(new)),
            "no_verdict": 0.0,
            "tool_calls": 0.0,
            "tool_errors": 0.0,
        }
        started = time.perf_counter()
        self._known.update(zip(new, self._ask_judge(new), strict=True))
        self._counts["seconds"] = time.perf_counter() - started
        for i, case in cases.items():
            values[i] = self._known[case]
        accepted = sum(values[i] > 0.5 for i in cases)
        self._counts["overruled"] = accepted / len(cases) if cases else 0.0
        return values

    def metrics(self) -> dict[str, float]:
        return super().metrics() | self._counts

    # -- the judge ---------------------------------------------------------------------------------------------------

    def _case(self, row: dict[str, Any]) -> _Case:
        prompt = row["prompt"]
        question = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        candidate = judging.candidate_of(row["response"], self.candidate_characters)
        return question, candidate, "; ".join(self._references(row))

    def _references(self, row: dict[str, Any]) -> list[str]:
        found = column(row, self.field, self.part_name)
        return [str(gold) for gold in found] if isinstance(found, list) else [str(found)]

    def _ask_judge(self, cases: list[_Case]) -> list[float]:
        if self._group is None or not cases:
            return [0.0] * len(cases)
        shares = self._labels(cases) if self.judge == "label" else self._majorities(cases)
        return [float("nan") if abs(share - 0.5) < self.abstain else share for share in shares]

    def _labels(self, cases: list[_Case]) -> list[float]:
        """P(Correct) of the two words, each with its end token."""
        assert self._group is not None
        prompts = [_messages(judging.task_of(*case, tools=[])) for case in cases for _ in range(2)]
        batch = responses_batch(prompts, ["Correct", "Incorrect"] * len(cases), self._group.codec)
        found = self._group.token_logprobs(batch).sum(1).reshape(-1, 2)
        return [float(share) for share in found.softmax(1)[:, 0]]

    def _majorities(self, cases: list[_Case]) -> list[float]:
        """1 where most of the votes are Correct; with an abstain band the share of them, to be rounded afterwards."""
        ballots = [(case, vote) for case in cases for vote in range(self.votes)]
        verdicts: dict[tuple[_Case, int], bool | None] = dict.fromkeys(ballots)
        for attempt in range(self.retries + 1):
            open_ballots = [ballot for ballot in ballots if verdicts[ballot] is None]
            verdicts |= dict(zip(open_ballots, self._converse(open_ballots, attempt), strict=True))
        self._counts["no_verdict"] = float(sum(verdict is None for verdict in verdicts.values()))
        shares = [sum(bool(verdicts[case, vote]) for vote in range(self.votes)) / self.votes for case in cases]
        return [share if abs(share - 0.5) < self.abstain else float(share > 0.5) for share in shares]

    def _converse(self, ballots: list[tuple[_Case, int]], attempt: int) -> list[bool | None]:
        """The verdict of each conversation: the judge writes, its tools answer, until it calls none."""
        talks: list[Any] = [_messages(judging.task_of(*case, tools=self.tools)) for case, _ in ballots]
        last = [""] * len(talks)
        active = list(range(len(talks)))
        for turn in range(self.turns):
            if not active:
                break
            seeds = [_seed(*ballots[i][0], ballots[i][1], attempt, turn) for i in active]
            samples = self._write([talks[i] for i in active], seeds)
            going = []
            for i, row in zip(active, samples.rows, strict=True):
                last[i] = row["response"]
                calls = judging.tool_calls(last[i]) if self.tools else []
                if calls:
                    talks[i].append({"role": "assistant", "content": last[i]})
                    going.append((i, [self._call(call) for call in calls]))
            for i, answers in going:
                talks[i] += [{"role": "tool", "content": self._answer(answer)} for answer in answers]
            active = [i for i, _ in going]
        # Whoever still calls tools after the last turn has not come to a verdict.
        return [None if i in active else judging.verdict(last[i]) for i in range(len(talks))]

    def _write(self, talks: list[Any], seeds: list[int]) -> Samples:
        assert self._group is not None
        prompts: Prompts = prompts_batch(
            [PromptRecord(prompt=talk, columns={}) for talk in talks], self._group.codec, 0
        )
        return self._group.generate(prompts.replace(seed=torch.tensor(seeds, dtype=torch.int64)), self.sampling)

    def _call(self, call: judging.ToolCall | str) -> Any:
        """Start a tool; all of a turn run at the same time."""
        self._counts["tool_calls"] += 1
        if isinstance(call, str):
            return call
        assert self._pool is not None
        arguments = (call.name, call.arguments, list(self.tools), self.tool_seconds, self.isolation)
        return self._pool.ask(judging.run_tool, arguments, self.timeout)

    def _answer(self, answer: Any) -> str:
        """What the tool says; a tool that broke is an error for the judge to read, not for the batch."""
        if not isinstance(answer, str):
            try:
                answer = str(answer.result())
            except Exception as error:
                answer = f"error: the tool failed ({type(error).__name__})"
        self._counts["tool_errors"] += answer.startswith("error:")
        return answer


class VerdictReward(Reward, name="verdict"):
    """For training a judge: 1 when its verdict is the record's label, a little more when it asked a tool, less when it says nothing.

    The verdict is the last "Correct" or "Incorrect" of the response; of a dialogue with tools, of its last turn. A tool counts when a
    call of it did not fail and the verdict is right, so that calls for their own sake earn nothing.

    Source: CoSineVerifier (2025, arXiv 2512.01224), second stage of training; price and bonus are this package's proposal.
    """

    field: str = Field("label", description="column that holds the label: Correct or Incorrect, or true or false")
    price: float = Field(0.5, ge=0, description="taken from a response without a verdict")
    tool_bonus: float = Field(
        0.1, ge=0, description="added to a right verdict that follows a call of a tool that did not fail"
    )

    def __call__(self, samples: Samples) -> torch.Tensor:
        return torch.tensor([self._one(row) for row in samples.rows], dtype=torch.float32)

    def _one(self, row: dict[str, Any]) -> float:
        label = column(row, self.field, self.part_name) if row.get(self.field) is not False else False
        wanted = label if isinstance(label, bool) else judging.verdict(str(label))
        if wanted is None:
            raise ValueError(f"reward {self.part_name}: the label {label!r:.40} is neither Correct nor Incorrect")
        said = judging.verdict(row["response"])
        if said is None:
            return -self.price
        return (1 + self.tool_bonus * _asked_a_tool(row)) if said == wanted else 0.0


def _asked_a_tool(row: dict[str, Any]) -> bool:
    """Whether a tool has answered in the dialogue, and not with an error."""
    turns = row.get("response_turns") or []
    return any(turn["role"] == "tool" and not str(turn["content"]).startswith("error:") for turn in turns)


def _messages(text: str) -> Prompt:
    return [{"role": "user", "content": text}]


def _seed(*parts: Any) -> int:
    """A seed that depends on the case and the attempt, and not on what else is judged."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7], "big")
