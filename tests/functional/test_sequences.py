"""Likeness of sequences: by hand, and against the textbook programmes on random sequences."""

from __future__ import annotations

import pytest
import torch

from fairlead import functional

FIRST = torch.tensor([[1, 2, 3, 4, 5]] * 3)
SECOND = torch.tensor([[9, 2, 3, 4, 5], [9, 8, 3, 7, 5], [2, 3, 4, 5, 6]])


def test_by_hand() -> None:
    torch.testing.assert_close(functional.edit_distance(FIRST, SECOND), torch.tensor([0.2, 0.6, 0.4]))
    torch.testing.assert_close(functional.rouge_l(FIRST, SECOND), torch.tensor([0.8, 0.4, 0.8]))
    torch.testing.assert_close(functional.suffix_overlap(FIRST, SECOND), torch.tensor([0.8, 0.2, 0.8]))


def test_a_suffix_in_either_direction() -> None:
    """(1, 2, 3) ends in nothing that (2, 3, 1) holds but (2, 3); the other way round only (1)."""
    first, second = torch.tensor([[1, 2, 3], [2, 3, 1]]), torch.tensor([[2, 3, 1], [1, 2, 3]])
    torch.testing.assert_close(functional.suffix_overlap(first, second), torch.tensor([2 / 3, 2 / 3]))


def edits(a: list[int], b: list[int]) -> int:
    if not a or not b:
        return len(a) + len(b)
    return min(edits(a[1:], b) + 1, edits(a, b[1:]) + 1, edits(a[1:], b[1:]) + (a[0] != b[0]))


def common(a: list[int], b: list[int]) -> int:
    if not a or not b:
        return 0
    return common(a[1:], b[1:]) + 1 if a[0] == b[0] else max(common(a[1:], b), common(a, b[1:]))


def suffix(a: list[int], b: list[int]) -> int:
    lengths = range(len(a), 0, -1)
    return next((n for n in lengths if any(a[-n:] == b[i : i + n] for i in range(len(b)))), 0)


def test_against_the_definitions() -> None:
    first, second = torch.randint(0, 3, (2, 40, 5), generator=torch.Generator().manual_seed(0))
    pairs = list(zip(first.tolist(), second.tolist(), strict=True))
    assert (functional.edit_distance(first, second) * 5).round().tolist() == [edits(a, b) for a, b in pairs]
    assert (functional.rouge_l(first, second) * 5).round().tolist() == [common(a, b) for a, b in pairs]
    expected = [max(suffix(a, b), suffix(b, a)) for a, b in pairs]
    assert (functional.suffix_overlap(first, second) * 5).round().tolist() == expected


def test_mean_embeddings() -> None:
    """Means (2, 1) / 2 and (1, 2) / 2: cosine 4 / 5. Order counts for nothing, nor does the length of the means."""
    table = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0], [-1.0, 0.0]])
    first, second = torch.tensor([[0, 0, 1], [0, 1, 1], [0, 0, 0]]), torch.tensor([[0, 1, 1], [1, 1, 0], [3, 3, 3]])
    found = functional.embedding_similarity(first, second, table)
    torch.testing.assert_close(found, torch.tensor([0.8, 1.0, -1.0]))
    same_way = functional.embedding_similarity(torch.tensor([[1]]), torch.tensor([[2]]), table.bfloat16())
    torch.testing.assert_close(same_way, torch.tensor([1.0]))


def test_one_token_and_no_pair() -> None:
    one = torch.tensor([[4], [5]])
    assert functional.edit_distance(one, torch.tensor([[4], [6]])).tolist() == [0.0, 1.0]
    assert functional.rouge_l(one[:0], one[:0]).shape == (0,)


def test_refuses() -> None:
    with pytest.raises(ValueError, match=r"one shape"):
        functional.edit_distance(FIRST, SECOND[:, :4])
    with pytest.raises(ValueError, match=r"one shape"):
        functional.embedding_similarity(FIRST, SECOND[:, :4], torch.ones(10, 2))
