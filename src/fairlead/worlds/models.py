"""Tiny random models and word-level tokenizers, in which the languages of worlds are written.

Knows: Hugging Face models and tokenizers.
Does not know: any world.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

__all__ = ["save_random_llama", "word_tokenizer"]


def word_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of these words, divided by blanks. The first ends a text and pads it, and stands for unknown words."""
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=words[0]))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token=words[0], eos_token=words[0])


def save_random_llama(
    directory: Path,
    words: Sequence[str],
    *,
    hidden: int,
    heads: int,
    context: int = 32,
    layers: int = 2,
    seed: int = 0,
    spread: float = 0.02,
) -> Path:
    """Write a Llama of random weights, of standard deviation `spread`, with `word_tokenizer`, and return its directory."""
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=context,
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=0,
        bos_token_id=None,
        initializer_range=spread,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(directory)
    word_tokenizer(words).save_pretrained(directory)
    return directory
