"""Python functions as rewards: what they are given, and what happens when they misbehave."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fairlead.calls import call
from fairlead.rewards import FunctionReward, LengthReward
from tiny_models import save_tiny_model
from tiny_runs import PROMPTS, run_stages, write_records

FUNCTIONS = """
import os, time

def size(prompt, response):
    return len(response)

def misbehave(prompt, response):
    if response == "raise":
        raise ZeroDivisionError("by zero")
    if response == "nan":
        return float("nan")
    if response == "inf":
        return float("inf")
    if response == "text":
        return "many"
    if response == "none":
        return None
    if response == "hang":
        while True:
            time.sleep(0.01)
    if response == "die":
        os._exit(3)
    if response == "exit":
        raise SystemExit(1)
    return len(response)

def asks(prompt, response, answer, scale=1.0):
    return scale * float(response == answer)

def asks_all(prompt, response, **columns):
    assert set(columns) == {"answer", "other", "scale"}, columns
    return len(columns)

def process(prompt, response):
    return os.getpid()

def tell(prompt, response, file):
    with open(file, "a") as book:
        print(os.getpid(), file=book)
    return 0.0

class Judge:
    @staticmethod
    def fixed(prompt, response):
        return 7

constant = 3
"""


def is_gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "functions_for_rewards.py").write_text(FUNCTIONS, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return "functions_for_rewards"


Ask = Callable[..., list[float]]


class Texts:
    """All of samples that the reward looks at."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows


def ask(reward: FunctionReward, *responses: str, **columns: Any) -> list[float]:
    reward.open(None, "reward")  # type: ignore[arg-type]
    return reward(Texts([{"prompt": "p", "response": r, **columns} for r in responses])).tolist()  # type: ignore[arg-type]


def test_values_come_in_the_order_of_the_samples(functions: str) -> None:
    reward = FunctionReward(function=f"{functions}:size", workers=2)
    assert ask(reward, *("x" * n for n in range(20))) == list(range(20))
    assert reward.metrics() == {"errors": 0.0, "timeouts": 0.0}


def test_errors_and_strange_values_become_nan(functions: str, caplog: pytest.LogCaptureFixture) -> None:
    reward = FunctionReward(function=f"{functions}:misbehave", workers=1)
    with caplog.at_level(logging.WARNING):
        values = ask(reward, "raise", "ok", "nan", "inf", "text", "none", "exit", "fine")
    assert [value for value in values if not math.isnan(value)] == [2.0, 4.0]
    assert [index for index, value in enumerate(values) if not math.isnan(value)] == [1, 7]
    assert reward.metrics() == {"errors": 6.0, "timeouts": 0.0}
    assert [record.message for record in caplog.records if "reward" in record.message] == [
        "reward functions_for_rewards:misbehave failed for a sample, which is left out: ZeroDivisionError: by zero"
    ]


def test_a_hanging_function_costs_its_sample_only(functions: str) -> None:
    reward = FunctionReward(function=f"{functions}:misbehave", workers=1, timeout=1.0)
    started = time.monotonic()
    values = ask(reward, "one", "hang", "three")
    assert time.monotonic() - started < 30
    assert values[0] == 3.0 and math.isnan(values[1]) and values[2] == 5.0
    assert reward.metrics() == {"errors": 0.0, "timeouts": 1.0}


def test_a_dead_worker_is_replaced(functions: str) -> None:
    reward = FunctionReward(function=f"{functions}:misbehave", workers=1)
    values = ask(reward, "one", "die", "three")
    assert values[0] == 3.0 and math.isnan(values[1]) and values[2] == 5.0
    assert reward.metrics()["errors"] == 1.0
    assert ask(reward, "four") == [4.0]
    assert reward.metrics()["errors"] == 0.0


def test_functions_run_in_other_processes(functions: str) -> None:
    assert os.getpid() not in ask(FunctionReward(function=f"{functions}:process", workers=1), "a", "b")


