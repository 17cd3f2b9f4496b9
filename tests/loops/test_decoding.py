"""The loops of a decoding step against torch in single precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

pytest.importorskip("numba", reason="the extra `fast`")
from fairlead.loops import decoding, numbers
from fairlead.loops.numbers import memory


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(computed: Tensor, exact: Tensor) -> None:
    """To half a unit of bfloat16's last place, which rounding costs, and a little."""
    torch.testing.assert_close(computed.float(), exact, rtol=2**-8 + 1e-4, atol=1e-5)


def test_norm() -> None:
    x, more, weight = random(5, 37), random(5, 37, seed=1).bfloat16(), random(37, seed=2)
    before = x.clone()
    close(decoding.normed(x, more[:0], weight, 1e-5), F.rms_norm(before, (37,), weight, 1e-5))
    assert torch.equal(x, before)
    close(decoding.normed(x, more, weight, 1e-5), F.rms_norm(before + more.float(), (37,), weight, 1e-5))
    assert torch.equal(x, before + more.float())


@pytest.mark.parametrize("gelu", [False, True])
def test_gate(gelu: bool) -> None:
    both = (random(4, 2 * 29) * 8).bfloat16()
    first, second = both.float().chunk(2, -1)
    exact = (F.gelu(first, approximate="tanh") if gelu else F.silu(first)) * second
    close(decoding.gated(both, gelu), exact)


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
    prompts = [memory(x) for x in (prompt_keys, prompt_values)]
    for threads in (1, 2):
        torch.set_num_threads(threads)
        numbers.use_threads()
        own_keys, own_values = keys.clone(), values.clone()
        outs.append(torch.empty(rows, heads * width, dtype=torch.bfloat16))
        decoding.attend(
            *(memory(qkv), cosine.numpy(), sine.numpy(), memory(own_keys), memory(own_values)),
            *(here, np.float32(scale), hidden.numpy(), owner.numpy(), *prompts, memory(outs[-1])),
        )
    torch.set_num_threads(before)
    assert torch.equal(*outs)
    torch.testing.assert_close(outs[0].float(), exact, rtol=2**-8 + 1e-4, atol=2e-5)
    torch.testing.assert_close(own_keys.float(), all_keys.float(), rtol=2**-7, atol=0)
    assert torch.equal(own_values, all_values)
