"""The environment slot: `dialogues → what is said to each of them next`."""

from __future__ import annotations

import json
import logging
import re
import weakref
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field, PrivateAttr, field_validator

from fairlead import functional
from fairlead.calls import apply, invoke
from fairlead.data import FunctionPath, Message, PromptRecord, prompts_batch
from fairlead.evaluation import plain_text
from fairlead.generation import Sampling
from fairlead.models import ModelSpec
from fairlead.parts import Part
from fairlead.pool import Failure, Pool, wait
from fairlead.rollouts.talk import Talk
from fairlead.runtime import ModelGroup, Opener

__all__ = ["Environment", "FunctionEnvironment", "ModelUser", "RecordedTurns", "Reply", "Tools"]

logger = logging.getLogger(__name__)

Reply = list[Message] | Failure
"""Messages, none where there is nothing to add and the dialogue ends, or what went wrong."""


class Environment(Part, slot="environment"):
    """Who answers the policy in a dialogue: a user, a tool, a game."""

    def open(self, run: Opener) -> None:
        """Open whatever is needed; called once before the first step."""

    @abstractmethod
    def __call__(self, talks: Sequence[Talk]) -> list[Reply]:
        """An answer to each dialogue, whose last turn is the policy's; it depends on its own dialogue and seed only."""

    def most_turns(self, row: dict[str, Any]) -> int | None:
        """The policy's turns in a dialogue of this record where they are known beforehand."""
        return None

    def metrics(self) -> dict[str, float]:
        """What the environment has counted since it was last asked."""
        return {}


class RecordedTurns(Environment, name="recorded"):
    """The user's turns as they stand in a column of the data, one after each turn of the policy, whatever the policy says.

    Source: setting two of REFUEL (Gao et al. 2024, arXiv 2410.04612).
    """

    column: str = Field("user_turns", description="the user's further turns: a list of texts or messages")

    def __call__(self, talks: Sequence[Talk]) -> list[Reply]:
        return [[_message(turn) for turn in self._of(talk.row)[talk.said - 1 : talk.said]] for talk in talks]

    def most_turns(self, row: dict[str, Any]) -> int | None:
        return len(self._of(row)) + 1

    def _of(self, row: dict[str, Any]) -> list[Any]:
        turns = row.get(self.column)
        if not isinstance(turns, list):
            raise ValueError(
                f"environment recorded: a record has no list of turns in the column {self.column!r} (it has "
                f"{', '.join(sorted(row))}); set rollout.environment.column to the one that is meant"
            )
        return turns


class ModelUser(Environment, name="model"):
    """A language model plays the user: it reads the dialogue as text and writes the user's next message.

    A dialogue that its context does not hold loses its beginning.

    Source: the simulated user of REFUEL's setting one (Gao et al. 2024, arXiv 2410.04612), who is asked for a reason and a question.
    """

    model: Annotated[ModelSpec, BeforeValidator(ModelSpec.coerce)] = Field(description="the model that plays the user")
    sampling: Sampling = Field(default_factory=Sampling, description="how its messages are drawn")
    instruction: str = Field(
        "Here is a dialogue between a user and an assistant.\n\n{dialogue}\n\nWrite the user's next message.",
        description="what the model is asked; {dialogue} stands for the dialogue",
    )
    keep: str | None = Field(
        None,
        description="pattern of what becomes the message (its first group, if it has one): a question behind its reasons, say; null: all. "
        "Where it does not match, the environment has failed",
    )
    farewell: str | None = Field(None, description="text by which the model ends the dialogue; null: it cannot")

    _group: ModelGroup | None = PrivateAttr(None)

    @field_validator("instruction")
    @classmethod
    def _has_place(cls, text: str) -> str:
        if "{dialogue}" not in text:
            raise ValueError("the instruction must hold {dialogue}, where the dialogue is put")
        return text

    @field_validator("keep")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        _compile(pattern or "")
        return pattern

    def open(self, run: Opener) -> None:
        self._group = run.open("user", self.model)

    def close(self) -> None:
        self._group = None

    def __call__(self, talks: Sequence[Talk]) -> list[Reply]:
        assert self._group is not None, "open the environment before it is asked"
        group = self._group
        texts = [self.instruction.replace("{dialogue}", _transcript(talk.messages)) for talk in talks]
        records = [PromptRecord([{"role": "user", "content": text}]) for text in texts]
        room = None if group.context is None else max(group.context - self.sampling.maximum_tokens, 1)
        prompts = prompts_batch(records, group.codec, 0, maximum=room, overlong="truncate_left")
        seeds = functional.mix_seeds(
            torch.tensor([talk.seed for talk in talks]), torch.tensor([-talk.said for talk in talks])
        )
        answers = group.generate(prompts.replace(seed=seeds), self.sampling)
        return [self._reply(str(row["response"]).strip()) for row in answers.rows]

    def _reply(self, text: str) -> Reply:
        if self.farewell is not None and self.farewell in text:
            return []
        if self.keep is not None:
            found = re.search(self.keep, text, re.DOTALL)
            if found is None:
                return Failure("error", f"the user's model wrote nothing that matches {self.keep!r}: {text[:60]!r}")
            text = str(found.group(1 if found.re.groups else 0))
        return [_message(text)] if text else Failure("error", "the user's model wrote nothing")


