"""Rewards that a program verifies: settings, columns, one pool, and judging while others are still sampled."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from fairlead.generation import Sampling
from fairlead.models import ModelSpec
from fairlead.pool import Pool
from fairlead.rewards import (
    CodeTestsReward,
    ExactReward,
    FunctionReward,
    InstructionsReward,
    JsonReward,
    MathReward,
    PatchReward,
    PooledReward,
    RegexReward,
    Reward,
)
from fairlead.runtime import GroupSpec, LocalGroup
from rewards.test_rules import samples as samples_of
from tiny_models import save_tiny_model
from tiny_runs import PROMPTS, logged, run_stages, write_records

linux = pytest.mark.skipif(sys.platform != "linux", reason="isolation is Linux's")


class Texts:
    """All of samples that such a reward looks at."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows


def ask(reward: PooledReward, *responses: str, **columns: Any) -> list[float]:
    reward.open(None, "reward")  # type: ignore[arg-type]
    try:
        return reward(Texts([{"prompt": "p", "response": r, **columns} for r in responses])).tolist()  # type: ignore[arg-type]
    finally:
        reward.close()


def test_every_setting_reaches_its_check() -> None:
    assert ask(ExactReward(workers=1), "4", "5", answer="4") == [1.0, 0.0]
    reward = ExactReward(field="gold", extract="is (.*)", ignore_case=True, workers=1)
    assert ask(reward, "it is A", "A", gold=["a", "b"]) == [1.0, 0.0]
    assert ask(RegexReward(pattern="b+", workers=1), "abb", "a") == [1.0, 0.0]
    assert ask(RegexReward(field="form", whole=True, workers=1), "abb", "bb", form="b+") == [0.0, 1.0]
    assert ask(JsonReward(json_schema={"type": "array"}, workers=1), "[]", "{}", "x") == [1.0, 0.0, 0.0]
    assert ask(JsonReward(field="form", workers=1), "[]", "{}", form={"type": "object"}) == [0.0, 1.0]
    assert ask(JsonReward(workers=1), "[]", "x") == [1.0, 0.0]
    wanted = [{"words": {"at_most": 1}}, {"starts": "a"}]
    assert ask(InstructionsReward(wanted=wanted, workers=1), "a", "b") == [1.0, 0.0]
    assert ask(InstructionsReward(field="list", partial=True, workers=1), "b", list=wanted) == [0.5]


def test_mathematics() -> None:
    pytest.importorskip("math_verify")
    assert ask(MathReward(workers=1), "\\boxed{0.5}", "0.5", answer="1/2") == [1.0, 0.0]
    assert ask(MathReward(preset="evaluation", decimals=2, workers=1), "0.333", answer="1/3") == [1.0]
    assert ask(MathReward(units="compare", field="gold", workers=1), "\\boxed{5 cm}", gold="5 m") == [0.0]


@linux
def test_programs() -> None:
    tests = ["assert f(1) == 2", "assert f(2) == 3"]
    responses = "```python\ndef f(x): return x + 1\n```", "```python\ndef f(x): return 2\n```"
    assert ask(CodeTestsReward(workers=1, megabytes=256, output=100), *responses, tests=tests) == [1.0, 0.0]
    assert ask(CodeTestsReward(partial=True, field="t", workers=1), *responses, t=tests) == [1.0, 0.5]
    reward = CodeTestsReward(seconds=0.5, isolation="best-effort", workers=1)
    assert ask(reward, "```\nwhile True: pass\n```", tests=[{"stdin": "", "stdout": ""}]) == [0.0]
    with pytest.raises(ValidationError, match=r"timeout \(5\) must be more than seconds \(10\)"):
        CodeTestsReward(timeout=5)


def test_a_check_that_raises_or_hangs_is_counted() -> None:
    reward = RegexReward(pattern="(a+)+b", timeout=0.5, workers=1)
    values = ask(reward, "a" * 40, "aab")
    assert math.isnan(values[0]) and values[1] == 1.0
    assert reward.metrics() == {"errors": 0.0, "timeouts": 1.0}
    reward = InstructionsReward(workers=1)
    assert math.isnan(ask(reward, "a", instructions=[{"wrods": 1}])[0])
    assert reward.metrics() == {"errors": 1.0, "timeouts": 0.0}


def test_a_column_that_is_missing_is_told() -> None:
    with pytest.raises(ValueError, match=r"reward exact: a record has no column 'answer' \(it has prompt, response\)"):
        ask(ExactReward(workers=1), "4")


@pytest.mark.parametrize(
    ("part", "fields", "words"),
    [
        (ExactReward, {"extract": "("}, "no regular expression"),
        (RegexReward, {"pattern": "("}, "no regular expression"),
        (InstructionsReward, {"wanted": [{"wrods": 1}]}, "unknown instruction"),
    ],
)
def test_bad_settings(part: type[PooledReward], fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        part(**fields)


def test_a_package_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'math needs the package math_verify: pip install "fairlead\[math\]"'):
        MathReward().open(None, "m")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r'json needs the package jsonschema: pip install "fairlead\[json\]"'):
        JsonReward(json_schema={}).open(None, "j")  # type: ignore[arg-type]