def test_processes_end_when_the_reward_is_closed_or_opened_again(functions: str) -> None:
    reward = FunctionReward(function=f"{functions}:process", workers=3)  # a pool that no other test shares
    reward.close()  # never opened
    (first,) = ask(reward, "a")
    (second,) = ask(reward, "b")
    assert is_gone(int(first)) and not is_gone(int(second))
    for _ in range(2):
        reward.close()
        assert is_gone(int(second))
    reward.open(None, "reward")  # type: ignore[arg-type]
    reward.close()  # opened, and never asked
    assert ask(reward, "c") != [second]
    reward.close()


@pytest.mark.parametrize("fails", [False, True])
def test_no_process_outlives_its_stage(
    functions: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    book = tmp_path / "book"
    stage = {
        "models": {"one": str(save_tiny_model(tmp_path / "tiny"))},
        "prompts": write_records(tmp_path / "prompts.jsonl", PROMPTS),
        "judges": {
            "tells": {"part": "function", "function": f"{functions}:tell", "arguments": {"file": str(book)}},
            "last": {"part": "length"},
        },
        "rollout": {"part": "sample", "sampling": {"maximum_tokens": 2}},
    }
    if fails:
        monkeypatch.setattr(LengthReward, "__call__", lambda self, samples: 1 / 0)
    with pytest.raises(ZeroDivisionError) if fails else nullcontext():
        run_stages(tmp_path / "run", {"evaluate": stage})
    workers = {int(line) for line in book.read_text().split()}
    assert workers and all(is_gone(worker) for worker in workers)


def test_a_function_is_given_the_columns_that_it_asks_for(functions: str) -> None:
    row = {"prompt": "p", "response": "4", "answer": "4", "other": 1}
    assert call(f"{functions}:size", row, {"scale": 2.0}) == 1.0
    assert call(f"{functions}:asks", row, {}) == 1.0
    assert call(f"{functions}:asks", row, {"scale": 2.0}) == 2.0
    assert call(f"{functions}:asks_all", row, {"scale": 2.0}) == 3.0
    assert call(f"{functions}:Judge.fixed", row, {}) == 7.0
    with pytest.raises(TypeError, match="answer"):
        call(f"{functions}:asks", {"prompt": "p", "response": "4"}, {})


def test_arguments_of_the_recipe_reach_the_function(functions: str) -> None:
    reward = FunctionReward(function=f"{functions}:asks", arguments={"scale": 3.0}, workers=1)
    assert ask(reward, "a", "b", answer="b") == [0.0, 3.0]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("no_colon", "module:function"),
        ("no_such_module_here:f", "no module"),
        ("functions_for_rewards:siz", "did you mean 'size'?"),
        ("functions_for_rewards:constant", "not a function"),
    ],
)
def test_a_path_that_leads_nowhere_is_told_when_the_recipe_is_read(functions: str, path: str, words: str) -> None:
    with pytest.raises(ValidationError, match=words.replace("?", r"\?")):
        FunctionReward(function=path)


def test_workers_stay_light(functions: str, tmp_path: Path) -> None:
    """A worker that imported torch would take seconds to start and hundreds of megabytes to keep."""
    (tmp_path / "weighs.py").write_text(
        "import sys\ndef loaded(prompt, response):\n    return float('torch' in sys.modules)\n", encoding="utf-8"
    )
    assert ask(FunctionReward(function="weighs:loaded", workers=1), "a") == [0.0]


def test_workers_look_where_this_process_looks_now(
    functions: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pool that another reward keeps alive was started before the path grew."""
    kept = FunctionReward(function=f"{functions}:size", workers=1)
    assert ask(kept, "a", close=False) == [1.0]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "came_later.py").write_text("def two(prompt, response):\n    return 2.0\n", encoding="utf-8")
    monkeypatch.syspath_prepend(elsewhere)
    assert ask(FunctionReward(function="came_later:two", workers=1), "a") == [2.0]
    kept.close()
