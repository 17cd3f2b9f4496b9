"""Dialogues: the policy and somebody else take turns.

Knows: the order of a dialogue, when it ends, what of it is learned from.
Does not know: who answers, how tokens are drawn.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from pydantic import Field, PrivateAttr

from fairlead import functional
from fairlead.batch import Prompts, Samples, left_pad, row_table
from fairlead.data import Message
from fairlead.generation import Watcher
from fairlead.models import ModelSpec
from fairlead.pool import Failure
from fairlead.rollouts.environments import Environment
from fairlead.rollouts.sample import SampleRollout
from fairlead.rollouts.talk import OUTCOMES, Talk, talks_to_samples
from fairlead.runtime.group import ModelGroup, Opener

__all__ = ["Branches", "Dialogue"]

logger = logging.getLogger(__name__)

_JUDGED, _BRANCHING, _FUTURES = -1, -2, -3  # counters and salts of random numbers that no turn uses


class Dialogue(SampleRollout, name="dialogue"):
    """The policy speaks, the environment answers, and so on for some turns; only what the policy wrote is learned from.

    The response of a row is everything behind the prompt. Tokens of earlier turns stay as they were sampled; what the template writes
    between two turns, and what the environment says, stand in the response outside the mask. A dialogue ends when the environment has
    nothing to add, after `turns` turns, with a turn that the limit of tokens cut, where another turn would not fit (what was said to the
    policy last is then left out), or when the environment fails. A row has the columns `response` (the policy's last turn), `response_turns` (all
    messages behind the prompt) and `outcome`; the share of every outcome is reported.

    Source: Shani et al. 2024 (multi-turn RLHF, arXiv 2405.14655), section 3; masked tool outputs: Jin et al. 2025 (Search-R1,
    arXiv 2503.09516), section 3.1.
    """

    environment: Environment = Field(description="who answers the policy")
    turns: int = Field(5, ge=1, description="the policy's turns at most; `sampling` holds for each of them")
    maximum_length: int | None = Field(
        None, ge=1, description="tokens of prompt and dialogue at most; null: as many as the model's context holds"
    )
    on_overflow: Literal["end", "leave-out"] = Field(
        "end", description="a dialogue without room for another turn ends as it is, or is left out of learning"
    )
    on_failure: Literal["leave-out", "end", "raise"] = Field(
        "leave-out", description="a dialogue whose environment failed is left out, ends as it is, or ends the run"
    )

    _metrics: dict[str, float] = PrivateAttr(default_factory=dict)
    _told: set[str] = PrivateAttr(default_factory=set)

    def open(self, run: Opener, model: ModelSpec, reference: ModelGroup | None) -> None:
        self.environment.open(run)

    def metrics(self) -> dict[str, float]:
        return self._metrics

    def __call__(self, policy: ModelGroup, prompts: Prompts) -> Samples:
        talks = _begin(self.requests(prompts))
        watcher = policy.watcher
        with policy.watched(None):  # it is told whole dialogues, not turns
            self._converse(policy, talks, lambda talk: talk.said >= self.turns, watcher)
        return self._samples(policy, talks)

    def _samples(self, policy: ModelGroup, talks: Sequence[Talk]) -> Samples:
        shares = {
            f"outcome/{outcome}": sum(talk.outcome == outcome for talk in talks) / len(talks) for outcome in OUTCOMES
        }
        self._metrics = {
            "turns": sum(talk.said for talk in talks) / len(talks),
            "left_out": sum(talk.left_out for talk in talks) / len(talks),
            **shares,
            **self.environment.metrics(),
        }
        return talks_to_samples(talks, policy.codec.padding_id)

    # -- taking turns ---------------------------------------------------------------------------------------------------

    def _converse(
        self, policy: ModelGroup, talks: Sequence[Talk], enough: Callable[[Talk], bool], watcher: Watcher | None = None
    ) -> None:
        """Go on with all dialogues, each from the turn that it has come to, until they end or had enough turns."""
        while waiting := [talk for talk in talks if talk.outcome is None]:
            self._speak(policy, waiting)
            for talk in waiting:
                if talk.outcome is None and enough(talk):
                    talk.outcome = "turns"
            self._answer(policy, waiting)
            if watcher is not None:
                for talk in waiting:
                    if talk.outcome is not None:
                        watcher(talk.result())

    def _speak(self, policy: ModelGroup, talks: Sequence[Talk]) -> None:
        """A turn of the policy in every dialogue, at whatever turn each of them is."""
        ids, mask = left_pad([talk.prompt_ids + talk.tokens for talk in talks], policy.codec.padding_id)
        turn = torch.tensor([talk.said for talk in talks])
        request = Prompts(
            prompt_ids=ids,
            prompt_mask=mask,
            group=torch.tensor([talk.group for talk in talks]),
            seed=functional.mix_seeds(torch.tensor([talk.seed for talk in talks]), turn),
            rows=row_table([dict(talk.row) for talk in talks]),
            batch_size=[len(talks)],
        )
        found = policy.generate(request, self.sampling)
        lengths, cut = found.mask.sum(1).tolist(), found.truncated.tolist()
        columns = [x.tolist() for x in (found.tokens, found.logprobs, found.sampling_logprobs)]
        for row, (talk, said) in enumerate(zip(talks, list(found.rows), strict=True)):
            tokens, logprobs, sampling_logprobs = (column[row][: lengths[row]] for column in columns)
            talk.speak(tokens, logprobs, sampling_logprobs, str(said["response"]))
            if cut[row]:
                talk.outcome = "cut"

    def _answer(self, policy: ModelGroup, talks: Sequence[Talk]) -> None:
        """The environment's answer in every dialogue that goes on."""
        listening = [talk for talk in talks if talk.outcome is None]
        if not listening:
            return
        codec = policy.codec
        for talk, reply in zip(listening, self.environment(listening), strict=True):
            if isinstance(reply, Failure):
                self._fail(talk, reply)
            elif not reply:
                talk.outcome = "stopped"
            else:
                tokens = codec.encode_reply(reply, talk.row["prompt"], ended=talk.tokens[-1] in codec.end_ids)
                if self._has_room(policy, talk, len(tokens)):
                    talk.listen(tokens, reply)
                else:
                    talk.outcome, talk.left_out = "overflow", self.on_overflow == "leave-out"

    def _has_room(self, policy: ModelGroup, talk: Talk, tokens: int = 0) -> bool:
        """Whether the policy can take another turn behind so many further tokens."""
        limits = [limit for limit in (policy.context, self.maximum_length) if limit is not None]
        return not limits or talk.length + tokens + self.sampling.maximum_tokens <= min(limits)

    def _fail(self, talk: Talk, failure: Failure) -> None:
        """Count a failure of the environment; the first of each kind is told, the others would only repeat it."""
        if self.on_failure == "raise":
            raise RuntimeError(f"environment {self.environment.part_name} failed: {failure.reason}")
        talk.outcome, talk.left_out = failure.kind, self.on_failure == "leave-out"
        if failure.kind not in self._told:
            self._told.add(failure.kind)
            logger.warning("environment %s failed in a dialogue: %s", self.environment.part_name, failure.reason)