# -- one pool, and overlap -----------------------------------------------------------------------------------------------


def test_rewards_share_a_pool() -> None:
    one, other, alone = ExactReward(workers=2), RegexReward(workers=2), RegexReward(workers=1)
    for reward in (one, other, alone):
        reward.open(None, "r")  # type: ignore[arg-type]
    shared = one._pool
    assert shared is other._pool and shared is not alone._pool
    one.close()
    assert shared in Pool._running.values()
    other.close()
    alone.close()
    assert shared not in Pool._running.values()


def test_what_was_begun_is_asked_for_once() -> None:
    reward = ExactReward(workers=1)
    reward.open(None, "r")  # type: ignore[arg-type]
    asked: list[dict[str, Any]] = []
    ask_pool = reward._ask
    object.__setattr__(reward, "_ask", lambda row: asked.append(row) or ask_pool(row))
    rows = [{"prompt": "p", "response": r, "answer": a} for r, a in (("x", "x"), ("x", "y"), ("x", "x"), ("z", "z"))]
    for row in [
        rows[2],
        rows[1],
        {**rows[3], "answer": "other"},
        {"prompt": "p", "response": "left out", "answer": ""},
    ]:
        reward.begin(dict(row))
    assert reward.judge_rows(rows) == [1.0, 0.0, 1.0, 1.0]
    assert len(asked) == 4 + 2 and not reward._begun  # the second "x" of x, and z, whose record was another
    reward.close()


def test_rows_are_told_while_others_are_sampled(tmp_path: Path) -> None:
    from fairlead.data import prompts_batch
    from fairlead.data.records import PromptRecord

    group = LocalGroup(GroupSpec(role="policy", model=ModelSpec(path=str(save_tiny_model(tmp_path / "tiny")))))
    prompts = prompts_batch([PromptRecord(prompt=f"p{i}", columns={"number": i}) for i in range(12)], group.codec, 0)
    told: list[tuple[int, dict[str, Any]]] = []
    sampling = Sampling(maximum_tokens=40, temperature=1.5)
    with group.watched(lambda row: told.append((threading.get_ident(), row))):
        samples = group.generate(prompts, sampling)
    assert sorted((row for _, row in told), key=lambda row: row["number"]) == list(samples.rows)
    assert group.watcher is None
    lengths = dict(zip(range(12), samples.mask.sum(1).tolist(), strict=True))
    order = [lengths[row["number"]] for _, row in told]
    assert order == sorted(order)
    assert [row["response"] for row in group.generate(prompts, sampling).rows] == [r["response"] for r in samples.rows]


@pytest.mark.parametrize("collection", ["once", "refill"])
def test_overlap_changes_no_number(collection: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rewards_for_overlap.py").write_text(
        "def odd(prompt, response):\n    if len(response) % 5 == 0: raise ValueError\n    return len(response) % 7\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    begun: list[str] = []
    begin = PooledReward.begin
    monkeypatch.setattr(PooledReward, "begin", lambda self, row: begun.append(self.part_name) or begin(self, row))
    function = {"part": "function", "function": "rewards_for_overlap:odd", "workers": 1}
    stage = {
        "model": str(save_tiny_model(tmp_path / "tiny")),
        "prompts": write_records(tmp_path / "prompts.jsonl", PROMPTS),
        "rewards": {"odd": function, "any": {"part": "regex", "pattern": "[aeiou]", "workers": 1}},
        "monitors": {"lines": {"part": "instructions", "wanted": [{"lines": {"at_most": 1}}], "workers": 1}},
        "rollout": {"part": "sample", "n": 2, "sampling": {"maximum_tokens": 8}},
        "collection": collection,
        "credit": "rloo",
        "steps": 2,
        "batch_size": 3,
    }
    found = []
    for overlap in (True, False):
        run = run_stages(tmp_path / f"run-{overlap}", {"online": stage | {"overlap": overlap}})
        found.append((json.dumps(logged(run.directory)), (run.directory / "samples.jsonl").read_bytes(), len(begun)))
    assert found[0][:2] == found[1][:2]
    assert found[0][2] == found[1][2] > 0 and set(begun) == {"function", "regex", "instructions"}


def test_functions_are_pooled_rewards() -> None:
    assert issubclass(FunctionReward, PooledReward)


PATCH = "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-old\n+{}\n"


def test_patches_in_the_sheet_s_precedence() -> None:
    """Identical 1, no change 0, garbage −1, and a judge only for the rest."""

    class Sure(Reward, name="test-sure"):
        """Source: none."""

        def __call__(self, samples: Any) -> torch.Tensor:
            assert [row["response"] for row in samples.rows] == [PATCH.format("other")]
            return torch.tensor([0.8])

    responses = [PATCH.format("new"), PATCH.format("old"), "no patch", PATCH.format("other")]
    samples = samples_of(*({"response": response, "patch": PATCH.format("new")} for response in responses))
    for semantic, last in ((None, 0.85), (Sure(), 0.8)):
        reward = PatchReward(semantic=semantic, workers=1)
        reward.open(None, "patch")  # type: ignore[arg-type]
        try:
            assert reward(samples).tolist() == pytest.approx([1, 0, -1, last], abs=0.06)
        finally:
            reward.close()
