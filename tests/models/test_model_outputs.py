"""What `fairlead.runtime.forward` reads off each family equals plain forward passes of the same model."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from fairlead.batch import Pairs, Samples, Sequences, left_pad, right_pad, row_table
from fairlead.models import LoraSpec, ModelError, ModelSpec, backbone, load_model
from fairlead.runtime.forward import forward
from tiny_models import FAMILIES, SLIDING_WINDOW, save_tiny_model, tiny_config, tiny_model

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
PROMPTS, RESPONSES = (3, 1, 19, 10), (14, 22, 5, 1)


def pieces(lengths: tuple[int, ...], seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(4, 260, (n,), generator=generator).tolist() for n in lengths]


def make_samples() -> Samples:
    prompt_ids, prompt_mask = left_pad(pieces(PROMPTS, 0), 0)
    tokens, mask = right_pad(pieces(RESPONSES, 1), 0)
    rows, nothing = len(PROMPTS), torch.zeros(tokens.shape)
    return Samples(
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        tokens=tokens,
        mask=mask,
        group=torch.arange(rows),
        seed=torch.arange(rows),
        logprobs=nothing,
        sampling_logprobs=nothing,
        truncated=torch.zeros(rows, dtype=torch.bool),
        rows=row_table([{} for _ in range(rows)]),
        batch_size=[rows],
    )


def document_logprobs(model: Any, document: list[int], temperature: float = 1.0) -> torch.Tensor:
    """[n - 1, V]: position t scores token t + 1 of one document alone."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([document]), use_cache=False).logits[0, :-1]
    return torch.log_softmax(logits / temperature, -1)


def scalar_model(family: str, labels: int = 1) -> Any:
    fields = tiny_config(family).to_dict()
    torch.manual_seed(0)
    model = load_model(ModelSpec(initialise=fields), "scalar", labels)
    with torch.no_grad():
        model.score.weight.normal_(generator=torch.Generator().manual_seed(2))
    return model