class _PooledEnvironment(Environment):
    """An environment whose work is done in worker processes."""

    timeout: float = Field(10.0, gt=0, description="seconds for one call")
    workers: int = Field(
        0, ge=0, description="processes, shared with rewards of as many; 0: one for every core up to 4"
    )

    _pool: Pool | None = PrivateAttr(None)
    _forgotten: Any = PrivateAttr(None)

    def open(self, run: Opener) -> None:
        self.close()
        self._pool = Pool.share(self.workers)
        self._forgotten = weakref.finalize(self, self._pool.leave)

    def close(self) -> None:
        if self._pool is not None:
            self._forgotten()
            self._pool = None

    def ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """A future, for `wait`."""
        assert self._pool is not None, "open the environment before it is asked"
        return self._pool.ask(function, arguments, self.timeout)


class FunctionEnvironment(_PooledEnvironment, name="function"):
    """A function `(messages, **columns) → message or None` answers the policy: a scripted user, a game.

    `messages` is the dialogue so far, prompt included. The function is given those columns of the record, and of `arguments`, that it
    asks for. A text is a message of the user, None ends the dialogue.

    Source: the environment interface of programmatic RL, reduced to messages.
    """

    function: FunctionPath = Field(description="`module:function`")
    arguments: dict[str, Any] = Field(default_factory=dict, description="further keyword arguments for every call")

    def __call__(self, talks: Sequence[Talk]) -> list[Reply]:
        futures = [self.ask(invoke, self.function, (talk.messages,), talk.row | self.arguments) for talk in talks]
        return [self._reply(wait(future, self.timeout)) for future in futures]

    def _reply(self, found: Any) -> Reply:
        if found is None:
            return []
        if isinstance(found, Failure):
            return found
        try:
            return [_message(found)]
        except ValueError as error:
            return Failure("error", f"{self.function}: {error}")


_CALLS = {
    "json": re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL),
    "brackets": re.compile(r"\[(\w+)\((.*?)\)\]", re.DOTALL),
}


