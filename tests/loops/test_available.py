"""Where loops are used, and what their start leaves alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fairlead import loops


def test_only_numbers_that_loops_know() -> None:
    assert loops.fit(torch.zeros(1), torch.zeros(1).bfloat16()) == loops.available()
    assert not loops.fit(torch.zeros(1), torch.zeros(1, dtype=torch.float64))
    assert not loops.fit(torch.zeros(1, device="meta"))


def test_torchs_number_of_threads_stays() -> None:
    """Numba sets OpenMP's, which matrix products go by, to that of the cores; torch's own answer does not show it."""
    pytest.importorskip("numba", reason="the extra `fast`")
    threads = "import ctypes, torch; count = ctypes.CDLL(None).omp_get_max_threads"
    code = f"""{threads}
from fairlead import loops
torch.set_num_threads(1)
assert loops.available()
assert count() == 1, count()
torch.set_num_threads(3)
from fairlead.loops import numbers
numbers.use_threads()
assert count() == 3, count()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_process_that_compiles_rounds_as_the_next_one_does(tmp_path: Path) -> None:
    pytest.importorskip("numba", reason="the extra `fast`")
    code = """
import torch
from fairlead.loops.vocabulary import logprobs_and_entropy
torch.manual_seed(0)
print(logprobs_and_entropy(torch.randn(200, 999), None, 1.0)[1].double().sum().item())
"""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    first, second = (
        subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True).stdout
        for _ in range(2)
    )
    assert first == second
    assert list(tmp_path.rglob("*.nbc"))
