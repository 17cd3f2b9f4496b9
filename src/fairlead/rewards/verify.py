"""Rewards that a program can verify: answers, patterns, JSON, instructions, mathematics, programs with tests.

Knows: which columns and settings a check takes.
Does not know: how anything is checked (`fairlead.checks` does).
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from fairlead.checks import maths, programs, texts
from fairlead.checks.sandbox import Isolation, Limits, ensure_isolation
from fairlead.rewards.pooled import PooledReward, column
from fairlead.runtime import Opener

__all__ = [
    "CodeTestsReward",
    "ExactReward",
    "InstructionsReward",
    "JsonReward",
    "MathReward",
    "RegexReward",
    "need_package",
]

_Task = tuple[Callable[..., float], tuple[Any, ...]]


def need_package(module: str, part: str, extra: str) -> None:
    """Raises ValueError where an optional package is not installed; nothing is imported."""
    if importlib.util.find_spec(module) is None:
        raise ValueError(f'the reward {part} needs the package {module}: pip install "fairlead[{extra}]"')


def _pattern(value: str | None) -> str | None:
    try:
        re.compile(value or "")
    except re.error as error:
        raise ValueError(f"{value!r} is no regular expression: {error}") from error
    return value


class ExactReward(PooledReward, name="exact"):
    """1 when the response is the record's reference, or one of several, and 0 when it is not.

    White space does not count, nor does what stands before an end-of-thinking marker. With `extract` the last match in the
    response is compared: its first group, or all of it.

    Source: exact match as in question answering (Rajpurkar et al. 2016, SQuAD, arXiv 1606.05250).
    """

    field: str = Field("answer", description="column that holds the reference, or a list of them")
    extract: str | None = Field(
        None, description="regular expression of the answer in the response, e.g. `answer is (.*)`; null: all of it"
    )
    ignore_case: bool = Field(False, description="compare without regard to case")

    _valid = field_validator("extract")(_pattern)

    def task(self, row: dict[str, Any]) -> _Task:
        reference = column(row, self.field, self.part_name)
        return texts.exact, (row["response"], reference, self.extract, self.ignore_case)


class RegexReward(PooledReward, name="regex"):
    """1 when a regular expression is found in the response, and 0 when it is not.

    A pattern that runs for ever costs its sample only.

    Source: format rewards such as those of DeepSeek-R1 (arXiv 2501.12948), section 2.2.2.
    """

    pattern: str | None = Field(None, description="the expression; null: each record has its own")
    field: str = Field("pattern", description="column that holds it, without `pattern`")
    whole: bool = Field(False, description="the expression must match all of the response")

    _valid = field_validator("pattern")(_pattern)

    def task(self, row: dict[str, Any]) -> _Task:
        pattern = column(row, self.field, self.part_name) if self.pattern is None else self.pattern
        return texts.matches, (row["response"], pattern, self.whole)


class JsonReward(PooledReward, name="json"):
    """1 when the response (or its last fenced block) is JSON and meets a JSON Schema, and 0 when it does not.

    Source: JSON (RFC 8259); JSON Schema by the library jsonschema, which must be installed for it.
    """

    json_schema: dict[str, Any] | None = Field(None, description="a JSON Schema; null: that of the record, if any")
    field: str = Field("schema", description="column that holds a schema, without `json_schema`; it may be absent")

    def open(self, run: Opener, name: str) -> None:
        if self.json_schema is not None:
            need_package("jsonschema", self.part_name, "json")
        super().open(run, name)

    def task(self, row: dict[str, Any]) -> _Task:
        schema = row.get(self.field) if self.json_schema is None else self.json_schema
        return texts.valid_json, (row["response"], schema)


class InstructionsReward(PooledReward, name="instructions"):
    """Whether the response follows instructions that can be counted: lengths, words, beginning and end, format.

    An instruction is a mapping of its kind to what is asked: `words`, `sentences`, `lines`, `paragraphs`: bounds `at_least`,
    `at_most`; `include` (all), `any`, `exclude`: lists of whole words; `count`: a word and bounds; `starts`, `ends`: a text;
    `format`: json, bullets, numbered, upper, lower, no-commas or quoted. None depends on a language.

    Source: verifiable instructions of Zhou et al. 2023 (IFEval, arXiv 2311.07911), table 1; as rewards: Lambert et al. 2024
    (Tülu 3, arXiv 2411.15124), section 6.
    """

    wanted: list[dict[str, Any]] | None = Field(
        None, description="instructions for every record, e.g. `[{words: {at_most: 20}}]`; null: those of the record"
    )
    field: str = Field("instructions", description="column that lists them, without `wanted`")
    partial: bool = Field(False, description="the share of instructions followed in place of all or nothing")

    @field_validator("wanted")
    @classmethod
    def _known(cls, wanted: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
        if wanted is not None:
            texts.check_instructions(wanted)
        return wanted

    def task(self, row: dict[str, Any]) -> _Task:
        wanted = column(row, self.field, self.part_name) if self.wanted is None else self.wanted
        return texts.instructions, (row["response"], wanted, self.partial)


class MathReward(PooledReward, name="math"):
    """1 when the answer in the response equals the record's reference as mathematics, and 0 when it does not.

    The library Math-Verify parses and compares. Only what stands behind an end-of-thinking marker counts. A parse or a
    comparison of more than 5 s is 0; a process that takes longer than `timeout` is a failure.

    Source: Math-Verify (Kydlíček, Hugging Face, 2025); its presets for rewards and for evaluation.
    """

    field: str = Field("answer", description="column that holds the reference, or a list of them")
    preset: maths.Preset = Field(
        "reward",
        description="`reward`: the last \\boxed{…} only, malformed LaTeX is not repaired; `evaluation`: whatever looks like an answer",
    )
    decimals: int = Field(6, ge=0, description="decimals to which numbers are rounded where one is a decimal number")
    units: Literal["drop", "compare"] = Field(
        "drop", description="`drop`: 5 cm equals 5 m; `compare`: a unit in the reference must stand in the answer"
    )
    timeout: float = Field(30.0, gt=0, description="seconds for one sample")

    def open(self, run: Opener, name: str) -> None:
        need_package("math_verify", self.part_name, "math")
        super().open(run, name)

    def task(self, row: dict[str, Any]) -> _Task:
        reference = column(row, self.field, self.part_name)
        return maths.score, (row["response"], reference, self.preset, self.decimals, self.units)


class CodeTestsReward(PooledReward, name="code-tests"):
    """1 when the program in the response (its last fenced block) passes the record's tests in a sandbox, and 0 when not.

    Tests are assertions that call the program's functions, or mappings with `stdin` and `stdout`. The program never shares a
    process with what judges it: outputs are compared outside, and functions are called from another process, with plain data.
    A program may use Python's standard library, compute, and write to its output; no files, processes, threads or network.

    Source: execution-based rewards as in Le et al. 2022 (CodeRL, arXiv 2207.01780); tests as in HumanEval (Chen et al. 2021,
    arXiv 2107.03374).
    """

    field: str = Field("tests", description="column that lists the tests")
    partial: bool = Field(False, description="the share of tests passed in place of all or nothing")
    seconds: float = Field(10.0, gt=0, description="wall-clock time for all tests of a response together")
    megabytes: int = Field(512, ge=64, description="address space of a program")
    output: int = Field(65_536, ge=1, description="bytes that a program may write to standard output")
    isolation: Isolation = Field(
        "require",
        description="`require`: refuse where the system cannot isolate programs (it takes Linux 5.13 with Landlock and seccomp); `best-effort`: go on with limits of time and memory",
    )
    timeout: float = Field(30.0, gt=0, description="seconds for one sample, more than `seconds`")

    @model_validator(mode="after")
    def _time_to_judge(self) -> CodeTestsReward:
        if self.timeout <= self.seconds:
            raise ValueError(
                f"timeout ({self.timeout:g}) must be more than seconds ({self.seconds:g}): else a program that hangs counts as a failed check"
            )
        return self

    def open(self, run: Opener, name: str) -> None:
        ensure_isolation(self.isolation)
        super().open(run, name)

    def task(self, row: dict[str, Any]) -> _Task:
        limits = Limits(self.seconds, self.megabytes, self.output, self.isolation)
        tests = column(row, self.field, self.part_name)
        return programs.score, (row["response"], tests, tuple(limits), self.partial)
