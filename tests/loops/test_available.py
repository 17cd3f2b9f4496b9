"""Where loops are used, and what their start leaves alone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
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


def test_one_process_compiles_all_and_another_one_when_it_is_gone(tmp_path: Path) -> None:
    pytest.importorskip("numba", reason="the extra `fast`")
    code = """
import torch
from fairlead.loops import compiling, layers
layers.normed(torch.ones(1, 2), torch.ones(2), 0.0, torch.float32)
first = compiling._process[1]
layers.gated(torch.ones(1, 2), torch.ones(1, 2), False)
assert compiling._process[1] is first
first.kill()
first.wait()
layers.turned(torch.ones(1, 1, 2), torch.ones(1, 2), torch.ones(1, 2))
assert compiling._process[1] is not first
print(compiling._process[1].pid)
"""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, timeout=300)
    for _ in range(100):  # it goes with the process that started it
        if not Path(f"/proc/{int(done.stdout)}").exists():
            break
        time.sleep(0.1)
    assert not Path(f"/proc/{int(done.stdout)}").exists()
    assert {path.name.split(".")[1].split("-")[0] for path in tmp_path.rglob("*.nbi")} >= {
        "norm_rows",
        "gate_rows",
        "_turn",
    }
