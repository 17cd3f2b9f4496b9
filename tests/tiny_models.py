"""Tiny models with random weights and a tokenizer built on the spot, in Hugging Face format.

    save_tiny_model(tmp_path / "policy", "llama")
    load_model(ModelSpec(path=str(tmp_path / "policy")))

Every family has about 10^4 to 10^5 parameters, a context of 128 tokens and the byte tokenizer's vocabulary of 260. The
families with sliding windows have a window of 8 tokens and one layer of full attention.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

FAMILIES = ("llama", "qwen2", "qwen3", "gemma2", "gemma3_text", "gpt2", "mixtral")
SLIDING_WINDOW = 8

_SPECIAL = ("<|pad|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>")
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_WORDS = (
    "user",
    "assistant",
    "system",
    "the",
    "a",
    "cat",
    "dog",
    "sees",
    "big",
    "small",
    "and",
    "not",
    "yes",
    "no",
    ".",
    "?",
)


def tiny_tokenizer(kind: Literal["bytes", "words"] = "bytes") -> PreTrainedTokenizerFast:
    """A tokenizer with a ChatML template: `bytes` has one token a byte, `words` one of a few English words.

    Padding is `<|pad|>` (0), the end token `<|im_end|>` (2).
    """
    if kind == "bytes":
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {token: i for i, token in enumerate((*_SPECIAL, *alphabet))}
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    else:
        vocabulary = {token: i for i, token in enumerate((*_SPECIAL, "<|unknown|>", *_WORDS))}
        tokenizer = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="<|unknown|>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>", "<|endoftext|>"],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = _CHAT_TEMPLATE
    return fast


def tiny_config(family: str, **overrides: Any) -> Any:
    """The transformers configuration of a tiny model of `family` (one of `FAMILIES`)."""
    fields: dict[str, Any] = {
        "vocab_size": len(_SPECIAL) + 256,
        "bos_token_id": None,
        "eos_token_id": 2,
        "pad_token_id": 0,
        # Large enough that distributions are far from uniform and a wrong mask shows.
        "initializer_range": 0.15,
    }
    if family == "gpt2":
        fields |= {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
    else:
        fields |= {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 128,
            "tie_word_embeddings": True,
        }
    if family.startswith("gemma"):
        fields |= {
            "sliding_window": SLIDING_WINDOW,
            "layer_types": ["sliding_attention", "full_attention"],
            "query_pre_attn_scalar": 8,
        }
    if family == "mixtral":
        fields |= {"num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 32}
    return AutoConfig.for_model(family, **(fields | overrides))


def tiny_model(family: str = "llama", seed: int = 0, **overrides: Any) -> Any:
    """A tiny causal language model in evaluation mode; `overrides` change its configuration."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(tiny_config(family, **overrides)).eval()


def save_tiny_model(
    directory: str | Path,
    family: str = "llama",
    *,
    tokenizer: Literal["bytes", "words"] = "bytes",
    seed: int = 0,
    **overrides: Any,
) -> Path:
    """Write config, safetensors and tokenizer of a tiny model into `directory`, and return it."""
    tiny_model(family, seed, **overrides).save_pretrained(directory)
    tiny_tokenizer(tokenizer).save_pretrained(directory)
    return Path(directory)
