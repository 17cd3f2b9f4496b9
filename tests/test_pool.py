"""The pool of worker processes when it breaks down."""

from __future__ import annotations

import pytest

from fairlead.pool import Pool, wait


def test_a_pool_that_has_broken_down_says_what_may_be_the_cause() -> None:
    pool = Pool.share(1)
    try:
        assert wait(pool.ask(abs, (-1,), 60.0), 60.0) == 1
        pool._processes.stop()
        with pytest.raises(RuntimeError, match=r"have broken down .*__main__"):
            pool.ask(abs, (-1,), 60.0)
    finally:
        pool.leave()
