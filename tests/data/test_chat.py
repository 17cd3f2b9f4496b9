"""Templates, end tokens, masks: every tokenizer with every style of template."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from fairlead.data import CompletionRecord, ConversationRecord, TemplateError, TextCodec
from fairlead.data import chat as chat_module

from .conftest import CHATML, GEMMA, KINDS, LLAMA3, TEMPLATES, THINKING, build

TALK: list[Any] = [
    {"role": "user", "content": "hello there"},
    {"role": "assistant", "content": "hello, how are you today?"},
    {"role": "user", "content": "please tell me a story"},
    {"role": "assistant", "content": "the quick brown fox"},
]
END = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "gemma": "<end_of_turn>"}
STYLES = [*TEMPLATES, None]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("style", STYLES)
def test_prompt_and_response_make_the_conversation(tokenizers: Any, kind: str, style: str | None) -> None:
    codec = TextCodec(tokenizers[kind], TEMPLATES[style] if style else None)
    for turns in (2, 4):
        prompt, response = TALK[: turns - 1], TALK[turns - 1]["content"]
        ids, mask = codec.encode_conversation(ConversationRecord(messages=TALK[:turns]), train_on="last")
        before, answer = codec.encode_prompt(prompt), codec.encode_response(response, prompt)
        assert ids == before + answer
        assert mask == [False] * len(before) + [True] * len(answer)
        assert ids == codec.encode_conversation(CompletionRecord(prompt, response))[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("style", STYLES)
def test_mask_is_exactly_the_answers_and_their_end(tokenizers: Any, kind: str, style: str | None) -> None:
    tokenizer = tokenizers[kind]
    codec = TextCodec(tokenizer, TEMPLATES[style] if style else None)
    ids, mask = codec.encode_conversation(ConversationRecord(messages=TALK))
    spans: list[list[int]] = []
    for position, (token, learned) in enumerate(zip(ids, mask, strict=True)):
        if learned:
            if position == 0 or not mask[position - 1]:
                spans.append([])
            spans[-1].append(token)
    end = tokenizer.convert_tokens_to_ids(END.get(style or "", "</s>"))
    assert [span[-1] for span in spans] == [end, end]
    assert all(end not in span[:-1] for span in spans)
    words = [codec.decode(span).strip().replace(" ", "") for span in spans]
    assert words == [turn["content"].replace(" ", "") for turn in TALK[1::2]]
    assert mask[-1], "what the template writes behind the last end token is left out"
    unlearned = codec.decode([token for token, learned in zip(ids, mask, strict=True) if not learned])
    assert "brown" not in unlearned and "hello there" in unlearned.replace("\n", " ")


@pytest.mark.parametrize("style", TEMPLATES)
def test_tokens_are_those_of_the_whole_rendering(tokenizers: Any, style: str) -> None:
    """Cutting into pieces does not change byte-level tokens, but for end tokens that a template lacks."""
    for kind in ("byte", "byte+bos"):
        tokenizer = tokenizers[kind]
        codec = TextCodec(tokenizer, TEMPLATES[style])
        text = tokenizer.apply_chat_template(
            TALK[:3], chat_template=TEMPLATES[style], tokenize=False, add_generation_prompt=True
        )
        whole = tokenizer(text, add_special_tokens=False)["input_ids"]
        ours = codec.encode_prompt(TALK[:3])
        if style == "no_end":
            ours.remove(codec.eos_id)
        assert ours == whole


def test_metaspace_continuations_have_no_space_of_their_own(tokenizers: Any) -> None:
    tokenizer = tokenizers["metaspace+bos"]
    codec = TextCodec(tokenizer, CHATML)
    ids, _ = codec.encode_conversation(ConversationRecord(messages=TALK))
    text = tokenizer.apply_chat_template(TALK, chat_template=CHATML, tokenize=False).rstrip("\n")
    assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert (
        codec.encode_response("the fox", "a story:")[:-1]
        == tokenizer("x\nthe fox")["input_ids"][len(tokenizer("x\n")["input_ids"]) :]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_plain_text(tokenizers: Any, kind: str) -> None:
    tokenizer = tokenizers[kind]
    codec = TextCodec(tokenizer, CHATML)
    bos = [tokenizer.bos_token_id] if kind.endswith("+bos") else []
    prompt = codec.encode_prompt("the quick")
    assert prompt[: len(bos)] == bos and prompt.count(tokenizer.bos_token_id) == len(bos)
    response = codec.encode_response(" brown fox", "the quick")
    assert response[-1] == tokenizer.eos_token_id and tokenizer.bos_token_id not in response
    assert codec.decode(response).strip() == "brown fox"
    ids, mask = codec.encode_conversation(ConversationRecord(text="the lazy dog"))
    assert ids == [*bos, *tokenizer("the lazy dog", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    assert all(mask)


def test_byte_round_trip(tokenizers: Any) -> None:
    codec = TextCodec(tokenizers["byte"], CHATML)
    for text in (" two  spaces ", "é 漢字 🙂", "line\n\nline\n", "a<b", "1 + 1 = 2 ."):
        assert codec.decode(codec.encode_response(text, "q")) == text
        assert codec.decode(codec.encode_response(text, TALK[:1])) == text


def test_end_ids(tokenizers: Any) -> None:
    tokenizer = tokenizers["byte"]
    name = tokenizer.convert_tokens_to_ids
    eos = tokenizer.eos_token_id
    assert TextCodec(tokenizer, CHATML).end_ids == (name("<|im_end|>"), eos)
    assert TextCodec(tokenizer, LLAMA3, end_ids=[name("<|im_end|>"), eos]).end_ids == (
        name("<|eot_id|>"),
        eos,
        name("<|im_end|>"),
    )
    assert TextCodec(tokenizer, TEMPLATES["zephyr"]).end_ids == (eos,)
    assert TextCodec(tokenizer, TEMPLATES["no_end"]).end_ids == (eos,)
    assert TextCodec(tokenizer).end_ids == (eos,)


def test_template_of_the_tokenizer_itself() -> None:
    tokenizer = build("byte")
    tokenizer.chat_template = CHATML
    assert TextCodec(tokenizer).encode_prompt(TALK) == TextCodec(tokenizer, CHATML).encode_prompt(TALK)


def test_padding() -> None:
    tokenizer = build("byte")
    assert TextCodec(tokenizer).padding_id == tokenizer.pad_token_id
    tokenizer.pad_token = None
    assert TextCodec(tokenizer).padding_id == tokenizer.eos_token_id


def test_decode_leaves_out_end_tokens_that_are_not_special(tokenizers: Any) -> None:
    tokenizer = build("byte")
    tokenizer.add_tokens(["<end>"])
    template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '<end>\n' }}{% endfor %}"
    template += "{% if add_generation_prompt %}assistant: {% endif %}"
    codec = TextCodec(tokenizer, template)
    response = codec.encode_response("hello", TALK[:1])
    assert response[-1] == tokenizer.convert_tokens_to_ids("<end>") == codec.end_ids[0]
    assert codec.decode(response) == "hello"
    assert codec.decode([*response, tokenizer.eos_token_id]) == "hello"


def test_system_prompt_merged_and_trimmed(tokenizers: Any) -> None:
    tokenizer = tokenizers["byte"]
    codec = TextCodec(tokenizer, GEMMA)
    talk = [{"role": "system", "content": "tell me"}, *TALK[:1], {"role": "assistant", "content": "  hello  "}]
    ids, mask = codec.encode_conversation(ConversationRecord(messages=talk))
    assert tokenizer.decode(ids) == (
        "<s><start_of_turn>user\ntell me\n\nhello there<end_of_turn>\n<start_of_turn>model\nhello<end_of_turn>"
    )
    assert tokenizer.decode([t for t, m in zip(ids, mask, strict=True) if m]) == "hello<end_of_turn>"


def test_train_on(tokenizers: Any) -> None:
    tokenizer = tokenizers["byte"]
    codec = TextCodec(tokenizer, CHATML)
    record = ConversationRecord(messages=TALK)
    ids, last = codec.encode_conversation(record, "last")
    _, every = codec.encode_conversation(record, "assistant")
    _, everything = codec.encode_conversation(record, "all")
    assert tokenizer.decode([t for t, m in zip(ids, last, strict=True) if m]) == "the quick brown fox<|im_end|>"
    assert sum(last) < sum(every) < sum(everything) == len(ids)
    # Answers inside the prompt of a completion are context.
    completion = CompletionRecord(TALK[:3], "the quick brown fox")
    assert codec.encode_conversation(completion) == (ids, last)
    assert codec.encode_conversation(completion, "all") == (ids, everything)


def test_conversation_may_begin_or_go_on_with_any_role(tokenizers: Any) -> None:
    tokenizer = tokenizers["byte"]
    codec = TextCodec(tokenizer, CHATML)
    talk = [
        {"role": "assistant", "content": "hello"},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "the dog"},
        {"role": "user", "content": "a ship"},
    ]
    ids, mask = codec.encode_conversation(ConversationRecord(messages=talk))
    assert tokenizer.decode([t for t, m in zip(ids, mask, strict=True) if m]) == "hello<|im_end|>the dog<|im_end|>"
    assert tokenizer.decode(ids).endswith("a ship<|im_end|>\n")


def test_the_content_may_contain_the_end_token(tokenizers: Any) -> None:
    tokenizer = tokenizers["byte"]
    codec = TextCodec(tokenizer, CHATML)
    response = codec.encode_response("a <|im_end|> b", TALK[:1])
    assert tokenizer.decode(response) == "a <|im_end|> b<|im_end|>"


def test_unstable_template_is_named(tokenizers: Any) -> None:
    codec = TextCodec(tokenizers["byte"], THINKING)
    with pytest.raises(TemplateError, match=r"(?s)chat template .*im_start.*turn 2 of 4 changes.*train_on: last"):
        codec.encode_conversation(ConversationRecord(messages=TALK))
    ids, mask = codec.encode_conversation(ConversationRecord(messages=TALK), "last")
    assert (
        codec.decode([t for t, m in zip(ids, mask, strict=True) if m]) == "<think>\n\n</think>\n\nthe quick brown fox"
    )
    assert ids == codec.encode_prompt(TALK[:3]) + codec.encode_response(TALK[3]["content"], TALK[:3])
    whole, _ = codec.encode_conversation(ConversationRecord(messages=TALK), "all")
    assert whole == ids


def test_prompt_that_the_conversation_does_not_continue(tokenizers: Any) -> None:
    template = CHATML.replace("assistant\n", "assistant\n<think>\n")
    codec = TextCodec(tokenizers["byte"], template)
    with pytest.raises(TemplateError, match="does not begin like the prompt of its last turn"):
        codec.encode_response("hello", TALK[:1])


def test_template_that_refuses(tokenizers: Any) -> None:
    codec = TextCodec(tokenizers["byte"], GEMMA)
    with pytest.raises(
        TemplateError, match="refuses a conversation of the roles user, user: Conversation roles must alternate"
    ):
        codec.encode_prompt([TALK[0], TALK[0]])


def test_fallback_is_noted_once(tokenizers: Any, caplog: pytest.LogCaptureFixture) -> None:
    chat_module._said.clear()
    codec = TextCodec(tokenizers["byte+bos"])
    with caplog.at_level(logging.WARNING):
        ids = codec.encode_prompt(TALK[:1])
        codec.encode_prompt(TALK[:1])
    assert len(caplog.records) == 1 and "no chat template" in caplog.text
    assert tokenizers["byte+bos"].decode(ids) == "<s>User:\nhello there\n\nAssistant:\n"


def test_added_white_space_is_no_end_token() -> None:
    tokenizer = build("byte")
    tokenizer.add_tokens(["\n"])
    codec = TextCodec(tokenizer, TEMPLATES["no_end"])
    assert codec.end_ids == (tokenizer.eos_token_id,)
    assert codec.encode_response("hello", TALK[:1])[-1] == tokenizer.eos_token_id


def test_no_end_token() -> None:
    tokenizer = build("byte")
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no end-of-text token"):
        TextCodec(tokenizer)
