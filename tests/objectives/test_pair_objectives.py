"""Preference, reward and supervised objectives: numbers by hand and every field."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from fairlead.batch import Sequences, row_table
from fairlead.objectives import DPO, REBEL, BradleyTerry, CostModel, NegativeLogLikelihood
from fairlead.runtime import Outputs
from tiny_batches import pairs

CHOSEN, REJECTED = [[-1.0, -1.0], [-2.0]], [[-1.5], [-1.0, -0.5]]


def dpo(objective: DPO, policy: Any, **others: Any) -> tuple[float, dict[str, float]]:
    batch = objective.prepare(pairs(CHOSEN, REJECTED, **others))
    logprobs = pairs(*policy).reference_logprobs
    loss, metrics = objective(Outputs(logprobs=logprobs), batch)
    return float(loss), {name: float(value) for name, value in metrics.items()}


MOVED = ([[-0.5, -0.5], [-2.0]], [[-2.5], [-1.0, -0.5]])  # h = 1 + 1 = 2 for the first pair, 0 for the second


@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_at_the_start_the_loss_is_log_two(beta: float) -> None:
    loss, metrics = dpo(DPO(beta=beta), (CHOSEN, REJECTED))
    assert loss == pytest.approx(math.log(2), abs=1e-7)
    assert metrics["accuracy"] == 0.5 and metrics["margin"] == 0


def test_dpo_by_hand() -> None:
    loss, metrics = dpo(DPO(beta=0.5), MOVED)
    assert loss == pytest.approx((math.log1p(math.exp(-1)) + math.log(2)) / 2)
    assert metrics["accuracy"] == 0.75
    assert metrics["reward_chosen"] == pytest.approx(0.25) and metrics["reward_rejected"] == pytest.approx(-0.25)
    assert metrics["margin"] == pytest.approx(0.5)
    assert metrics["logprob_chosen"] == pytest.approx(-1.5) and metrics["logprob_rejected"] == pytest.approx(-2.0)


def test_weights_of_pairs() -> None:
    loss, metrics = dpo(DPO(beta=0.5), MOVED, weight=[3.0, 1.0])
    assert loss == pytest.approx(0.75 * math.log1p(math.exp(-1)) + 0.25 * math.log(2))
    assert metrics["accuracy"] == pytest.approx(0.875)


def test_variants_of_dpo() -> None:
    assert dpo(DPO(beta=0.25, loss="hinge"), MOVED)[0] == pytest.approx((0.5 + 1.0) / 2)
    # length-normalised: chosen +1/2, rejected −1 → h = 1.5; the target is 1 / (2 · 0.5) = 1
    assert dpo(DPO(beta=0.5, loss="ipo"), MOVED)[0] == pytest.approx((0.25 + 1.0) / 2)
    smooth = 0.9 * math.log1p(math.exp(-1)) + 0.1 * math.log1p(math.exp(1))
    assert dpo(DPO(beta=0.5, label_smoothing=0.1), MOVED)[0] == pytest.approx((smooth + math.log(2)) / 2)
    added = dpo(DPO(beta=0.5, nll_coefficient=2.0), MOVED)[0] - dpo(DPO(beta=0.5), MOVED)[0]
    assert added == pytest.approx(2 * (0.5 + 2.0) / 2)


def test_smoothing_needs_the_sigmoid() -> None:
    with pytest.raises(ValidationError, match="loss sigmoid only"):
        DPO(loss="ipo", label_smoothing=0.1)


def test_dpo_travels() -> None:
    assert pickle.loads(pickle.dumps(DPO(beta=0.3).at_temperature(0.5))).temperature == 0.5
    assert DPO().needs_reference


def bradley_terry(objective: BradleyTerry) -> tuple[float, dict[str, float]]:
    batch = objective.prepare(pairs(CHOSEN, REJECTED, margin=[1.0, 0.0], weight=[1.0, 3.0]))
    loss, metrics = objective(Outputs(scores=torch.tensor([[2.0, 1.0], [0.5, 0.5]])), batch)
    return float(loss), {name: float(value) for name, value in metrics.items()}


def test_bradley_terry() -> None:
    plain, metrics = bradley_terry(BradleyTerry())
    assert plain == pytest.approx(0.25 * math.log1p(math.exp(-1)) + 0.75 * math.log(2))
    assert metrics == pytest.approx({"accuracy": 0.25 + 0.375, "margin": 0.25, "score": 0.25 * 1.5 + 0.75 * 0.5})
    assert bradley_terry(BradleyTerry(margin_scale=1.0))[0] == pytest.approx(math.log(2))
    assert bradley_terry(BradleyTerry(centring=0.1))[0] == pytest.approx(plain + 0.1 * (0.25 * 9 + 0.75 * 1))


def nll(aggregation: str) -> float:
    objective = NegativeLogLikelihood(aggregation=aggregation)
    batch = Sequences(
        tokens=torch.ones(2, 4, dtype=torch.int64),
        segments=torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]),
        mask=torch.tensor([[0, 1, 1, 1], [0, 1, 0, 0]]).bool(),
        weight=torch.tensor([1.0, 3.0]),
        batch_size=[2],
    )
    logprobs = torch.tensor([[0, -1.0, -1.0, -1.0], [0, -2.0, 0, 0]])
    loss, metrics = objective(Outputs(logprobs=logprobs), objective.prepare(batch))
    assert metrics == {}
    return float(loss)


def test_nll() -> None:
    assert nll("token-mean") == pytest.approx((3 + 6) / 6)
    assert nll("sequence-mean-token-mean") == pytest.approx((1 + 6) / 4)
    assert nll("sequence-mean-token-sum") == pytest.approx((3 + 6) / 4)
    with pytest.raises(ValidationError):
        NegativeLogLikelihood(aggregation="constant-length")


def test_the_cost_model_by_hand() -> None:
    """Costs −1 (harmless) and 2 (harmful); 0.5 and 0.5, of which one label is not known."""
    labels = [{"c": False, "r": True}, {"c": None, "r": True}]
    outputs = Outputs(scores=torch.tensor([[-1.0, 2.0], [0.5, 0.5]]))

    def loss(objective: CostModel, rows: list[dict[str, Any]] = labels) -> tuple[float, dict[str, Any]]:
        batch = objective.prepare(pairs(CHOSEN, REJECTED, weight=[3.0, 1.0]).replace(rows=row_table(rows)))
        value, metrics = objective(outputs, batch)
        return float(value), metrics

    names = {"chosen_label": "c", "rejected_label": "r", "decay": 0.0}
    plain = [math.log1p(math.exp(-3)), math.log(2)]
    assert loss(CostModel(sign=0, decay=0))[0] == pytest.approx(0.75 * plain[0] + 0.25 * plain[1])
    assert loss(CostModel(sign=0, decay=0.2))[0] == pytest.approx(0.75 * (plain[0] + 0.5) + 0.25 * (plain[1] + 0.05))
    signs = [math.log1p(math.exp(-1)) + math.log1p(math.exp(-2)), math.log1p(math.exp(-0.5))]
    value, metrics = loss(CostModel(sign=2.0, **names))
    assert value == pytest.approx(0.75 * (plain[0] + 2 * signs[0]) + 0.25 * (plain[1] + 2 * signs[1]))
    assert float(metrics["accuracy"]) == 0.875 and float(metrics["margin"]) == pytest.approx(2.25)
    with pytest.raises(ValueError, match="name the columns by chosen_label"):
        loss(CostModel())
    with pytest.raises(ValueError, match="found 'yes'"):
        loss(CostModel(**names), [{"c": "yes", "r": True}] * 2)


def test_rebel_by_hand() -> None:
    """Log-ratios 1 + 1 = 2 and 0; rewards differ by 1.5 and −0.5."""
    batch = pairs(CHOSEN, REJECTED, margin=[1.5, -0.5])
    batch = batch.replace(previous_logprobs=batch.reference_logprobs)
    outputs = Outputs(logprobs=pairs(*MOVED).reference_logprobs)
    for eta, expected in ((1.0, (0.25 + 0.25) / 2), (2.0, (1.0 + 1.0) / 2)):
        loss, metrics = REBEL(eta=eta)(outputs, REBEL().prepare(batch))
        assert float(loss) == pytest.approx(expected)
        assert float(metrics["accuracy"]) == 0.75 and float(metrics["statistic"]) == 1.0
        assert float(metrics["max/statistic"]) == 2.0 and float(metrics["target"]) == eta
    assert REBEL().needs_previous and not REBEL().needs_reference and REBEL().at_sampling_temperature
