"""Learning a tokenizer from text.

Knows: byte-level BPE and the chat markers of the shipped base model.
Does not know: models.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from fairlead.data import CompletionRecord, Prompt, to_conversations
from fairlead.runs import StageRun
from fairlead.runs.files import atomic_folder
from fairlead.stages.base import EvenSources, Stage

__all__ = ["CHAT_TEMPLATE", "LearnTokenizer"]

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
_SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]


class LearnTokenizer(Stage, name="tokenizer"):
    """Learn a byte-level BPE vocabulary, with markers for the turns of a chat.

    Source: Sennrich et al. 2016 (arXiv 1508.07909); byte-level as in Radford et al. 2019 (GPT-2).
    """

    data: EvenSources = Field(description="texts and conversations to learn from")
    vocabulary: int = Field(4096, ge=300, description="entries, the 256 bytes and the markers included")

    def run(self, run: StageRun) -> dict[str, Any]:
        records, report = to_conversations([run.read(source) for source in self.data])
        run.count(report)
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocabulary,
            special_tokens=_SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(_texts(records), trainer)
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            pad_token="<|pad|>",
            eos_token="<|end|>",
            extra_special_tokens=["<|system|>", "<|user|>", "<|assistant|>"],
            clean_up_tokenization_spaces=False,
        )
        fast.chat_template = CHAT_TEMPLATE
        with atomic_folder(run.directory / "model") as folder:
            fast.save_pretrained(folder)
        return run.finish({"vocabulary": len(fast), "model": f"stages/{run.id}/model"})


def _texts(records: list[Any]) -> Iterator[str]:
    for record in records:
        if isinstance(record, CompletionRecord):
            yield from _contents(record.prompt)
            yield record.response
        elif record.text is not None:
            yield record.text
        else:
            yield from _contents(record.messages)


def _contents(turns: Prompt) -> Iterator[str]:
    return iter([turns]) if isinstance(turns, str) else (message["content"] for message in turns)
