"""The compiled decoder against the same arithmetic in single precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fairlead import loops
from fairlead.generation import Sampling, generate, shared
from fairlead.generation.compiled import CompiledDecoder
from fairlead.generation.decoders import fast_weights
from generation.test_decoders import CASES
from generation.test_engine import NO_END, make_prompts, plain_logprobs
from tiny_models import tiny_model

pytest.importorskip("fairlead.loops.decoding", reason="needs Numba (the extra `fast`)")

COMPILED = ["llama", "llama-biased", "llama-long", "mistral", "qwen2", "gemma"]
"""Of `CASES`; the others have norms in more places."""


def model_of(case: str) -> Any:
    return tiny_model(case.split("-")[0], **CASES[case])


@pytest.fixture
def bfloat16() -> Any:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        weights = fast_weights(tiny_model("llama"))
        if weights is None or not weights.head.packed:
            pytest.skip("this processor does not multiply bfloat16")
        yield


@pytest.mark.parametrize("saved", [0, shared.SAVED], ids=["shared", "copied"])
@pytest.mark.parametrize("case", COMPILED)
def test_log_probabilities_are_nearer_to_single_precision_than_the_plain_decoders(
    case: str, saved: int, bfloat16: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "SAVED", saved)
    model, prompts = model_of(case), make_prompts([20, 3, 31], copies=3)
    weights = fast_weights(model)
    assert weights is not None
    assert CompiledDecoder.fits(weights)
    errors = []
    for fast in (True, False):
        samples = generate(model, NO_END, prompts, Sampling(maximum_tokens=45), fast=fast)
        with torch.autocast("cpu", enabled=False):
            exact = [plain_logprobs(model, samples, row) for row in range(9)]
        drawn = torch.stack([x.gather(1, samples.tokens[row][:, None])[:, 0] for row, x in enumerate(exact)])
        errors.append(float((samples.logprobs - drawn).abs().mean()))
    assert errors[0] < 1.1 * errors[1] < 0.05


@pytest.mark.parametrize("case", sorted(set(CASES) - set(COMPILED)))
def test_further_norms_are_left_to_the_fast_decoder(case: str, bfloat16: None) -> None:
    weights = fast_weights(model_of(case))
    assert weights is not None
    assert not CompiledDecoder.fits(weights)


def test_single_precision_is_left_to_the_fast_decoder() -> None:
    weights = fast_weights(tiny_model("llama"))
    assert weights is not None
    assert not CompiledDecoder.fits(weights)


def test_without_numba_the_fast_decoder_does_it(bfloat16: None, monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts, sampling = tiny_model("llama"), make_prompts([5, 9]), Sampling(maximum_tokens=6)
    with_loops = generate(model, NO_END, prompts, sampling)
    monkeypatch.setattr(loops, "available", lambda: False)
    without = generate(model, NO_END, prompts, sampling)
    assert (with_loops.logprobs[:, 0] == without.logprobs[:, 0]).all()  # from the prompt: the same operations
    assert float((with_loops.logprobs - without.logprobs).abs().max()) > 0
