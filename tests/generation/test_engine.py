"""The engine against plain forward passes of the same models."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from scipy.stats import chisquare

from fairlead.batch import Prompts, Samples, left_pad, row_table, take
from fairlead.data import TextCodec
from fairlead.generation import ContextError, Sampling, decoders, filtered_logits, generate
from fairlead.generation.cache import cache_argument, growing_cache
from tiny_models import FAMILIES, tiny_model, tiny_tokenizer

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


@dataclass
class Codec:
    """The tiny tokenizer with the face of the house's text codec."""

    end_ids: tuple[int, ...] = (2,)
    padding_id: int = 0
    tokenizer: Any = field(default_factory=tiny_tokenizer)

    def decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))


NO_END = Codec(end_ids=())


@pytest.fixture(scope="module")
def llama() -> Any:
    return tiny_model("llama")


def make_prompts(lengths: list[int], copies: int = 1, seed: int = 0) -> Prompts:
    generator = torch.Generator().manual_seed(seed)
    distinct = [torch.randint(4, 260, (n,), generator=generator).tolist() for n in lengths]
    ids, mask = left_pad([prompt for prompt in distinct for _ in range(copies)], 0)
    index = torch.arange(len(ids))
    rows = row_table([{"prompt": f"row {i}", "line": i} for i in range(len(ids))])
    return Prompts(
        prompt_ids=ids, prompt_mask=mask, group=index // copies, seed=index + 100, rows=rows, batch_size=[len(ids)]
    )


def plain_logprobs(model: Any, samples: Samples, row: int) -> torch.Tensor:
    """Log-probabilities [n, V] of the response's positions from one unpadded forward pass without a cache."""
    prompt = samples.prompt_ids[row][samples.prompt_mask[row]]
    response = samples.tokens[row][samples.mask[row]]
    with torch.no_grad():
        logits = model(input_ids=torch.cat((prompt, response))[None], use_cache=False).logits[0]
    return torch.log_softmax(logits[len(prompt) - 1 : -1].float(), -1)


def assert_same(a: Samples, b: Samples) -> None:
    assert torch.equal(a.tokens, b.tokens)
    assert torch.equal(a.mask, b.mask)
    assert torch.equal(a.truncated, b.truncated)
    torch.testing.assert_close(a.logprobs, b.logprobs, **TOLERANCE)
    torch.testing.assert_close(a.sampling_logprobs, b.sampling_logprobs, **TOLERANCE)
    assert list(a.rows) == list(b.rows)


# -- against the model's own forward pass -----------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_logprobs_equal_a_plain_forward(family: str) -> None:
    """Left padding, shared prompts, compaction and windows (8 tokens, less than the rows) at once."""
    model = tiny_model(family)
    prompts = make_prompts([1, 3, 14, 23, 9], copies=3)
    sampling = Sampling(maximum_tokens=30, temperature=0.8, top_k=50, top_p=0.95, min_p=0.01)
    some = tuple(range(2, 18))
    samples = generate(model, Codec(some), prompts, sampling)
    assert len(set(samples.mask.sum(1).tolist())) > 3
    for row in range(len(samples.tokens)):
        tokens = samples.tokens[row][samples.mask[row]]
        plain = plain_logprobs(model, samples, row)
        n = len(tokens)
        torch.testing.assert_close(samples.logprobs[row, :n], plain.gather(1, tokens[:, None]).squeeze(1), **TOLERANCE)
        sampled = torch.log_softmax(filtered_logits(plain, sampling), -1).gather(1, tokens[:, None]).squeeze(1)
        torch.testing.assert_close(samples.sampling_logprobs[row, :n], sampled, atol=1e-4, rtol=1e-4)
        assert not samples.logprobs[row, n:].any()
        assert not samples.sampling_logprobs[row, n:].any()


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_takes_the_likeliest_token(family: str) -> None:
    model = tiny_model(family)
    samples = generate(model, NO_END, make_prompts([2, 11, 20]), Sampling(maximum_tokens=12, temperature=0))
    for row in range(3):
        assert torch.equal(plain_logprobs(model, samples, row).argmax(-1), samples.tokens[row])
    assert not samples.sampling_logprobs.any()
    assert samples.logprobs.lt(0).all()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_implementations_agree(llama: Any, attention: str) -> None:
    prompts = make_prompts([2, 11, 20])
    other = tiny_model("llama")
    other.set_attn_implementation(attention)
    assert_same(*(generate(m, NO_END, prompts, Sampling(maximum_tokens=10)) for m in (llama, other)))


