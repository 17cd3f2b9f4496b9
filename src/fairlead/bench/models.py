"""Models to measure with: random Llamas of known sizes whose responses have a known length.

Knows: sizes, two tokenizers, how the end token's logit is steered.
Does not know: rows, recipes, clocks.

Speed does not depend on what the weights say, but it does depend on when responses end. So one coordinate of the residual
stream is a constant that no layer writes to, and the end token's row of the (tied) head reads it: its probability is the
same after every token, and lengths are geometric. The model is an ordinary Hugging Face directory that any framework opens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig, PreTrainedTokenizerFast

from fairlead.models import ModelSpec, load_tokenizer

__all__ = ["SIZES", "VOCABULARY", "word", "word_tokenizer", "write_model", "write_scalar_model"]

VOCABULARY = 4096
_SPECIAL = ("<|pad|>", "<|end|>", "<|user|>", "<|assistant|>")
_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_CONSTANT = 0.25  # the steering coordinate of every embedding; large beside the others, so that layers barely dilute it
_NEVER = -30.0  # log-odds of a token that is not to be drawn

SIZES: dict[str, dict[str, int]] = {
    "1m": {"hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 3, "num_attention_heads": 2},
    "4m": {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 5, "num_attention_heads": 4},
    "30m": {"hidden_size": 512, "intermediate_size": 1280, "num_hidden_layers": 10, "num_attention_heads": 8},
    "100m": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 15, "num_attention_heads": 12},
}
"""Millions of parameters → the widths of a Llama with half as many key-value heads and a tied head of 4,096 tokens."""


def word(index: int) -> str:
    """The text of one ordinary token of `word_tokenizer`."""
    return f"w{index}"


def word_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with one token a word (w4 … w4095), so that every sequence of tokens survives decoding and encoding."""
    vocabulary = {token: i for i, token in enumerate(_SPECIAL)}
    vocabulary |= {word(i): i for i in range(len(_SPECIAL), VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="<|pad|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=["<|user|>", "<|assistant|>"],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = _TEMPLATE
    return fast


def write_model(
    directory: Path,
    size: str,
    mean_length: float | None = None,
    tokenizer: Literal["words", "text"] = "words",
    context: int = 1024,
    seed: int = 0,
) -> Path:
    """Write a random causal Llama of `SIZES` with its tokenizer into `directory`, and return it.

    After every token a response ends with probability 1 / `mean_length`; without `mean_length` it never ends. `text` takes
    the byte-level BPE tokenizer of the shipped model, for real data, and leaves the end token unsteered.
    """
    found = word_tokenizer() if tokenizer == "words" else load_tokenizer(ModelSpec(path="fairlead:base"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(_config(size, context, found))
        if tokenizer == "words":
            _steer(model, [found.pad_token_id, *found.all_special_ids], found.eos_token_id, mean_length)
    model.save_pretrained(directory)
    found.save_pretrained(directory)
    return directory


def write_scalar_model(
    directory: Path, size: str, tokenizer: Literal["words", "text"] = "words", context: int = 1024, seed: int = 1
) -> Path:
    """Write a random Llama with one scalar output: a reward model, or where a critic begins."""
    found = word_tokenizer() if tokenizer == "words" else load_tokenizer(ModelSpec(path="fairlead:base"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = _config(size, context, found)
        config.num_labels = 1
        model = AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(directory)
    found.save_pretrained(directory)
    return directory


def _config(size: str, context: int, tokenizer: Any) -> LlamaConfig:
    widths = SIZES[size]
    return LlamaConfig(
        vocab_size=VOCABULARY,
        **widths,
        num_key_value_heads=widths["num_attention_heads"] // 2,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


@torch.no_grad()
def _steer(model: Any, special: list[int], end: int, mean_length: float | None) -> None:
    """Make the end token as likely as wanted after every token, and the other special tokens all but impossible."""
    embedding = model.get_input_embeddings().weight
    embedding[:, 0] = _CONSTANT
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight[0] = 0.0
        layer.mlp.down_proj.weight[0] = 0.0
    probe = torch.randint(len(_SPECIAL), VOCABULARY, (8, 128))
    hidden = model.model(input_ids=probe).last_hidden_state  # the special tokens' own rows play no part in it
    share = float(hidden[..., 0].mean())
    for token in set(special) - {end}:
        embedding[token, 0] = _CONSTANT + _NEVER / share
    odds = _NEVER if mean_length is None else _end_odds(hidden, embedding, end, mean_length)
    embedding[end, 0] = _CONSTANT + odds / share


def _end_odds(hidden: torch.Tensor, embedding: torch.Tensor, end: int, mean_length: float) -> float:
    """What to add to the end token's logit so that its mean probability is 1 / `mean_length`, by bisection."""
    logits = hidden.flatten(0, 1) @ embedding.T
    share = hidden[..., 0].flatten() / hidden[..., 0].mean()
    low, high = -20.0, 30.0
    for _ in range(50):
        middle = (low + high) / 2
        moved = logits.clone()
        moved[:, end] += middle * share
        likely = float(torch.softmax(moved, -1)[:, end].mean()) > 1 / mean_length
        low, high = (low, middle) if likely else (middle, high)
    return (low + high) / 2
