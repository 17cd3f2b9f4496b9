"""Filters against numbers worked out by hand, and draws against exact probabilities."""

import math

import pytest
import torch
from scipy.stats import chisquare

from fairlead import functional
from fairlead.generation import Sampling, choose, filtered_logits

PROBABILITIES = torch.tensor([0.5, 0.05, 0.25, 0.2])
LOGITS = PROBABILITIES.log()
NEVER = float("-inf")


def kept(logits: torch.Tensor, **settings: float) -> list[float]:
    return filtered_logits(logits, Sampling(**settings)).softmax(-1).tolist()


def test_no_filter_changes_nothing() -> None:
    assert torch.equal(filtered_logits(LOGITS, Sampling()), LOGITS)


def test_temperature_raises_probabilities_to_its_inverse() -> None:
    squares = PROBABILITIES**2 / (PROBABILITIES**2).sum()
    assert kept(LOGITS, temperature=0.5) == pytest.approx(squares.tolist())


def test_temperature_zero_leaves_the_first_of_the_likeliest() -> None:
    assert filtered_logits(torch.tensor([1.0, 3.0, 3.0]), Sampling(temperature=0.0)).tolist() == [NEVER, 0.0, NEVER]


def test_a_tiny_temperature_does_not_overflow() -> None:
    assert kept(torch.tensor([300.0, 299.0, -300.0]), temperature=1e-37) == [1.0, 0.0, 0.0]


def test_top_k() -> None:
    assert kept(LOGITS, top_k=2) == pytest.approx([0.5 / 0.75, 0.0, 0.25 / 0.75, 0.0])
    assert kept(LOGITS, top_k=9) == pytest.approx(PROBABILITIES.tolist())


def test_top_k_keeps_ties() -> None:
    assert kept(torch.tensor([2.0, 1.0, 1.0, 0.0]), top_k=2)[3] == 0.0
    assert kept(torch.tensor([2.0, 1.0, 1.0, 0.0]), top_k=2)[2] > 0.0


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [
        (0.4, [1.0, 0.0, 0.0, 0.0]),
        (0.6, [0.5 / 0.75, 0.0, 0.25 / 0.75, 0.0]),
        (0.8, [0.5 / 0.95, 0.0, 0.25 / 0.95, 0.2 / 0.95]),
        (0.99, [0.5, 0.05, 0.25, 0.2]),
    ],
)
def test_top_p(top_p: float, expected: list[float]) -> None:
    assert kept(LOGITS, top_p=top_p) == pytest.approx(expected)


def test_min_p() -> None:
    assert kept(LOGITS, min_p=0.45) == pytest.approx([0.5 / 0.75, 0.0, 0.25 / 0.75, 0.0])
    assert kept(LOGITS, min_p=0.05) == pytest.approx(PROBABILITIES.tolist())


def test_filters_look_at_what_is_left() -> None:
    # After top-k 2 the likeliest token has 2/3, so a nucleus of 0.6 holds it alone; without top-k it takes two.
    assert kept(LOGITS, top_k=2, top_p=0.6) == [1.0, 0.0, 0.0, 0.0]
    # Tempered first: at temperature 1/2 the likeliest token has 0.25/0.355 = 0.704.
    assert kept(LOGITS, temperature=0.5, top_p=0.7) == [1.0, 0.0, 0.0, 0.0]


def test_filters_treat_rows_alone_and_keep_forbidden_tokens_out() -> None:
    batch = torch.stack((LOGITS, LOGITS.flip(0), LOGITS.masked_fill(torch.tensor([True, False, False, False]), NEVER)))
    sampling = Sampling(temperature=0.7, top_k=3, top_p=0.9, min_p=0.1)
    together = filtered_logits(batch, sampling)
    for row in range(3):
        assert torch.equal(together[row], filtered_logits(batch[row], sampling))
    assert together[2, 0] == NEVER


def test_choose_by_hand() -> None:
    # Borders of the distribution function: 0.5, 0.55, 0.8, 1.
    uniforms = torch.tensor([0.0, 0.499, 0.501, 0.549, 0.551, 0.799, 0.801, 1 - 2.0**-53], dtype=torch.float64)
    assert choose(LOGITS.expand(8, 4), uniforms).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_choose_never_takes_a_token_of_probability_zero() -> None:
    logprobs = torch.tensor([[NEVER, math.log(0.5), NEVER, math.log(0.5), NEVER]]).expand(3, 5)
    uniforms = torch.tensor([0.0, 0.5, 1 - 2.0**-53], dtype=torch.float64)
    assert choose(logprobs, uniforms).tolist() == [1, 3, 3]


def test_frequencies_follow_the_distribution() -> None:
    rows = 20_000
    logprobs = torch.log_softmax(torch.randn(12, generator=torch.Generator().manual_seed(1)), 0)
    tokens = choose(logprobs.expand(rows, 12), functional.uniform(torch.arange(rows), 3))
    expected = logprobs.double().softmax(0) * rows
    assert chisquare(torch.bincount(tokens, minlength=12).numpy(), expected.numpy()).pvalue > 1e-3