def test_sliding_windows_drop_old_columns() -> None:
    model = tiny_model("gemma3_text")
    cache = growing_cache(model.config)
    with torch.no_grad():
        model(input_ids=torch.full((1, 90), 5), use_cache=True, **{cache_argument(model): cache})
        for _ in range(100):
            model(input_ids=torch.tensor([[5]]), use_cache=True, **{cache_argument(model): cache})
    window, full = cache.layers
    assert (window.keys.shape[-2], full.keys.shape[-2]) == (8, 190)
    assert window.buffers[0].shape[-2] < 100 + full.seen // 2
    assert window.dropped > 0


# -- rows do not know each other --------------------------------------------------------------------------------------


def test_a_row_does_not_depend_on_its_batch(llama: Any) -> None:
    prompts = make_prompts([4, 9, 1, 17], copies=2)
    sampling = Sampling(maximum_tokens=16, temperature=0.9, top_p=0.9)
    codec = Codec(tuple(range(2, 14)))
    whole = generate(llama, codec, prompts, sampling)
    order = torch.tensor([5, 0, 7, 3, 1, 2, 6, 4])
    assert_same(generate(llama, codec, take(prompts, order), sampling), take(whole, order))
    for row in range(8):
        assert_same(generate(llama, codec, take(prompts, [row]), sampling), take(whole, [row]))


def test_equal_prompts_with_equal_seeds_agree_and_with_others_differ(llama: Any) -> None:
    prompts = make_prompts([6], copies=3)
    prompts = prompts.replace(seed=torch.tensor([7, 7, 8]))
    tokens = generate(llama, NO_END, prompts, Sampling(maximum_tokens=12)).tokens
    assert torch.equal(tokens[0], tokens[1])
    assert not torch.equal(tokens[0], tokens[2])


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3_text", "mixtral"])
@pytest.mark.parametrize(
    "settings",
    [
        {"fast": False},
        {"share_prompts": False},
        {"compact_below": 0.0},
        {"compact_below": 1.0},
        {"token_budget": 90},
        {"token_budget": 1},
    ],
)
def test_settings_of_speed_change_nothing(family: str, settings: dict[str, Any]) -> None:
    model = tiny_model(family)
    prompts = make_prompts([12, 3, 12, 20], copies=2)
    sampling = Sampling(maximum_tokens=18)
    codec = Codec(tuple(range(2, 20)))
    assert_same(generate(model, codec, prompts, sampling, **settings), generate(model, codec, prompts, sampling))


