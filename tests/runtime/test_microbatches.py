"""How many tokens are computed together where a recipe does not say. (What is put together is tested with the groups.)"""

from __future__ import annotations

from transformers import GPT2Config, LlamaConfig

from fairlead.runtime.microbatches import training_budget


def llama(hidden: int, inner: int, layers: int) -> LlamaConfig:
    return LlamaConfig(hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=4)


def test_a_small_model_is_given_what_gains_time() -> None:
    assert training_budget(llama(256, 704, 6), "cpu") == 4096


def test_a_large_model_is_given_what_fits() -> None:
    """512 wide, 1,280 inside, 10 layers: 440,320 bytes a token, so 2,438 tokens to the gibibyte, in whole thousands of 1,024."""
    assert training_budget(llama(512, 1280, 10), "cpu") == 2048
    assert training_budget(llama(4096, 11008, 32), "cpu") == 1024
    assert training_budget(GPT2Config(), "cpu") == 1024  # no inner width of its own: four times the hidden one


def test_on_a_gpu_the_model_does_not_matter() -> None:
    assert training_budget(llama(4096, 11008, 32), "cuda") == training_budget(llama(64, 64, 1), "cuda") == 8192
