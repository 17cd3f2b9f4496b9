"""The compiled decoder against the same arithmetic in single precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fairlead.generation import Sampling, compiled, generate, shared
from fairlead.generation.compiled import CompiledDecoder
from fairlead.generation.decoders import fast_weights
from generation.test_decoders import CASES
from generation.test_engine import NO_END, make_prompts, plain_logprobs
from tiny_models import tiny_model

kernels: Any = pytest.importorskip("fairlead.generation.kernels", reason="needs Numba (the extra `fast`)")

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
    monkeypatch.setattr(compiled, "loops", lambda: None)
    without = generate(model, NO_END, prompts, sampling)
    assert (with_loops.logprobs[:, 0] == without.logprobs[:, 0]).all()  # from the prompt: the same operations
    assert float((with_loops.logprobs - without.logprobs).abs().max()) > 0


# -- the loops by themselves ------------------------------------------------------------------------------------------


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(computed: Tensor, exact: Tensor) -> None:
    """To half a unit of bfloat16's last place, which rounding costs, and a little."""
    torch.testing.assert_close(computed.float(), exact, rtol=2**-8 + 1e-4, atol=1e-5)


def test_norm() -> None:
    x, more, weight = random(5, 37), random(5, 37, seed=1).bfloat16(), random(37, seed=2)
    before = x.clone()
    close(kernels.normed(x, more[:0], weight, 1e-5), F.rms_norm(before, (37,), weight, 1e-5))
    assert torch.equal(x, before)
    close(kernels.normed(x, more, weight, 1e-5), F.rms_norm(before + more.float(), (37,), weight, 1e-5))
    assert torch.equal(x, before + more.float())


@pytest.mark.parametrize("gelu", [False, True])
def test_gate(gelu: bool) -> None:
    both = (random(4, 2 * 29) * 8).bfloat16()
    first, second = both.float().chunk(2, -1)
    exact = (F.gelu(first, approximate="tanh") if gelu else F.silu(first)) * second
    close(kernels.gated(both, gelu), exact)


@pytest.mark.parametrize("prompt", [0, 7])
@pytest.mark.parametrize("group", [1, 2, 3])
def test_attention(group: int, prompt: int) -> None:
    rows, key_heads, width, columns, here, scale = 4, 2, 24, 16, 9, 0.3
    heads = group * key_heads
    qkv = random(rows, (heads + 2 * key_heads) * width).bfloat16()
    keys, values = (random(rows * key_heads, columns, width, seed=seed).bfloat16() for seed in (1, 2))
    prompt_keys, prompt_values = (random(2 * key_heads, prompt, width, seed=seed).bfloat16() for seed in (3, 4))
    owner = torch.tensor([0, 1, 1, 0])
    hidden = torch.zeros(rows, 5, dtype=torch.bool)
    hidden[1, :3] = hidden[2, 0] = True
    angle = random(rows, width // 2, seed=5)
    cosine, sine = torch.cat([angle, angle], -1).cos(), torch.cat([angle, angle], -1).sin()

    first, second = qkv.float().view(rows, -1, width).chunk(2, -1)
    whole = torch.cat([first, second], -1)
    turned = whole * cosine[:, None] + torch.cat([-second, first], -1) * sine[:, None]
    all_keys, all_values = keys.clone(), values.clone()
    all_keys[:, here] = turned[:, heads : heads + key_heads].reshape(-1, width).bfloat16()
    all_values[:, here] = whole[:, heads + key_heads :].reshape(-1, width).bfloat16()

    def seen(own: Tensor, prompts: Tensor) -> Tensor:
        """[rows, heads, prompt + here + 1, width]"""
        shared_part = prompts.view(2, key_heads, prompt, width)[owner]
        both = torch.cat([shared_part, own.view(rows, key_heads, columns, width)[:, :, : here + 1]], 2)
        return both.float().repeat_interleave(group, 1)

    scores = (turned[:, :heads, None] * scale) @ seen(all_keys, prompt_keys).transpose(2, 3)
    scores[..., :5] = scores[..., :5].masked_fill(hidden[:, None, None], float("-inf"))
    exact = (scores.softmax(-1) @ seen(all_values, prompt_values)).reshape(rows, -1)

    outs, before = [], torch.get_num_threads()
    prompts = [kernels.bits(x) for x in (prompt_keys, prompt_values)]
    for threads in (1, 2):
        torch.set_num_threads(threads)
        kernels.use_threads()
        own_keys, own_values = keys.clone(), values.clone()
        outs.append(torch.empty(rows, heads * width, dtype=torch.bfloat16))
        kernels.attend(
            *(kernels.bits(qkv), cosine.numpy(), sine.numpy(), kernels.bits(own_keys), kernels.bits(own_values)),
            *(here, np.float32(scale), hidden.numpy(), owner.numpy(), *prompts, kernels.bits(outs[-1])),
        )
    torch.set_num_threads(before)
    assert torch.equal(*outs)
    torch.testing.assert_close(outs[0].float(), exact, rtol=2**-8 + 1e-4, atol=2e-5)
    torch.testing.assert_close(own_keys.float(), all_keys.float(), rtol=2**-7, atol=0)
    assert torch.equal(own_values, all_values)
