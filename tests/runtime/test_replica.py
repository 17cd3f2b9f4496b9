"""The sum of gradients over ranks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as distributed
from torch import nn

from fairlead.runtime.replica import sum_gradients

CPU = torch.device("cpu")


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group of one, whose sums are the numbers themselves."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("bucket", [1, 5, 7, 1000])
def test_every_bucket_size_gives_the_gradients_back(alone: None, bucket: int) -> None:
    shapes = [(2, 3), (4,), (1,), (5, 2), ()]
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    parameters[1] = nn.Parameter(torch.zeros(4, dtype=torch.bfloat16))
    expected = [torch.randn(shape).to(p.dtype) for shape, p in zip(shapes, parameters, strict=True)]
    for parameter, gradient in zip(parameters, expected, strict=True):
        parameter.grad = gradient.clone()
    parameters[2].grad = None
    assert sum_gradients(parameters, True, CPU, bucket)
    assert parameters[2].grad is None  # on no rank, so the optimiser leaves it alone
    for index in (0, 1, 3, 4):
        gradient = parameters[index].grad
        assert gradient is not None and torch.equal(gradient, expected[index])


def test_a_rank_that_is_not_well_stops_the_sum(alone: None) -> None:
    parameter = nn.Parameter(torch.zeros(3))
    parameter.grad = torch.ones(3)
    assert not sum_gradients([parameter], False, CPU)
