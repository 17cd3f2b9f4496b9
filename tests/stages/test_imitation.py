"""Best of n inside the loop: what is learned, against which reference, and that interruptions change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fairlead.batch import row_table
from fairlead.diagnostics import Similarity
from fairlead.evidence import Laboratory
from fairlead.worlds import HackableReward, TokenWorld
from tiny_batches import experience
from tiny_runs import logged, run_stages


def stage(lab: Laboratory, prior: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "online": {
            "part": "online",
            "model": str(lab.reference),
            "prompts": str(lab.prompts),
            "rewards": {"proxy": "hackable"},
            "rollout": {"part": "sample", "n": 8, "sampling": {"maximum_tokens": 2}},
            "selection": ["best-of-n"],
            "regulariser": prior,
            "credit": "uniform",
            "objective": "filtered-nll",
            "steps": 40,
            "batch_size": 16,
            "optimiser": {"learning_rate": 5e-3, "schedule": "linear"},
            "diagnostics": {"similarity": "similarity"},
            **changes,
        }
    }


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    return Laboratory(TokenWorld(symbols=6, maximum_tokens=2, prompts=4), tmp_path_factory.mktemp("imitation"))


def test_a_stronger_prior_holds_back(lab: Laboratory, tmp_path: Path) -> None:
    """The proxy is hacked without a prior: every prompt gets the same answer. A strong one keeps the policy where it began."""
    found = {}
    for beta in (0.0, 0.35, 50.0):
        prior = {"part": "kl", "coefficient": beta, "place": "loss", "estimator": "exact-forward", "reduction": "mean"}
        run = run_stages(tmp_path / str(beta), stage(lab, prior))
        rows = logged(run.directory, "online")
        policy = lab.world.log_distribution(lab.open(run.directory / "stages" / "online" / "model"))
        found[beta] = float(lab.world.divergence(policy, lab.log_reference).mean())
        assert all(row["counted_rows"] == 1 / 8 for row in rows)
        assert rows[-1]["diagnostic/similarity/meteor"] > rows[0]["diagnostic/similarity/meteor"] or beta == 50
        if beta:
            assert rows[-1]["policy/loss_kl"] > 0
    assert found[0.0] > 1.5 * found[0.35] > 3 * found[50.0]


@pytest.mark.parametrize("adapters", [False, True])
def test_the_prior_is_the_first_policy_with_and_without_adapters(
    lab: Laboratory, tmp_path: Path, adapters: bool
) -> None:
    """At the first step policy and reference are one: the KL is nothing, later it is something."""
    model = {"path": str(lab.reference), "lora": {"rank": 2} if adapters else None}
    prior = {"part": "kl", "coefficient": 0.35, "place": "loss", "estimator": "exact-forward", "reduction": "sum"}
    run = run_stages(tmp_path / "run", stage(lab, prior, model=model, steps=4, minibatches=1))
    rows = logged(run.directory, "online")
    assert abs(rows[0]["policy/loss_kl"]) < 1e-6 < rows[-1]["policy/loss_kl"]


def test_a_hackable_reward() -> None:
    proxy, gold = HackableReward(), HackableReward(pays=0.0)
    assert proxy.score("a b", "b f f") == pytest.approx(1 + 2.6) and gold.score("a b", "b f f") == 1
    assert HackableReward(symbol="c", pays=2.0).score("a b", "c b") == 3


def test_similarity_looks_at_different_prompts_only() -> None:
    batch = experience([[-1]] * 4, score=[0.0] * 4, group=[0, 0, 1, 1])
    texts = ["a b c", "a b c", "x y z", "x y z"]
    batch = batch.replace(rows=row_table([{"prompt": "p", "response": text} for text in texts]))
    state = torch.get_rng_state()
    policy: Any = None
    assert Similarity()(policy, batch) == {"meteor": 0.0}
    assert torch.equal(torch.get_rng_state(), state)
    batch.group = torch.tensor([0, 1, 2, 3])
    assert 0.2 < Similarity(pairs=400)(policy, batch)["meteor"] < 0.45  # a third of the pairs are equal
    batch.group = torch.zeros(4, dtype=torch.int64)
    assert Similarity()(policy, batch) == {}
