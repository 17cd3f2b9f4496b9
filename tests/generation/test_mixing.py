"""Sampling from the mixture of two models, against both models' own forward passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fairlead.generation import ContextError, Mixing, Sampling, generate
from fairlead.models import LoraSpec, ModelSpec, load_model
from generation.test_engine import NO_END, Codec, assert_same, make_prompts, plain_logprobs
from tiny_models import save_tiny_model, tiny_model

ENDING = Codec(tuple(range(2, 12)))


@pytest.fixture(scope="module")
def two() -> tuple[Any, Any]:
    return tiny_model("llama"), tiny_model("llama", seed=1)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_tokens_come_from_the_geometric_mixture(two: tuple[Any, Any], fast: bool, temperature: float) -> None:
    """Padded, shared and compacted rows; log-probabilities of (1 − β)·log π + β·log μ, each over the temperature, normalised."""
    prompts = make_prompts([20, 3, 31], copies=2)
    sampling = Sampling(maximum_tokens=25, temperature=temperature)
    samples = generate(two[0], ENDING, prompts, sampling, mixing=Mixing(two[1], 0.3), fast=fast)
    assert len(set(samples.mask.sum(1).tolist())) > 2
    for row in range(6):
        own, other = (plain_logprobs(model, samples, row) for model in two)
        tokens = samples.tokens[row][samples.mask[row]]
        for scale, found in ((1.0, samples.logprobs), (temperature, samples.sampling_logprobs)):
            mixed = torch.log_softmax(0.7 * own / scale + 0.3 * other / scale, -1)
            expected = mixed.gather(1, tokens[:, None]).squeeze(1)
            torch.testing.assert_close(found[row][samples.mask[row]], expected, atol=1e-4, rtol=1e-4)


def test_the_whole_share_is_the_other_model(two: tuple[Any, Any]) -> None:
    prompts, sampling = make_prompts([5, 9]), Sampling(maximum_tokens=12)
    mixed = generate(two[0], ENDING, prompts, sampling, mixing=Mixing(two[1], 1.0))
    assert_same(mixed, generate(two[1], ENDING, prompts, sampling))


def test_families_may_differ() -> None:
    """A fast decoder beside a plain one."""
    prompts, sampling = make_prompts([5, 9]), Sampling(maximum_tokens=6)
    found = generate(tiny_model("llama"), NO_END, prompts, sampling, mixing=Mixing(tiny_model("gpt2"), 0.5))
    assert found.mask.all()


@pytest.mark.parametrize("fast", [True, False])
def test_a_model_with_itself_without_its_adapters(tmp_path: Path, fast: bool) -> None:
    spec = ModelSpec(path=str(save_tiny_model(tmp_path)))
    base, adapted = load_model(spec), load_model(spec.model_copy(update={"lora": LoraSpec(rank=2)}))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora" in name:
                weight.normal_(std=0.3, generator=torch.Generator().manual_seed(len(name)))
    prompts, sampling = make_prompts([5, 9, 4]), Sampling(maximum_tokens=12)
    alone, beside = (
        generate(adapted, ENDING, prompts, sampling, mixing=Mixing(model, 0.5), fast=fast) for model in (None, base)
    )
    assert_same(alone, beside)
    own = generate(adapted, ENDING, prompts, sampling, fast=fast)
    assert not torch.equal(own.logprobs[:, 0], alone.logprobs[:, 0])
    again = generate(adapted, ENDING, prompts, sampling, fast=fast)
    assert_same(own, again)  # the adapters are on again


def test_what_cannot_be_mixed(two: tuple[Any, Any]) -> None:
    prompts, sampling = make_prompts([5]), Sampling(maximum_tokens=4)
    with pytest.raises(ValueError, match="260 and 261 tokens cannot be mixed: both need one tokenizer"):
        generate(two[0], NO_END, prompts, sampling, mixing=Mixing(tiny_model("llama", vocab_size=261), 0.5))
    with pytest.raises(ContextError, match="the context holds 8"):
        generate(two[0], NO_END, prompts, sampling, mixing=Mixing(tiny_model("llama", max_position_embeddings=8), 0.5))
    with pytest.raises(ValueError, match=r"must lie in \(0, 1\], got 0"):
        Mixing(two[1], 0.0)
