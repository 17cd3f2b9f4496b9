"""Rows without padding, equal prompts and equal rows once: the same numbers and gradients, with less work."""

from __future__ import annotations

from itertools import chain
from typing import Any, Literal

import pytest
import torch

from fairlead.batch import Experience, Pairs, Sequences, alike, left_pad, right_pad, row_table
from fairlead.models import ModelSpec, load_model
from fairlead.models.attention import Ragged
from fairlead.models.shapes import recurring
from fairlead.runtime import ragged
from fairlead.runtime.dispatch import row_lengths
from fairlead.runtime.forward import forward
from fairlead.runtime.microbatches import microbatches
from fairlead.runtime.ragged import RaggedRows, knows_ragged_rows
from models.test_model_outputs import pieces
from tiny_models import FAMILIES, tiny_config


def experience(prompt_lengths: tuple[int, ...] = (20, 11, 5), responses: tuple[int, ...] = (6, 9, 1, 12)) -> Experience:
    """Every prompt with every response, in mixed order, and the first row once more."""
    prompts, answers = pieces(prompt_lengths, 0), pieces(responses, 1)
    rows = [(p, r) for r in answers for p in prompts]
    rows.append(rows[0])
    prompt_ids, prompt_mask = left_pad([p for p, _ in rows], 0)
    tokens, mask = right_pad([r for _, r in rows], 0)
    n, nothing = len(rows), torch.zeros(tokens.shape)
    return Experience(
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        tokens=tokens,
        mask=mask,
        group=torch.arange(n),
        truncated=torch.zeros(n, dtype=torch.bool),
        logprobs=nothing,
        behaviour_logprobs=nothing,
        channels={},
        rows=row_table([{}] * n),
        batch_size=[n],
    )


