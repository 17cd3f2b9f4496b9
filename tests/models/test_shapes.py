"""Sizes that come again: how many there are, and how much larger they are than what was asked for."""

from __future__ import annotations

import pytest

from fairlead.models.shapes import recurring


def test_by_hand() -> None:
    assert [recurring(size) for size in (0, 1, 17, 32, 33, 35, 64, 65, 129, 4000)] == [
        0,
        1,
        17,
        32,
        34,
        36,
        64,
        68,
        136,
        4096,
    ]
    assert [recurring(size, 8) for size in (9, 16, 17, 100)] == [9, 16, 18, 104]


@pytest.mark.parametrize("steps", [8, 16])
def test_few_sizes_that_are_little_larger(steps: int) -> None:
    sizes = range(1, 5000)
    rounded = [recurring(size, steps) for size in sizes]
    assert all(size <= large <= size * (1 + 1 / steps) for size, large in zip(sizes, rounded, strict=True))
    assert len({large for large in rounded if 2048 < large <= 4096}) == steps
    assert [recurring(large, steps) for large in rounded] == rounded