class Branches(Dialogue, name="branches"):
    """Dialogues of a prompt that part at one turn: all share what was said before, and each goes on with the policy of now.

    What was said before is the prompt, the policy's answer at that turn is the response, and the rest of the dialogue, up to the turn
    that is judged, is only judged. So a reward of the whole dialogue becomes a sample of the value of one turn, and nothing else is
    learned from. A row's `branch` and `judged` are the numbers of those turns, from 0. A dialogue that ended before the turn is left out.

    Source: REFUEL (Gao et al. 2024, arXiv 2410.04612), section 3 and algorithm 1; `judged: last` with recorded turns is its setting two.
    """

    n: int = Field(2, ge=2, description="futures of each prompt")
    branch: Literal["random", "last"] = Field(
        "random",
        description="they part at any turn up to the judged one, or at that one: learning from the last turn only",
    )
    judged: Literal["random", "last"] = Field(
        "random", description="the turn at whose end the dialogue is judged: any one, or the last"
    )
    histories: str | None = Field(
        None,
        description="column with turns of another policy to branch from, a list of messages that begins with the assistant's; null: the "
        "policy itself begins the dialogue",
    )

    def __call__(self, policy: ModelGroup, prompts: Prompts) -> Samples:
        trunks = _begin(prompts)
        judged, branch = functional.branching_turns(
            functional.uniform(prompts.seed, _JUDGED),
            functional.uniform(prompts.seed, _BRANCHING),
            torch.tensor([self._most_turns(talk.row) for talk in trunks]),
            self.judged,
            self.branch,
        )
        for talk, at, end in zip(trunks, branch.tolist(), judged.tolist(), strict=True):
            talk.row |= {"branch": at, "judged": end}
        watcher = policy.watcher
        with policy.watched(None):
            self._reach(policy, trunks)
            # A salt of their own: the policy must not answer with the numbers that a trunk was drawn with.
            seeds = functional.mix_seeds(self.requests(prompts).seed, _FUTURES).view(-1, self.n).tolist()
            futures = [trunk.future(seed) for trunk, own in zip(trunks, seeds, strict=True) for seed in own]
            self._converse(policy, futures, lambda talk: talk.said > talk.row["judged"], watcher)
        for future in futures:
            future.keep_first_turn()
        return self._samples(policy, futures)

    def _most_turns(self, row: dict[str, Any]) -> int:
        known = [self.turns, self.environment.most_turns(row)]
        if self.histories is not None:
            known.append(1 + len(self._history(row)) // 2)
        return min(turns for turns in known if turns is not None)

    def _reach(self, policy: ModelGroup, trunks: Sequence[Talk]) -> None:
        """Bring every dialogue to the turn at which its futures part; one that ends before has none."""
        if self.histories is not None:
            for talk in trunks:
                self._recall(policy, talk)
        while waiting := [talk for talk in trunks if talk.outcome is None and talk.said < talk.row["branch"]]:
            self._speak(policy, waiting)
            self._answer(policy, waiting)
        for talk in trunks:
            talk.left_out = talk.outcome is not None

    def _recall(self, policy: ModelGroup, talk: Talk) -> None:
        """Take the turns before the branch from the data."""
        codec, prompt = policy.codec, talk.row["prompt"]
        recorded = self._history(talk.row)[: 2 * talk.row["branch"]]
        for said, reply in zip(recorded[::2], recorded[1::2], strict=True):
            tokens = codec.encode_response(said["content"], prompt)
            talk.speak(tokens, [0.0] * len(tokens), [0.0] * len(tokens), said["content"])
            talk.listen(codec.encode_reply([reply], prompt), [reply])
        if not self._has_room(policy, talk):
            talk.outcome = "overflow"

    def _history(self, row: dict[str, Any]) -> list[Message]:
        history = row.get(str(self.histories))
        roles = [turn.get("role") if isinstance(turn, dict) else None for turn in history or []]
        if not isinstance(history, list) or any(
            (role == "assistant") != (place % 2 == 0) for place, role in enumerate(roles)
        ):
            raise ValueError(
                f"rollout branches reads from the column {self.histories!r} messages of which every other one, from the first on, is "
                f"the assistant's; a record has {history!r:.80}"
            )
        return history


def _begin(prompts: Prompts) -> list[Talk]:
    """Dialogues in which nothing was said behind the prompt."""
    columns = prompts.group.tolist(), prompts.seed.tolist(), list(prompts.rows)
    ids = [ids[mask].tolist() for ids, mask in zip(prompts.prompt_ids, prompts.prompt_mask, strict=True)]
    return [Talk(dict(row), group, seed, of_row) for group, seed, row, of_row in zip(*columns, ids, strict=True)]
