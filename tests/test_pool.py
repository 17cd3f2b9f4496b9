"""The pool of worker processes when it breaks down."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairlead.calls import apply
from fairlead.pool import Failure, Pool, wait


def test_a_pool_that_has_broken_down_says_what_may_be_the_cause() -> None:
    pool = Pool.share(1)
    try:
        assert wait(pool.ask(abs, (-1,), 60.0), 60.0) == 1
        pool._processes.stop()
        with pytest.raises(RuntimeError, match=r"have broken down .*__main__"):
            pool.ask(abs, (-1,), 60.0)
    finally:
        pool.leave()


def test_the_import_of_a_module_is_not_charged_to_its_functions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in the first process nor in one that takes the place of another that was killed."""
    (tmp_path / "slow_to_import.py").write_text(
        "import time\ntime.sleep(1.0)\ndef double(x): return 2 * x\ndef hang(): time.sleep(60)\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    pool = Pool.share(1)
    try:
        for _ in range(2):
            assert wait(pool.ask(apply, ("slow_to_import:double", (3,), {}), 0.5), 0.5) == 6
            hung = wait(pool.ask(apply, ("slow_to_import:hang", (), {}), 0.5), 0.5)
            assert isinstance(hung, Failure) and hung.kind == "timeout"
    finally:
        pool.leave()
