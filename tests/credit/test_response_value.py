"""One advantage a response, and the critic that goes with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fairlead import functional
from fairlead.credit import ResponseValue
from fairlead.models import ModelError, ModelSpec, PessimisticHead, load_model
from fairlead.models.heads import SoftMinimumHead
from fairlead.objectives import ValueHuber
from fairlead.runtime.forward import Outputs
from tiny_batches import experience
from tiny_models import save_tiny_model

VALUES = [[0.5, 9.0, 0.25], [1.0, 2.0], [4.0]]


def batch(**fields: Any) -> Any:
    return experience(
        [[-1.0] * 3, [-1.0] * 2, [-1.0]], score=[1.0, 3.0, 100.0], weight=[1, 1, 0.0], values=VALUES, **fields
    )


def test_advantages() -> None:
    """Reward less the value of the prompt (½, 1) or of all but the last token (¼, 2); the row without weight counts nothing."""
    found = ResponseValue(whiten=False)(batch())
    assert found.advantages[:2].tolist() == [[0.5, 0.5, 0.5], [2.0, 2.0, 0.0]]
    assert found.returns[:2].tolist() == [[1, 1, 1], [3, 3, 0]]
    assert ResponseValue(whiten=False, position="answer")(batch()).advantages[:2, 0].tolist() == [0.75, 1.0]
    white = ResponseValue()(batch()).advantages
    assert white[:2, 0].tolist() == pytest.approx([-(0.5**0.5), 0.5**0.5])  # n − 1, each response once


@pytest.mark.parametrize(
    ("fields", "weights"),
    [
        ({}, [[0.2] * 3, [0.2] * 2 + [0]]),
        ({"position": "prompt"}, [[0.5, 0, 0], [0.5, 0, 0]]),
        ({"position": "answer"}, [[0, 0, 0.5], [0, 0.5, 0]]),
    ],
    ids=str,
)
def test_where_the_critic_learns(fields: dict[str, Any], weights: list[list[float]]) -> None:
    rows = batch(returns=[[1.0] * 3, [3.0] * 2, [100.0]])
    part = ValueHuber(**fields)
    prepared = part.prepare(rows)
    assert prepared.loss_weight[:2].flatten().tolist() == pytest.approx([w for row in weights for w in row])
    values = rows.values.clone().requires_grad_()
    loss, metrics = part(Outputs(values=values), prepared)
    loss.backward()
    assert values.grad is not None and bool((values.grad[prepared.loss_weight == 0] == 0).all())
    per_token = functional.value_huber(rows.values, rows.values, rows.returns)
    assert float(loss) == pytest.approx(float((prepared.loss_weight * per_token).sum()))
    assert metrics["mean"] == pytest.approx(float((prepared.loss_weight * rows.values).sum()))


def test_value_huber_fields() -> None:
    rows = batch(returns=[[1.0] * 3, [3.0] * 2, [100.0]])
    for fields in ({"delta": None}, {"clip": None}, {"combine": "max"}):
        part = ValueHuber(**fields)
        prepared = part.prepare(rows)
        values = rows.values + 1
        expected = functional.value_huber(values, rows.values, rows.returns, **fields)
        assert float(part(Outputs(values=values), prepared)[0]) == pytest.approx(
            float((prepared.loss_weight * expected).sum())
        )


def test_the_head(tmp_path: Any) -> None:
    path = str(save_tiny_model(tmp_path / "model"))
    torch.manual_seed(0)
    model: Any = load_model(ModelSpec(path=path, head=PessimisticHead(heads=3, alpha=0.2)), "scalar")
    ids = torch.randint(4, 260, (2, 9))
    assert isinstance(model.score, SoftMinimumHead) and not model(input_ids=ids).logits.any(), "a new head starts flat"
    hidden = torch.randn(4, 32)
    for layer, bias in zip(model.score.last, (0.3, 0.1, 0.9), strict=True):
        torch.nn.init.normal_(layer.weight)
        torch.nn.init.constant_(layer.bias, bias)
    h = model.score.normalise(hidden)
    values = [b(torch.nn.functional.gelu(a(h))) for a, b in zip(model.score.first, model.score.last, strict=True)]
    expected = functional.soft_minimum(torch.cat(values, -1), 0.2)
    torch.testing.assert_close(model.score(hidden)[:, 0], expected)
    assert model.score.first[0].out_features == 8
    with pytest.raises(ModelError, match="`head` is for critics"):
        load_model(ModelSpec(path=path, head=PessimisticHead()))
