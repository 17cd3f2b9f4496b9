"""Functions of scores and lengths."""

import pytest
import torch

from fairlead import functional


def test_overlong_by_hand() -> None:
    length = torch.tensor([0, 16384, 17000, 18432, 20480, 22528])
    penalty = functional.overlong_penalty(length, 20480, 4096)
    torch.testing.assert_close(penalty, torch.tensor([0, 0, -0.150391, -0.5, -1, -1]), atol=1e-6, rtol=0)
    falling = functional.overlong_penalty(length, 20480, 4096, floor=None)
    assert falling[-1] == -1.5 and torch.equal(falling[:-1], penalty[:-1])


def test_overlong_refuses() -> None:
    for maximum, buffer, floor in ((4, 0, -1.0), (4, 5, -1.0), (4, 2, 1.0)):
        with pytest.raises(ValueError):
            functional.overlong_penalty(torch.ones(1), maximum, buffer, floor)