def model_of(family: str, kind: Literal["causal", "scalar"] = "causal", **fields: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = load_model(ModelSpec(initialise=tiny_config(family).to_dict(), **fields), kind)
        if kind == "scalar":
            torch.nn.init.normal_(model.score.weight)
    return model


def loss_of(outputs: Any) -> torch.Tensor:
    """A loss in which every output counts differently."""
    parts = [x for x in (outputs.logprobs, outputs.entropy, outputs.values, outputs.scores) if x is not None]
    weighted: list[torch.Tensor] = [(x * torch.sin(torch.arange(x.numel()).view_as(x) + 1.0)).sum() for x in parts]
    return torch.stack(weighted).sum()


def widths_of(model: Any) -> list[int]:
    """A list to which every forward pass adds the number of its tokens."""
    widths: list[int] = []
    model.get_input_embeddings().register_forward_pre_hook(lambda module, args: widths.append(args[0].numel()))
    return widths


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("needs", [("logprobs", "entropy"), ("values", "scores")])
def test_the_same_numbers_and_gradients(family: str, needs: tuple[str, ...]) -> None:
    """Prompts and responses longer than the sliding window of 8 of some families."""
    model = model_of(family, "causal" if "logprobs" in needs else "scalar")
    # Gemma-2 caps its attention scores, which our attention does not do.
    assert knows_ragged_rows(model) == (family != "gemma2")
    compare(model, experience(), needs)


def compare(model: Any, batch: Any, needs: tuple[str, ...]) -> None:
    found: list[tuple[Any, list[torch.Tensor]]] = []
    for without_padding in (None, False):
        model.zero_grad()
        outputs = forward(model, batch, needs, 0.8, ragged=without_padding)
        loss_of(outputs).backward()  # type: ignore[no-untyped-call]
        found.append((outputs, [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    (mine, my_gradients), (padded, gradients) = found
    for need in needs:
        torch.testing.assert_close(getattr(mine, need), getattr(padded, need), atol=1e-5, rtol=1e-5)
    largest = max(float(g.abs().max()) for g in gradients)
    for one, other in zip(my_gradients, gradients, strict=True):
        assert float((one - other).abs().max()) < 1e-5 * largest


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2"])
def test_packed_documents(family: str) -> None:
    tokens, filled = right_pad([list(chain(*pieces((9, 1, 12), 3))), list(chain(*pieces((4, 10), 4)))], 0)
    segments = torch.zeros_like(tokens)
    segments[0, :9], segments[0, 9], segments[0, 10:22], segments[1, :4], segments[1, 4:14] = 1, 2, 3, 1, 2
    mask = filled.clone()
    for row, column in ((0, 0), (0, 9), (0, 10), (1, 0), (1, 4), (1, 6)):
        mask[row, column] = False
    batch = Sequences(tokens=tokens, segments=segments, mask=mask, weight=torch.ones(2), batch_size=[2])
    compare(model_of(family), batch, ("logprobs", "entropy"))
    compare(model_of(family, "scalar"), batch, ("values", "scores"))


def test_padding_and_repetition_are_not_computed() -> None:
    model = model_of("llama")
    assert knows_ragged_rows(model)
    widths = widths_of(model)
    forward(model, experience(), ("logprobs",))
    assert widths == [20 + 11 + 5 + 3 * (6 + 9 + 1 + 12)]  # three prompts once, the repeated row not at all


@pytest.fixture
def recurring_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where bfloat16 is multiplied by tiles, but in float32, so that numbers can be compared."""
    monkeypatch.setattr(ragged, "_shapes_should_recur", lambda device: True)


@pytest.mark.usefixtures("recurring_shapes")
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2", "mixtral"])
def test_rounded_shapes_change_no_number(family: str) -> None:
    compare(model_of(family), experience(), ("logprobs", "entropy"))
    compare(model_of(family, "scalar"), experience(), ("values", "scores"))
    test_packed_documents(family)


@pytest.mark.usefixtures("recurring_shapes")
def test_shapes_recur() -> None:
    """87 tokens of two prompts and four responses, 24 of which the last layer computes, and 35 that are scored."""
    model = model_of("llama")
    assert knows_ragged_rows(model)
    widths, last = widths_of(model), []
    model.model.layers[-1].mlp.down_proj.register_forward_pre_hook(lambda _, args: last.append(len(args[0])))
    model.lm_head.register_forward_pre_hook(lambda _, args: last.append(len(args[0])))
    forward(model, experience((40, 21), (9, 4)), ("logprobs",))
    assert widths == [recurring(40 + 21 + 2 * (9 + 4))] == [88]
    assert last == [recurring(2 * (1 + 8 + 3)), recurring(9 + 9 + 4 + 4 + 9)] == [24, 36]


def test_where_shapes_are_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ragged, "has_amx", lambda: True)
    model = model_of("llama")
    assert knows_ragged_rows(model)
    widths = widths_of(model)
    forward(model, experience((40, 21), (9, 4)), ("logprobs",))
    with torch.autocast("cpu", torch.bfloat16):
        forward(model, experience((40, 21), (9, 4)), ("logprobs",))
    monkeypatch.setattr(ragged, "has_amx", lambda: False)
    with torch.autocast("cpu", torch.bfloat16):
        forward(model, experience((40, 21), (9, 4)), ("logprobs",))
    assert widths == [87, 88, 87]


def test_rows_cut_short() -> None:
    batch = experience()
    batch.mask[4, 2:] = False
    batch.mask[6] = False
    compare(model_of("llama"), batch, ("logprobs",))


def test_a_tool_s_words_are_read_and_not_scored() -> None:
    batch = experience()
    present = batch.mask.clone()
    batch.mask[3, 2:4] = False
    batch = batch.replace(present=present)
    compare(model_of("llama"), batch, ("logprobs", "entropy"))


def test_single_token_responses_and_rows_without_any() -> None:
    for responses in ((1, 1, 1), (3, 0, 1)):
        compare(model_of("llama"), experience(responses=responses), ("logprobs",))
        compare(model_of("llama", "scalar"), experience(responses=responses), ("values", "scores"))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_another_attention_is_padded(attention: str) -> None:
    model = model_of("llama", attention=attention)
    assert not knows_ragged_rows(model)
    compare(model, experience(), ("logprobs",))


def test_checkpointed_activations_are_padded() -> None:
    model = model_of("llama", gradient_checkpointing=True).train()
    assert not knows_ragged_rows(model)
    assert knows_ragged_rows(model.eval())


def test_a_model_that_does_not_listen_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the rows are not told apart, the trial shows it."""
    hidden = RaggedRows.hidden

    def deaf(self: RaggedRows, network: Any, places: torch.Tensor) -> torch.Tensor:
        whole = (0, self.ids.shape[1])
        self.attention = Ragged([(whole, (whole,))], self.ids.device)
        return hidden(self, network, places)

    monkeypatch.setattr(RaggedRows, "hidden", deaf)
    assert not knows_ragged_rows(model_of("llama"))


def test_pairs_of_one_prompt_with_a_common_response() -> None:
    prompt, (a, b, c) = pieces((12,), 0)[0], pieces((5, 7, 3), 1)
    prompt_ids, prompt_mask = left_pad([prompt] * 3, 0)
    tokens, mask = right_pad([a, b, a, c, b, c], 0)
    batch = Pairs(
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        tokens=tokens.view(3, 2, -1),
        mask=mask.view(3, 2, -1),
        margin=torch.zeros(3),
        weight=torch.ones(3),
        rows=row_table([{}] * 3),
        batch_size=[3],
    )
    model = model_of("llama", "scalar")
    assert knows_ragged_rows(model)
    widths = widths_of(model)
    scores = forward(model, batch, ("scores",)).scores
    assert widths == [12 + 5 + 7 + 3]
    assert torch.equal(scores[0, 0], scores[1, 0])
    torch.testing.assert_close(scores, forward(model, batch, ("scores",), ragged=False).scores, atol=1e-5, rtol=1e-5)


def test_alike_looks_at_tokens_and_not_at_padding() -> None:
    ids = torch.tensor([[9, 1, 2], [7, 1, 2], [0, 1, 2], [1, 1, 2]])
    mask = torch.tensor([[0, 1, 1], [0, 1, 1], [1, 1, 1], [0, 1, 1]]).bool()
    assert alike(ids, mask) == [[0, 1, 3], [2]]


def test_micro_batches_keep_prompts_together_and_count_them_once() -> None:
    batch = experience((20, 11), (6, 9, 1, 12))  # rows 0 to 7 alternate between the prompts; row 8 repeats row 0
    families = [{0, 2, 4, 6, 8}, {1, 3, 5, 7}]
    assert [set(rows) for rows in microbatches(batch, 20 + 6 + 28, ragged=True)] == families
    assert [set(rows) for rows in microbatches(batch, 20 + 11 + 6 + 2 * 28, ragged=True)] == [set(range(9))]
    for budget in (1, 33, 40, 70, 100):
        rows = microbatches(batch, budget, ragged=True)
        assert sorted(row for part in rows for row in part) == list(range(9))
        for part in rows:
            prompts = {tuple(batch.prompt_ids[row].tolist()): int(batch.prompt_mask[row].sum()) for row in part}
            assert len(part) == 1 or sum(prompts.values()) + int(batch.mask[part].sum()) <= budget
    assert microbatches(batch, 10**6, ragged=False) == [
        sorted(range(9), key=lambda row: (-row_lengths(batch)[row], row))
    ]
