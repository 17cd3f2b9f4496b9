"""Equal prompts and equal rows computed once: the same numbers and gradients, with less work."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fairlead.batch import Experience, Pairs, left_pad, right_pad, row_table
from fairlead.models import ModelSpec, load_model
from fairlead.runtime.dispatch import alike
from fairlead.runtime.forward import forward
from fairlead.runtime.sharing import distinct, microbatches
from tiny_models import FAMILIES, tiny_config, tiny_model


def pieces(lengths: tuple[int, ...], seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(4, 260, (n,), generator=generator).tolist() for n in lengths]


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


def scalar(family: str) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = load_model(ModelSpec(initialise=tiny_config(family).to_dict()), "scalar")
        torch.nn.init.normal_(model.score.weight)
    return model.eval()


def loss_of(outputs: Any) -> torch.Tensor:
    """A loss in which every output counts differently."""
    parts = [x for x in (outputs.logprobs, outputs.entropy, outputs.values, outputs.scores) if x is not None]
    weighted: list[torch.Tensor] = [(x * torch.sin(torch.arange(x.numel()).view_as(x) + 1.0)).sum() for x in parts]
    return torch.stack(weighted).sum()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("needs", [("logprobs", "entropy"), ("values", "scores")])
def test_the_same_numbers_and_gradients(family: str, needs: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts and responses longer than the sliding window of 8 of some families."""
    model = tiny_model(family) if "logprobs" in needs else scalar(family)
    found: list[tuple[Any, list[torch.Tensor]]] = []
    widths: list[int] = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    for share in (True, False):
        widths.clear()
        model.zero_grad()
        outputs = forward(model, experience(), needs, 0.8, share=share)
        loss_of(outputs).backward()  # type: ignore[no-untyped-call]
        found.append((outputs, [p.grad.clone() for p in model.parameters() if p.grad is not None]))
        if "logprobs" in needs:
            # 3 prompts of 20 once, and 12 distinct rows of 11 tokens: the last token of a response scores nothing.
            assert sum(widths) == (3 * 20 + 12 * 11 if share else 13 * 32)
    (shared, its_gradients), (plain, gradients) = found
    for need in needs:
        torch.testing.assert_close(getattr(shared, need), getattr(plain, need), atol=1e-5, rtol=1e-5)
    largest = max(float(g.abs().max()) for g in gradients)
    for mine, other in zip(its_gradients, gradients, strict=True):
        assert float((mine - other).abs().max()) < 1e-5 * largest


def test_single_token_responses_and_rows_without_any() -> None:
    for responses in ((1, 1, 1), (3, 0, 1)):
        batch = experience(responses=responses)
        for model, needs in ((tiny_model(), ("logprobs",)), (scalar("llama"), ("values", "scores"))):
            shared, plain = (forward(model, batch, needs, share=share) for share in (True, False))
            for need in needs:
                torch.testing.assert_close(getattr(shared, need), getattr(plain, need), atol=1e-5, rtol=1e-5)


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
    model = scalar("llama")
    counted: list[tuple[int, ...]] = []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: counted.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    scores = forward(model, batch, ("scores",)).scores
    assert counted == [(1, 12), (3, 7)]
    assert torch.equal(scores[0, 0], scores[1, 0])
    torch.testing.assert_close(scores, forward(model, batch, ("scores",), share=False).scores, atol=1e-5, rtol=1e-5)


def test_alike_looks_at_tokens_and_not_at_padding() -> None:
    ids = torch.tensor([[9, 1, 2], [7, 1, 2], [0, 1, 2], [1, 1, 2]])
    mask = torch.tensor([[0, 1, 1], [0, 1, 1], [1, 1, 1], [0, 1, 1]]).bool()
    assert alike(ids, mask) == [[0, 1, 3], [2]]
    first, place = distinct(ids, mask)
    assert (first.tolist(), place.tolist()) == ([0, 2], [0, 0, 1, 0])


def test_micro_batches_keep_prompts_together_and_count_them_once() -> None:
    batch = experience((20, 11), (6, 9, 1, 12))  # rows 0 to 7 alternate between the prompts; row 8 repeats row 0
    families = [{0, 2, 4, 6, 8}, {1, 3, 5, 7}]
    assert [set(rows) for rows in microbatches(batch, 20 + 5 * 12)] == families
    assert [set(rows) for rows in microbatches(batch, 2 * 20 + 9 * 12)] == [set(range(9))]
    for budget in (1, 40, 70, 100):
        rows = microbatches(batch, budget)
        assert sorted(row for part in rows for row in part) == list(range(9))
        for part in rows:
            assert len(part) == 1 or _cost(batch, part) <= budget


def _cost(batch: Experience, rows: list[int]) -> int:
    prompts = {tuple(batch.prompt_ids[row].tolist()) for row in rows}
    widest = int(batch.prompt_mask[rows].sum(1).max())
    return len(prompts) * widest + len(rows) * int(batch.mask[rows].sum(1).max())