class Tools(_PooledEnvironment, name="tools"):
    """Runs the tool calls of the policy's turn and tells it the results; a turn without a call ends the dialogue.

    Every tool is a Python function that runs in a worker process. A call that names no tool, cannot be read, raises or takes too long
    is answered by a message that says so and is counted: the policy can try again. The functions are trusted; the calls are not.

    Source: Schick et al. 2023 (Toolformer, arXiv 2302.04761) for calls in brackets; the form in JSON is that of Hermes and Qwen.
    """

    tools: dict[str, FunctionPath] = Field(
        default_factory=lambda: {"calculator": "fairlead.checks.calculator:calculate"},
        min_length=1,
        description="name → `module:function`",
    )
    form: Literal["json", "brackets"] = Field(
        "json",
        description='json: <tool_call>{"name": …, "arguments": {…}}</tool_call>; brackets: [name(text)], the text being the only argument',
    )
    role: str = Field("tool", description="role of the message with the results; user for templates that know no tools")
    most_calls: int = Field(4, ge=1, description="calls of a turn that are run; further ones are refused")
    otherwise: Environment | None = Field(
        None, description="who answers a turn without a call; null: nobody, and the dialogue ends"
    )

    _counts: Counter[str] = PrivateAttr(default_factory=Counter)

    @field_validator("tools")
    @classmethod
    def _named(cls, tools: dict[str, str]) -> dict[str, str]:
        for name in tools:
            if not re.fullmatch(r"\w+", name):
                raise ValueError(f"the name of a tool is made of letters, digits and _, not {name!r}")
        return tools

    def open(self, run: Opener) -> None:
        super().open(run)
        if self.otherwise is not None:
            self.otherwise.open(run)

    def __call__(self, talks: Sequence[Talk]) -> list[Reply]:
        calls = [_CALLS[self.form].findall(talk.turns[-1]["content"]) for talk in talks]
        # All calls of all dialogues are at work before the first result is waited for.
        begun = [[self._begin(call, place) for place, call in enumerate(of_talk)] for of_talk in calls]
        plain = [talk for talk, of_talk in zip(talks, calls, strict=True) if not of_talk]
        others = iter(self.otherwise(plain) if self.otherwise is not None and plain else [[] for _ in plain])
        self._counts["turns"] += len(talks)
        return [
            [{"role": self.role, "content": "\n".join(finish() for finish in of_talk)}] if of_talk else next(others)
            for of_talk in begun
        ]

    def metrics(self) -> dict[str, float]:
        counts, self._counts = self._counts, Counter()
        turns = max(counts["turns"], 1)
        found = {f"tool_{name}": counts[name] / turns for name in ("calls", "errors", "timeouts")}
        return found | ({} if self.otherwise is None else self.otherwise.metrics())

    def _begin(self, call: Any, place: int) -> Callable[[], str]:
        """Start a call; what is returned waits for its result."""
        self._counts["calls"] += 1
        try:
            if place >= self.most_calls:
                raise ValueError(f"at most {self.most_calls} calls in a turn")
            name, given, named = self._read(call)
            if name not in self.tools:
                raise ValueError(f"there is no tool {name!r}; there are {', '.join(self.tools)}")
        except ValueError as error:
            reason = str(error)
            return lambda: self._failed(Failure("error", reason))
        future = self.ask(apply, self.tools[name], given, named)
        return lambda: self._result(wait(future, self.timeout))

    def _read(self, call: Any) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
        if self.form == "brackets":
            return call[0], (call[1],), {}
        found = json.loads(call)  # its error is a ValueError, too
        if not isinstance(found, dict) or not isinstance(found.get("arguments", {}), dict) or "name" not in found:
            raise ValueError('a call has the form {"name": …, "arguments": {…}}')
        return str(found["name"]), (), found.get("arguments", {})

    def _result(self, found: Any) -> str:
        if isinstance(found, Failure):
            return self._failed(found)
        return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False, default=str)

    def _failed(self, failure: Failure) -> str:
        self._counts[f"{failure.kind}s"] += 1
        return f"error: {failure.reason}"


def _message(value: Any) -> Message:
    """A text as what a user says, or a message as it is; ValueError for anything else."""
    if isinstance(value, str):
        return {"role": "user", "content": value}
    if isinstance(value, dict) and isinstance(value.get("role"), str) and isinstance(value.get("content"), str):
        return value  # type: ignore[return-value]
    raise ValueError(f"an answer is a text or a message with role and content, not {value!r}")


def _transcript(messages: Sequence[Message]) -> str:
    return "\n".join(f"{message['role'].capitalize()}: {plain_text(message['content'])}" for message in messages)


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
