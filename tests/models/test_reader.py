"""Reading without a model's own `forward`: with compiled loops and without, and the last layer for the wanted tokens only."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel

from fairlead import loops
from fairlead.models.attention import Ragged
from fairlead.models.families import anatomy
from fairlead.models.reader import read_ragged

ROWS = ((0, 7), (7, 3), (10, 150))
"""A prompt, a response to it, and a document that is longer than a piece of attention."""


def body_of(family: str = "llama") -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family,
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=256,
        pad_token_id=0,
    )
    return AutoModel.from_config(config, attn_implementation="fairlead")


def rows() -> Ragged:
    prompt, response, document = ROWS
    return Ragged([(prompt, (prompt,)), (response, (prompt, response)), (document, (document,))], torch.device("cpu"))


def read(model: Any, places: Tensor) -> Tensor:
    body = anatomy(model)
    assert body is not None
    ids = torch.arange(160) % 50
    return read_ragged(body, ids, torch.cat((torch.arange(10), torch.arange(150))), rows(), places)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral", "gemma", "gemma3_text"])
def test_a_few_places_and_all_of_them(family: str) -> None:
    """In any order and repeated; no place is computed in the last layer but those between the first and the last of a row."""
    model = body_of(family)
    widths: list[int] = []
    model.layers[-1].mlp.down_proj.register_forward_pre_hook(lambda _, args: widths.append(len(args[0])))
    whole = read(model, torch.arange(160))
    places = torch.tensor([9, 6, 159, 12, 9])
    some = read(model, places)
    torch.testing.assert_close(some, whole[places], atol=2e-6, rtol=1e-5)
    assert widths == [160, 1 + 1 + 148]
    gradients: list[list[Tensor]] = []
    for outputs in (some, whole[places]):
        found = torch.autograd.grad((outputs * torch.arange(32)).sum(), list(model.parameters()))
        gradients.append(list(found))
    for one, other in zip(*gradients, strict=True):
        assert float((one - other).abs().max()) <= 2e-6 * max(float(g.abs().max()) for g in gradients[1])


def test_no_place() -> None:
    assert read(body_of(), torch.zeros(0, dtype=torch.long)).shape == (0, 32)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma", "gemma3_text"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_with_and_without_compiled_loops(precision: torch.dtype, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without them in single precision, also beside weights that are bfloat16 themselves."""
    if not loops.available():
        pytest.skip("needs Numba (the extra `fast`)")
    model, places = body_of(family).to(precision), torch.arange(5, 160)
    results = []
    for available in (True, False):
        monkeypatch.setattr(loops, "available", lambda available=available: available)
        outputs = read(model if available else model.float(), places)
        gradients = torch.autograd.grad((outputs * torch.arange(32)).sum(), list(model.parameters()))
        results.append([outputs.float(), *gradients])
    exact = precision == torch.float32
    largest = max(float(x.abs().max()) for x in results[1][1:])
    torch.testing.assert_close(results[0][0], results[1][0], atol=2e-6 if exact else 0.1, rtol=1e-5)
    for one, two in zip(results[0][1:], results[1][1:], strict=True):
        assert float((one - two).abs().max()) <= (3e-6 if exact else 0.03) * largest


def test_code_that_is_not_transformers_own_is_left_to_itself() -> None:
    model = body_of()
    assert anatomy(model) is not None
    model.layers[0].__class__ = type("OtherLayer", (type(model.layers[0]),), {"__module__": "mine"})
    assert anatomy(model) is None
    assert anatomy(object()) is None
