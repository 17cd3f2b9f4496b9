"""Between texts and tokens: chat templates, end tokens, and which tokens of a conversation are the assistant's.

Knows: one Hugging Face tokenizer and its chat template.
Does not know: batches, models, files.

Two rules hold everything together:

* A conversation is tokenised in pieces, cut before each answer of the assistant and behind its end token. So the
  tokens of an answer in training are those that the model writes when it is asked the same prompt:
  `encode_prompt(p) + encode_response(r, p) == encode_conversation(p and r)`, always.
* Where a piece begins is found by rendering the template up to there ("incremental templating"). That works for every
  template that writes the beginning of a conversation as it writes the beginning of a longer one; others raise
  TemplateError.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, cast

from fairlead.data.records import CompletionRecord, ConversationRecord, Message, Prompt

__all__ = ["ROLE_LINES", "TemplateError", "TextCodec", "TrainOn"]

logger = logging.getLogger(__name__)

TrainOn = Literal["assistant", "last", "all"]

ROLE_LINES = (
    "{% for message in messages %}{{ message['role'] | capitalize }}:\n{{ message['content'] }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:\n{% endif %}"
)
"""The template for a tokenizer without one: a line with the role, the content, an empty line. The end-of-text token
ends an answer."""

_PROBE = "fairlead"


class TemplateError(ValueError):
    """A chat template that fails or that cannot be cut into turns."""


class _Piece(NamedTuple):
    text: str
    answer: bool
    """A response of the assistant."""
    final: bool = False
    """The last answer of the conversation."""


class TextCodec:
    """Encodes prompts, responses and conversations with a Hugging Face tokenizer, and decodes responses."""

    def __init__(self, tokenizer: Any, chat_template: str | None = None, end_ids: Sequence[int] = ()) -> None:
        """`chat_template` replaces the tokenizer's own; `end_ids` are further end tokens (of a `generation_config`).

        Raises: ValueError when the tokenizer has no token to end a text with; TemplateError when the template fails on
        the simplest conversation.
        """
        self.tokenizer = tokenizer
        self._template = chat_template
        self._own_template = chat_template is None and not getattr(tokenizer, "chat_template", None)
        eos = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
        if eos is None:
            raise ValueError(
                f"the tokenizer {_name(tokenizer)} has no end-of-text token; "
                "set one with tokenizer.eos_token = '…' and save it"
            )
        self.eos_id = int(eos)
        self._start = self._find_start()
        self._lead = self._find_lead()
        self._turn_end, self._tail = self._find_turn_end()
        turn_end = [] if self._turn_end is None else [tokenizer.convert_tokens_to_ids(self._turn_end)]
        self._end_ids = tuple(dict.fromkeys(int(token) for token in (*turn_end, self.eos_id, *end_ids)))

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Every token that ends a response: the template's end of turn, the end of text, those given."""
        return self._end_ids

    @property
    def padding_id(self) -> int:
        """The padding token, or the end-of-text token where the tokenizer has none."""
        padding = self.tokenizer.pad_token_id
        return self.eos_id if padding is None else int(padding)

    # -- texts to tokens ---------------------------------------------------------------------------------------------

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """The ids that come before a response.

        Messages go through the chat template with the opening of the assistant's turn; a string is taken as it is,
        behind the tokenizer's beginning-of-text token if it writes one. Raises TemplateError when the template
        refuses the messages.
        """
        if isinstance(prompt, str):
            return [*self._start, *self._ids(prompt, first=True)]
        text = self._render(prompt, answer_next=True)
        return self._join(self._pieces(prompt, text, needed=set()))[0]

    def encode_response(self, response: str, prompt: Prompt) -> list[int]:
        """The ids of a response to `prompt`, end token included.

        Behind messages the response is what the template writes for it, up to and including its end-of-turn token;
        where the template writes none, and behind plain text, the end-of-text token is appended.
        Raises TemplateError when the template does not continue its own rendering of the prompt.
        """
        if isinstance(prompt, str):
            return [*self._ids(response, first=False), self.eos_id]
        messages = [*prompt, _assistant(response)]
        before = self._render(prompt, answer_next=True)
        whole = self._render(messages)
        end = self._answer_end(before, whole, messages)
        return self._answer_ids(whole[len(before) : end])

    def encode_reply(self, messages: Sequence[Message], prompt: Prompt, ended: bool = True) -> list[int]:
        """The ids between a response to `prompt` and the next one, where others spoke in between.

        They hold what the template writes behind the end token of the response, the messages, and the opening of the next response.
        Where the earlier turns are kept as they were sampled this continues them, since it does not depend on what they say; behind
        plain text it is the contents of the messages. With `ended` false the response has no end token, and gets one.
        Raises: TemplateError when the template refuses the messages, or writes an answer otherwise when they follow.
        """
        end = [] if ended else [self._end_ids[0]]
        if isinstance(prompt, str):
            return end + self._ids("".join(message["content"] for message in messages), first=False)
        question: list[Message] = [{"role": "user", "content": "?"}]
        answered = [*question, _assistant(_PROBE)]
        before, whole = self._render(question, answer_next=True), self._render(answered)
        behind = self._answer_end(before, whole, answered)
        longer = self._render([*answered, *messages], answer_next=True)
        if longer[:behind] != whole[:behind]:
            raise self._unstable("an answer changes when later turns follow")
        return end + self._ids(longer[behind:], first=False)

    def encode_conversation(
        self, record: ConversationRecord | CompletionRecord, train_on: TrainOn = "assistant"
    ) -> tuple[list[int], list[bool]]:
        """Ids [L] and mask [L] of a whole conversation; the mask is true at the tokens to learn.

        `assistant`: every answer and its end token; `last`: the last answer only; `all`: every token. A document
        (`text`) is always learned whole, its end-of-text token included; of a `CompletionRecord` only the response
        counts as an answer. What a template writes behind the last end token is left out.
        Raises TemplateError when an answer to be learned cannot be cut out of the rendered conversation.
        """
        if isinstance(record, CompletionRecord):
            prompt, response = self.encode_prompt(record.prompt), self.encode_response(record.response, record.prompt)
            return prompt + response, [train_on == "all"] * len(prompt) + [True] * len(response)
        if record.messages is None:
            ids = [*self._start, *self._ids(cast(str, record.text), first=True), self.eos_id]
            return ids, [True] * len(ids)
        answers = [index for index, message in enumerate(record.messages) if message["role"] == "assistant"]
        needed = {"assistant": set(answers), "last": set(answers[-1:]), "all": set()}[train_on]
        pieces = self._pieces(record.messages, self._render(record.messages), needed)
        if len(pieces) > 1 and pieces[-2].final and record.messages[-1]["role"] == "assistant":
            pieces = pieces[:-1]
        ids, answer, final = self._join(pieces)
        return ids, {"assistant": answer, "last": final, "all": [True] * len(ids)}[train_on]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a response, without end tokens and special tokens."""
        kept = list(ids)
        while kept and kept[-1] in self._end_ids:
            kept.pop()  # an end token need not be marked as special, and is not text even so
        return str(self.tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """What each token adds to the text of those before it; nothing for special tokens and for bytes of an unfinished character."""

        def text(part: Sequence[int]) -> str:
            return str(self.tokenizer.decode(part, skip_special_tokens=True, clean_up_tokenization_spaces=False))

        texts: list[str] = []
        first = done = (
            0  # the tokens before `done` are in the texts; those from `first` are read again, as some blanks need a word before
        )
        for place in range(len(ids)):
            now = text(ids[first : place + 1])
            if now.endswith("\ufffd"):
                texts.append("")
                continue
            texts.append(now[len(text(ids[first:done])) :])
            first, done = done, place + 1
        return texts

    # -- pieces ------------------------------------------------------------------------------------------------------

    def _pieces(self, messages: Sequence[Message], text: str, needed: set[int]) -> list[_Piece]:
        """`text`, the rendering of `messages`, cut at the borders of every answer.

        An answer that is not `needed` and whose borders the template moves (some drop the reasoning of earlier turns)
        stays uncut.
        """
        pieces: list[_Piece] = []
        done = 0
        last = max((index for index, message in enumerate(messages) if message["role"] == "assistant"), default=-1)
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            try:
                begin, end = self._borders(messages, index, text)
            except TemplateError:
                if index in needed:
                    raise
                continue
            pieces += [_Piece(text[done:begin], False), _Piece(text[begin:end], True, index == last)]
            done = end
        pieces.append(_Piece(text[done:], False))
        return [piece for piece in pieces if piece.text or piece.answer]

    def _borders(self, messages: Sequence[Message], index: int, text: str) -> tuple[int, int]:
        """Where the answer `messages[index]` begins in `text`, and where its end token ends."""
        whole = self._render(messages[: index + 1])
        if index:
            before = self._render(messages[:index], answer_next=True)
        else:
            before = whole[
                : max(whole.rfind(messages[0]["content"].strip()), 0)
            ]  # no template opens an empty conversation
        end = self._answer_end(before, whole, messages[: index + 1])
        if text[:end] != whole[:end]:
            raise self._unstable(f"turn {index + 1} of {len(messages)} changes when later turns follow")
        return len(before), end

    def _answer_end(self, before: str, whole: str, messages: Sequence[Message]) -> int:
        """Where the end token of the last message ends in `whole`, or its content where the template writes no end
        token."""
        if not whole.startswith(before):
            roles = ", ".join(message["role"] for message in messages)
            raise self._unstable(f"a conversation ({roles}) does not begin like the prompt of its last turn")
        if self._turn_end is not None:
            position = whole.rfind(self._turn_end, len(before))
            if position < 0:
                raise self._unstable(f"the answer is not followed by {self._turn_end!r}")
            return position + len(self._turn_end)
        if not whole.endswith(self._tail) or len(whole) - len(self._tail) < len(before):
            raise self._unstable(f"the answer is not followed by {self._tail!r}")
        return len(whole) - len(self._tail)

    def _join(self, pieces: Sequence[_Piece]) -> tuple[list[int], list[bool], list[bool]]:
        """Ids, where answers stand, and where the last answer stands."""
        ids: list[int] = list(self._start) if self._own_template else []
        answer, final = [False] * len(ids), [False] * len(ids)
        for number, piece in enumerate(pieces):
            tokens = self._answer_ids(piece.text) if piece.answer else self._ids(piece.text, first=number == 0)
            ids += tokens
            answer += [piece.answer] * len(tokens)
            final += [piece.final] * len(tokens)
        return ids, answer, final

    def _answer_ids(self, text: str) -> list[int]:
        ids = self._ids(text, first=False)
        return ids if self._turn_end is not None else [*ids, self.eos_id]

    def _ids(self, text: str, first: bool) -> list[int]:
        """The ids of a text that stands at the beginning, or of one that continues another."""
        if first or not self._lead:
            return self._plain_ids(text)
        # SentencePiece writes a space before every text; a line break before it takes that space.
        ids = self._plain_ids("\n" + text)
        return ids[len(self._lead) :] if ids[: len(self._lead)] == self._lead else self._plain_ids(text)

    def _plain_ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    # -- the template ------------------------------------------------------------------------------------------------

    def _render(self, messages: Sequence[Message], answer_next: bool = False) -> str:
        if self._own_template:
            _say_once(
                f"the tokenizer {_name(self.tokenizer)} has no chat template: messages are written as lines 'Role:'"
            )
        template = ROLE_LINES if self._own_template else self._template
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    list(messages), chat_template=template, tokenize=False, add_generation_prompt=answer_next
                )
            )
        except Exception as error:
            roles = ", ".join(message["role"] for message in messages)
            raise TemplateError(
                f"{self._template_name()} refuses a conversation of the roles {roles}: {error}"
            ) from error

    def _template_name(self) -> str:
        text = self._template or getattr(self.tokenizer, "chat_template", None) or ROLE_LINES
        return f"the chat template {' '.join(str(text).split())[:60]!r}… of the tokenizer {_name(self.tokenizer)}"

    def _unstable(self, what: str) -> TemplateError:
        return TemplateError(
            f"{self._template_name()} cannot be cut into turns: {what}. "
            "Give the model another template, or train on the last turn only (train_on: last)"
        )

    def _find_turn_end(self) -> tuple[str | None, str]:
        """The token that the template writes behind an answer, if any, and all that it writes there."""
        if self._own_template:
            return None, "\n\n"
        question: list[Message] = [{"role": "user", "content": "?"}]
        whole = self._render([*question, _assistant(_PROBE)])
        tail = whole[whole.rfind(_PROBE) + len(_PROBE) :] if _PROBE in whole else ""
        added = {str(token) for token in self.tokenizer.added_tokens_decoder.values()} | set(
            self.tokenizer.all_special_tokens
        )
        # Some tokenizers hold runs of spaces or line breaks as added tokens; those end nothing.
        found = [(tail.find(token), -len(token), token) for token in added if token.strip() and token in tail]
        return (min(found)[2] if found else None), tail

    # -- what the tokenizer adds -------------------------------------------------------------------------------------

    def _find_start(self) -> tuple[int, ...]:
        """The tokens that the tokenizer writes before every text (the beginning-of-text token, or none)."""
        core = self._plain_ids("a")
        full = list(self.tokenizer("a")["input_ids"])
        for position in range(len(full) - len(core) + 1):
            if core and full[position : position + len(core)] == core:
                return tuple(full[:position])
        bos = self.tokenizer.bos_token_id
        return (int(bos),) if bos is not None and full[:1] == [bos] else ()

    def _find_lead(self) -> list[int]:
        """The ids of a line break where they are needed to encode a text as the continuation of another; else
        nothing."""
        lead, both = self._plain_ids("\n"), self._plain_ids("\na")
        needed = both[: len(lead)] == lead and both[len(lead) :] != self._plain_ids("a")
        return lead if needed and len(both) > len(lead) else []


def _assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


def _name(tokenizer: Any) -> str:
    return repr(getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__)


_said: set[str] = set()


def _say_once(message: str) -> None:
    if message not in _said:
        _said.add(message)
        logger.warning(message)