class Counting:
    """Counts the positions that a model computes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shapes: list[tuple[int, ...]] = []
        for name, width in (("prefill", None), ("step", 1)):
            original = getattr(decoders.FastDecoder, name)

            def counted(
                this: Any, ids: torch.Tensor, *rest: Any, original: Any = original, width: int | None = width
            ) -> torch.Tensor:
                self.shapes.append((ids.shape[0], width or ids.shape[1]))
                return original(this, ids, *rest)  # type: ignore[no-any-return]

            monkeypatch.setattr(decoders.FastDecoder, name, counted)


def test_prompts_are_computed_once_and_finished_rows_no_more(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting(monkeypatch)
    samples = generate(
        llama,
        Codec(tuple(range(2, 30))),
        make_prompts([5, 9], copies=8),
        Sampling(maximum_tokens=40),
        compact_below=1.0,
    )
    assert counting.shapes[0] == (2, 9)
    lengths = samples.mask.sum(1)
    for step, shape in enumerate(counting.shapes[1:], 1):
        assert shape == (int((lengths > step).sum()), 1)
    assert len(counting.shapes) == int(lengths.max())


def test_the_budget_limits_the_rows_at_a_time(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting(monkeypatch)
    generate(llama, NO_END, make_prompts([10, 2, 10, 2, 10]), Sampling(maximum_tokens=2), token_budget=24)
    assert [shape for shape in counting.shapes if shape[1] > 1] == [(2, 2), (2, 10), (1, 10)]


# -- the distribution -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.7, "top_k": 20}, {"top_p": 0.6, "min_p": 0.1}])
def test_frequencies_follow_the_model(llama: Any, settings: dict[str, Any]) -> None:
    rows = 4000
    prompts = make_prompts([5], copies=rows)
    sampling = Sampling(maximum_tokens=1, **settings)
    tokens = generate(llama, NO_END, prompts, sampling, token_budget=10**6).tokens[:, 0]
    with torch.no_grad():
        logits = llama(input_ids=prompts.prompt_ids[:1]).logits[0, -1]
    expected = filtered_logits(logits, sampling).double().softmax(-1) * rows
    counts = torch.bincount(tokens, minlength=260)
    assert not counts[expected == 0].any()
    rare = expected < 5  # the chi-square approximation wants five of each: the rare ones together
    counts = torch.cat((counts[~rare], counts[rare].sum()[None])).double()
    expected = torch.cat((expected[~rare], expected[rare].sum()[None]))
    wanted = expected > 0
    assert chisquare(counts[wanted].numpy(), expected[wanted].numpy()).pvalue > 1e-3


# -- ends -------------------------------------------------------------------------------------------------------------


def free_run(model: Any, prompts: Prompts, length: int = 20) -> Samples:
    return generate(model, NO_END, prompts, Sampling(maximum_tokens=length))


def test_end_tokens_belong_to_the_response_and_not_to_its_text(llama: Any) -> None:
    prompts = make_prompts([5, 8])
    free = free_run(llama, prompts)
    end = int(free.tokens[0, 6])
    first = [(row == end).nonzero() for row in free.tokens]
    lengths = [int(f[0]) + 1 if len(f) else 20 for f in first]
    samples = generate(llama, NO_END, prompts, Sampling(maximum_tokens=20, stop_tokens=[end]))
    assert samples.mask.sum(1).tolist() == lengths
    assert samples.truncated.tolist() == [n == 20 and not len(f) for n, f in zip(lengths, first, strict=True)]
    assert samples.tokens[0, lengths[0] - 1] == end
    assert samples.rows[0]["response"] == Codec().decode(samples.tokens[0, : lengths[0] - 1].tolist())
    assert (samples.tokens[~samples.mask] == 0).all()
    assert_same(generate(llama, Codec((end,)), prompts, Sampling(maximum_tokens=20)), samples)


def test_minimum_tokens_forbid_the_end(llama: Any) -> None:
    some = Codec(tuple(range(40)))
    prompts = make_prompts([5, 8, 2], copies=8)
    free = generate(llama, some, prompts, Sampling(maximum_tokens=30))
    assert int(free.mask.sum(1).min()) < 6
    samples = generate(llama, some, prompts, Sampling(maximum_tokens=30, minimum_tokens=6))
    assert int(samples.mask.sum(1).min()) >= 7
    assert (samples.tokens[:, :6] >= 40).all()
    # What was sampled from is the model without the end tokens; `logprobs` stay the model's own.
    assert (samples.sampling_logprobs[:, :6] > samples.logprobs[:, :6]).all()
    plain = plain_logprobs(llama, samples, 0)[0]
    assert samples.logprobs[0, 0].item() == pytest.approx(plain[samples.tokens[0, 0]].item(), abs=1e-5)
    greedy = generate(llama, some, prompts, Sampling(maximum_tokens=6, minimum_tokens=6, temperature=0))
    assert (greedy.tokens >= 40).all()


def test_an_end_at_the_limit_is_not_truncated(llama: Any) -> None:
    prompts = make_prompts([5])
    end = int(free_run(llama, prompts).tokens[0, 3])
    samples = generate(llama, Codec((end,)), prompts, Sampling(maximum_tokens=4))
    assert samples.truncated.tolist() == [False]
    assert generate(llama, NO_END, prompts, Sampling(maximum_tokens=4)).truncated.tolist() == [True]


def test_stop_strings(llama: Any) -> None:
    prompts = make_prompts([5, 8, 3])
    codec = Codec(end_ids=())
    free = free_run(llama, prompts, 30)
    letters = [codec.decode([t]) for t in free.tokens[0].tolist()]
    at = next(
        i for i in range(4, 28) if letters[i].isascii() and letters[i + 1].isascii() and letters[i] and letters[i + 1]
    )
    string = letters[at] + letters[at + 1]
    samples = generate(llama, codec, prompts, Sampling(maximum_tokens=30, stop=["never seen", string]))
    for row in range(3):
        text, n = free.rows[row]["response"], int(samples.mask[row].sum())
        assert torch.equal(samples.tokens[row, :n], free.tokens[row, :n])
        if string in text:
            assert samples.rows[row]["response"] == text[: text.index(string)]
            assert string in codec.decode(samples.tokens[row, :n].tolist())
            assert string not in codec.decode(samples.tokens[row, : n - 1].tolist())
            assert not samples.truncated[row]
        else:
            assert (n, bool(samples.truncated[row])) == (30, True)
    assert string in free.rows[0]["response"]


def test_minimum_tokens_hold_for_stop_strings(llama: Any) -> None:
    prompts = make_prompts([5])
    codec = Codec(end_ids=())
    letters = [codec.decode([t]) for t in free_run(llama, prompts).tokens[0].tolist()]
    at = next(i for i, letter in enumerate(letters) if letter.isascii() and letter)
    samples = generate(llama, codec, prompts, Sampling(maximum_tokens=20, stop=[letters[at]], minimum_tokens=at + 1))
    assert int(samples.mask.sum()) > at + 1


# -- borders ----------------------------------------------------------------------------------------------------------


def test_an_empty_batch(llama: Any) -> None:
    samples = generate(llama, Codec(), make_prompts([3, 4])[:0], Sampling())
    assert samples.tokens.shape == (0, 0)
    assert samples.truncated.shape == (0,)
    assert list(samples.rows) == []


def test_a_single_row_of_a_single_token(llama: Any) -> None:
    samples = generate(llama, NO_END, make_prompts([1]), Sampling(maximum_tokens=5))
    assert samples.tokens.shape == (1, 5)
    plain = plain_logprobs(llama, samples, 0)
    torch.testing.assert_close(samples.logprobs[0], plain.gather(1, samples.tokens[0][:, None]).squeeze(1), **TOLERANCE)


def test_with_the_text_codec(llama: Any) -> None:
    codec = TextCodec(tiny_tokenizer())
    prompts = [codec.encode_prompt([{"role": "user", "content": text}]) for text in ("hi", "good day")] * 8
    ids, mask = left_pad(prompts, codec.padding_id)
    index = torch.arange(16)
    rows = row_table([{"prompt": ""} for _ in prompts])
    batch = Prompts(prompt_ids=ids, prompt_mask=mask, group=index % 2, seed=index, rows=rows, batch_size=[16])
    samples = generate(llama, codec, batch, Sampling(maximum_tokens=60, stop=["e"]))
    assert all("e" not in row["response"] and "<|" not in row["response"] for row in samples.rows)
    assert not samples.truncated.all()


def test_columns_and_types(llama: Any) -> None:
    prompts = make_prompts([4, 2])
    samples = generate(llama, Codec(), prompts, Sampling(maximum_tokens=3))
    assert torch.equal(samples.prompt_ids, prompts.prompt_ids)
    assert torch.equal(samples.seed, prompts.seed)
    assert torch.equal(samples.group, prompts.group)
    types = (samples.tokens.dtype, samples.mask.dtype, samples.logprobs.dtype, samples.sampling_logprobs.dtype)
    assert types == (torch.int64, torch.bool, torch.float32, torch.float32)
    assert [set(row) for row in samples.rows] == [{"prompt", "line", "response"}] * 2
    assert "response" not in prompts.rows[0]  # the caller's rows are copied, not written to


def test_too_long_for_the_context_names_the_numbers(llama: Any) -> None:
    with pytest.raises(
        ContextError, match=r"1 of 2 prompts.*100 tokens.*maximum_tokens 29.*129.*holds 128.*maximum_tokens to 28"
    ):
        generate(llama, Codec(), make_prompts([3, 100]), Sampling(maximum_tokens=29))
    assert generate(llama, NO_END, make_prompts([3, 100]), Sampling(maximum_tokens=28)).tokens.shape == (2, 28)


def test_a_prompt_without_tokens_is_an_error(llama: Any) -> None:
    prompts = make_prompts([3, 4])
    prompts.prompt_mask[1] = False
    with pytest.raises(ValueError, match=r"rows \[1\]"):
        generate(llama, Codec(), prompts, Sampling())


def test_training_mode_is_put_back() -> None:
    model = tiny_model("gpt2", resid_pdrop=0.5).train()
    prompts = make_prompts([4])
    samples = generate(model, NO_END, prompts, Sampling(maximum_tokens=6))
    assert model.training
    torch.testing.assert_close(
        samples.logprobs[0],
        plain_logprobs(model.eval(), samples, 0).gather(1, samples.tokens[0][:, None]).squeeze(1),
        **TOLERANCE,
    )
