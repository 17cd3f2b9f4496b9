"""What is done with freed memory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from fairlead.runtime import memory
from fairlead.runtime.memory import give_back_freed_memory, set_up_memory


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_freed_memory_is_kept_until_it_is_given_back() -> None:
    if not set_up_memory():
        pytest.skip("this C library has no such setting")
    blocks = [torch.ones(2**18) for _ in range(200)]  # a MiB each
    held = resident()
    del blocks
    kept = resident()
    give_back_freed_memory()
    assert held - kept < 50 * 2**20 and kept - resident() > 100 * 2**20


@pytest.mark.parametrize("variable", ["ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"])
@pytest.mark.parametrize(("given", "amx", "found"), [(None, False, "192"), (None, True, "512"), ("7", True, "7")])
def test_how_many_kernels_are_kept(
    monkeypatch: pytest.MonkeyPatch, variable: str, given: str | None, amx: bool, found: str
) -> None:
    monkeypatch.setattr(memory, "has_amx", lambda: amx)
    monkeypatch.delenv(variable, raising=False)
    if given is not None:
        monkeypatch.setenv(variable, given)
    set_up_memory()
    assert os.environ[variable] == found