def document_values(model: Any, document: list[int]) -> torch.Tensor:
    """[n, K]: the head at every position of one document alone."""
    with torch.no_grad():
        return model.score(backbone(model)(input_ids=torch.tensor([document]), use_cache=False).last_hidden_state)[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("family", FAMILIES)
def test_logprobs_with_left_padded_prompts(family: str) -> None:
    model, samples = tiny_model(family), make_samples()
    with torch.no_grad():
        outputs = forward(model, samples, ("logprobs", "entropy"), temperature=0.7)
    assert outputs.logprobs is not None and outputs.entropy is not None
    for row, (prompt, response) in enumerate(zip(pieces(PROMPTS, 0), pieces(RESPONSES, 1), strict=True)):
        plain = document_logprobs(model, prompt + response, 0.7)[len(prompt) - 1 :]
        n = len(response)
        torch.testing.assert_close(
            outputs.logprobs[row, :n], plain.gather(1, torch.tensor(response)[:, None])[:, 0], **CLOSE
        )
        torch.testing.assert_close(outputs.entropy[row, :n], -(plain.exp() * plain).sum(-1), **CLOSE)
        assert not outputs.logprobs[row, n:].any()


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_documents_do_not_see_each_other(family: str) -> None:
    """Rows of 60 tokens with documents longer than the sliding window of 8, and a padded end."""
    assert SLIDING_WINDOW < 20
    model = tiny_model(family)
    documents = [pieces((25, 4, 20), 3), pieces((13, 30, 17), 4)]
    tokens, filled = right_pad([list(chain.from_iterable(row)) for row in documents], 0)
    segments = torch.zeros_like(tokens)
    mask = filled.clone()
    for row, parts in enumerate(documents):
        start = 0
        for number, part in enumerate(parts, 1):
            segments[row, start : start + len(part)] = number
            mask[row, start] = False
            start += len(part)
    batch = Sequences(tokens=tokens, segments=segments, mask=mask, weight=torch.ones(2), batch_size=[2])
    with torch.no_grad():
        logprobs = forward(model, batch, ("logprobs",)).logprobs
    assert logprobs is not None
    for row, parts in enumerate(documents):
        start = 0
        for part in parts:
            plain = document_logprobs(model, part).gather(1, torch.tensor(part[1:])[:, None])[:, 0]
            torch.testing.assert_close(logprobs[row, start + 1 : start + len(part)], plain, **CLOSE)
            assert logprobs[row, start] == 0
            start += len(part)
        assert not logprobs[row, start:].any()


@pytest.mark.parametrize("family", FAMILIES)
def test_values_stand_before_their_token_and_scores_at_the_last(family: str) -> None:
    model, samples = scalar_model(family), make_samples()
    with torch.no_grad():
        outputs = forward(model, samples, ("values", "scores"))
    assert outputs.values is not None and outputs.scores is not None
    for row, (prompt, response) in enumerate(zip(pieces(PROMPTS, 0), pieces(RESPONSES, 1), strict=True)):
        plain = document_values(model, prompt + response)[:, 0]
        n = len(response)
        torch.testing.assert_close(outputs.values[row, :n], plain[len(prompt) - 1 : -1], **CLOSE)
        assert not outputs.values[row, n:].any()
        torch.testing.assert_close(outputs.scores[row], plain[-1], **CLOSE)


def test_scores_are_those_of_transformers() -> None:
    model, samples = scalar_model("llama", labels=3), make_samples()
    with torch.no_grad():
        scores = forward(model, samples, ("scores",)).scores
        for row, (prompt, response) in enumerate(zip(pieces(PROMPTS, 0), pieces(RESPONSES, 1), strict=True)):
            assert scores is not None
            torch.testing.assert_close(
                scores[row], model(input_ids=torch.tensor([prompt + response])).logits[0], **CLOSE
            )


def test_pairs_are_two_responses_to_one_prompt() -> None:
    model = tiny_model("llama")
    chosen, rejected = pieces((6, 3), 5), pieces((2, 9), 6)
    prompt_ids, prompt_mask = left_pad(pieces((4, 7), 0), 0)
    tokens, mask = right_pad([chosen[0], rejected[0], chosen[1], rejected[1]], 0)
    pairs = Pairs(
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        tokens=tokens.reshape(2, 2, -1),
        mask=mask.reshape(2, 2, -1),
        margin=torch.zeros(2),
        weight=torch.ones(2),
        rows=row_table([{}, {}]),
        batch_size=[2],
    )
    with torch.no_grad():
        logprobs = forward(model, pairs, ("logprobs",)).logprobs
        scores = forward(scalar_model("llama"), pairs, ("scores",)).scores
    assert logprobs is not None and scores is not None
    assert scores.shape == (2, 2)
    for row, prompt in enumerate(pieces((4, 7), 0)):
        for side, response in enumerate((chosen[row], rejected[row])):
            plain = document_logprobs(model, prompt + response)[len(prompt) - 1 :]
            expected = plain.gather(1, torch.tensor(response)[:, None])[:, 0]
            torch.testing.assert_close(logprobs[row, side, : len(response)], expected, **CLOSE)


def test_unknown_outputs_are_named() -> None:
    with pytest.raises(ValueError, match="rewards"):
        forward(tiny_model("llama"), make_samples(), ("rewards",))


# -- against a reference ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_divergence_from_a_reference(family: str) -> None:
    """Read without padding, and padded; the reference in evaluation mode, whatever the model is in."""
    model, reference, samples = tiny_model(family), tiny_model(family, seed=1), make_samples()
    reference.train()
    with torch.no_grad():
        outputs = forward(model, samples, ("logprobs", "kl", "forward_kl"), temperature=0.7, reference=reference)
    assert reference.training
    for row, (prompt, response) in enumerate(zip(pieces(PROMPTS, 0), pieces(RESPONSES, 1), strict=True)):
        own, other = (
            document_logprobs(m.eval(), prompt + response, 0.7)[len(prompt) - 1 :] for m in (model, reference)
        )
        n = len(response)
        torch.testing.assert_close(outputs.kl[row, :n], (own.exp() * (own - other)).sum(-1), **CLOSE)
        torch.testing.assert_close(outputs.forward_kl[row, :n], (other.exp() * (other - own)).sum(-1), **CLOSE)
        assert not outputs.kl[row, n:].any() and not outputs.forward_kl[row, n:].any()


def test_without_a_reference_the_adapters_are_compared_with_none(tmp_path: Path) -> None:
    spec = ModelSpec(path=str(save_tiny_model(tmp_path)))
    adapted = load_model(spec.model_copy(update={"lora": LoraSpec(rank=2)}))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    samples = make_samples()
    alone, beside = (forward(adapted, samples, ("forward_kl",), reference=other) for other in (None, load_model(spec)))
    torch.testing.assert_close(alone.forward_kl, beside.forward_kl)
    alone.forward_kl.sum().backward()
    assert all(p.grad is not None for n, p in adapted.named_parameters() if "lora_B" in n)
    with pytest.raises(ModelError, match="no adapters to switch off"):
        forward(load_model(spec), samples, ("kl",))
    with pytest.raises(ValueError, match="reference of 261 tokens cannot be compared with a model of 260"):
        forward(tiny_model(), samples, ("kl",), reference=tiny_model(vocab_size=261))
