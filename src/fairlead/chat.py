"""Talking to a model.

Knows: turns, the commands /reset and /quit, which model of a run is the last, and what fits into a context.
Does not know: how text is sampled.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import yaml
from rich.console import Console

from fairlead.data import PromptRecord, prompts_batch
from fairlead.data.records import Message
from fairlead.generation import Sampling
from fairlead.models import ModelSpec
from fairlead.runs import RunError, read_json
from fairlead.runtime import GroupSpec, LocalGroup

__all__ = ["Conversation", "converse", "last_model"]

_HELP = "/reset begins anew, /quit ends"


def last_model(place: str) -> str:
    """Of a run directory the language model that its last stage made; any other place unchanged.

    Raises RunError for a run that has made none.
    """
    recipe = Path(place) / "recipe.yaml"
    if not recipe.is_file():
        return place
    for identifier in reversed((yaml.safe_load(recipe.read_text(encoding="utf-8")) or {}).get("stages") or {}):
        model = Path(place) / "stages" / identifier / "model"
        if (model / "config.json").is_file():
            architectures = read_json(model / "config.json").get("architectures") or []
            if not any("SequenceClassification" in name for name in architectures):  # a reward model does not talk
                return str(model)
    raise RunError(f"{place}: no stage of this run has made a language model yet")


class Conversation:
    """A model and what was said so far."""

    def __init__(self, model: str, sampling: Sampling, system: str | None = None, seed: int = 0) -> None:
        self.group = LocalGroup(GroupSpec(role="chat", model=ModelSpec(path=model)))
        self.sampling = sampling
        self.seed = seed
        self._opening: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self._turns: list[Message] = []
        self._answers = 0
        context = self.group.context
        self._room = None if context is None else max(context - sampling.maximum_tokens, 1)

    def reset(self) -> None:
        """Forget what was said."""
        self._turns.clear()

    def answer(self, message: str) -> str:
        """The model's answer. The oldest turns are forgotten when the conversation outgrows the model's context."""
        self._turns.append({"role": "user", "content": message})
        codec = self.group.codec
        while (
            len(self._turns) > 2 and self._room and len(codec.encode_prompt(self._opening + self._turns)) > self._room
        ):
            del self._turns[:2]
        records = [PromptRecord(self._opening + self._turns)]
        prompts = prompts_batch(records, codec, self.seed + self._answers, maximum=self._room, overlong="truncate_left")
        self._answers += 1
        text: str = next(iter(self.group.generate(prompts, self.sampling).rows))["response"].strip()
        self._turns.append({"role": "assistant", "content": text})
        return text


def converse(place: str, *, system: str | None, temperature: float, maximum_tokens: int, seed: int) -> None:
    """Talk on standard input and output; prints answers only when the input is not a terminal."""
    sampling = Sampling(maximum_tokens=maximum_tokens, temperature=temperature)
    conversation = Conversation(last_model(place), sampling, system, seed)
    interactive = sys.stdin.isatty()
    console = Console(highlight=False)
    if interactive:
        console.print(f"[dim]{_HELP}[/dim]")
    for line in _lines(console, interactive):
        if line == "/quit":
            break
        if line == "/reset":
            conversation.reset()
        elif line.startswith("/"):
            Console(stderr=True).print(f"no command {line.split()[0]!r}: {_HELP}", markup=False)
        elif line:
            _show(conversation.answer(line), slowly=interactive)


def _lines(console: Console, interactive: bool) -> Iterator[str]:
    if not interactive:
        yield from (line.strip() for line in sys.stdin)
        return
    while True:
        try:
            yield console.input("[bold cyan]you[/bold cyan] ").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return


def _show(text: str, slowly: bool) -> None:
    """Print an answer; word by word where somebody watches."""
    for word in text.split(" ") if slowly else [text]:
        print(word, end=" " if slowly else "", flush=True)
        time.sleep(0.02 if slowly else 0)
    print(flush=True)
