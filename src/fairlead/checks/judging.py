"""What a judge that speaks needs: its task in words, its tools, and how its answer is read.

Knows: texts of a judge and of the candidates that it judges.
Does not know: models.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from fairlead.checks import maths
from fairlead.checks.quantities import convert
from fairlead.checks.sandbox import Isolation, Limits, run_script
from fairlead.checks.texts import answer_of

__all__ = [
    "TOOLS",
    "UNDECIDED",
    "Judge",
    "Tool",
    "ToolCall",
    "candidate_of",
    "decide",
    "run_tool",
    "task_of",
    "tool_calls",
    "verdict",
]

Judge = Literal["rule", "program", "label", "tool"]
Tool = Literal["python_interpreter", "unit_conversion"]

UNDECIDED = 0.5
"""What `decide` returns where neither rule nor rejection settles the matter."""

TOOLS: dict[Tool, str] = {
    "python_interpreter": "python_interpreter(code): runs Python code; returns its stdout, stderr and status",
    "unit_conversion": "unit_conversion(value, source_unit, target_unit): the magnitude in the target unit",
}

_TASK = """Decide whether the candidate's final answer is the reference answer.

* The reference is right and the question is valid. Judge the final answer only, and do not solve the question again.
* Formatting does not matter. Answers that are equal after simplification, or after rounding to two decimals, are the same.
* A missing unit is fine. Convert where units differ.
* All parts of an answer with several parts must match, in any order unless the question asks for one. Of several references that are the same one is enough; of different ones all are needed.
* A candidate that is cut off, repeats itself or takes back its own answer is wrong.
"""
_HOW_TO_CALL = """
Tools:
{tools}
Call one by writing <tool_call>{{"name": "…", "arguments": {{…}}}}</tool_call>.
"""
_CASE = """
Question: {question}

Candidate: {candidate}

Reference: {reference}

{how}End with "Final: [Correct]" or "Final: [Incorrect]"."""

_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_MARKERS = re.compile(r"<\|[^<>|]{1,40}\|>|</?(?:tool_call|tool_response|think)>")
_CAPTURED = """
import contextlib, io, json, sys, traceback
out, err, status = io.StringIO(), io.StringIO(), "done"
with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    try:
        exec(compile({code!r}, "<code>", "exec"), {{"__name__": "__main__"}})
    except BaseException:
        status = "error"
        traceback.print_exc(limit=-1)
print(json.dumps({{"stdout": out.getvalue()[-4000:], "stderr": err.getvalue()[-2000:], "status": status}}))
"""


class ToolCall(NamedTuple):
    """What a judge wants to be done."""

    name: str
    arguments: dict[str, Any]


def decide(response: str, golds: list[str], preset: maths.Preset, program: bool, decimals: int) -> float:
    """1 by the rule, 0 where there is no answer to judge, else UNDECIDED; with `program` tools decide without a model."""
    text = answer_of(response)
    answer = maths.answer_in(text) or (text.strip() if preset == "evaluation" else None)
    if not answer:
        return 0.0
    for gold in golds:
        try:
            if maths.equal(response, gold, preset, units="compare"):
                return 1.0
        except ValueError:
            continue  # the rule cannot read this reference, which is what judges are for
    return float(any(maths.equivalent(answer, gold, decimals) for gold in golds)) if program else UNDECIDED


def candidate_of(response: str, characters: int) -> str:
    """The end of what stands behind the thought, without markers that would speak for another role."""
    return _MARKERS.sub("", answer_of(response)).strip()[-characters:]


def task_of(question: str, candidate: str, reference: str, tools: list[Tool]) -> str:
    """The judge's task as one message; `tools` names those that it may call."""
    how = "Think as briefly as you can. "
    offered = "".join(f"* {TOOLS[name]}\n" for name in tools)
    return (
        _TASK
        + (_HOW_TO_CALL.format(tools=offered.rstrip()) if tools else "")
        + _CASE.format(question=question, candidate=candidate, reference=reference, how=how)
    )


def verdict(message: str) -> bool | None:
    """The last "Correct" or "Incorrect" of the judge's last message; None where it says neither.

    "Incorrect" holds no capital "Correct", so that the last occurrence decides.
    """
    right, wrong = message.rfind("Correct"), message.rfind("Incorrect")
    return None if right == wrong else right > wrong


def tool_calls(message: str) -> list[ToolCall | str]:
    """The calls in a message in order; for one that cannot be read, the text to answer it with."""
    found: list[ToolCall | str] = []
    for text in _CALL.findall(message):
        try:
            call = json.loads(text)
            found.append(ToolCall(str(call["name"]), dict(call["arguments"])))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            found.append(f"error: not a tool call ({type(error).__name__}: {error})")
    return found


def run_tool(name: str, arguments: dict[str, Any], offered: list[Tool], seconds: float, isolation: Isolation) -> str:
    """What a tool answers; its errors are text, for the judge to read."""
    if name not in offered:
        return f"error: there is no tool {name!r:.40}, only {', '.join(offered)}"
    try:
        return _RUN[name](seconds, isolation, **arguments)
    except (TypeError, ValueError, OverflowError) as error:
        return f"error: {error}"


def _python(seconds: float, isolation: Isolation, code: str) -> str:
    output = run_script(_CAPTURED.format(code=str(code)), "", Limits(seconds, isolation=isolation))
    return f"error: no result within {seconds:g} s and the memory allowed" if output is None else output.strip()


def _convert(seconds: float, isolation: Isolation, value: float, source_unit: str, target_unit: str) -> str:
    return f"{convert(float(value), str(source_unit), str(target_unit)):.12g} {target_unit}"


_RUN: dict[str, Callable[..., str]] = {"python_interpreter": _python, "unit_conversion": _convert}
