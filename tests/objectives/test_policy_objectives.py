"""Policy and value objectives: numbers by hand, every field, micro-batches that add up, pickling."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from fairlead import functional
from fairlead.batch import Experience, concatenate, row_table, take
from fairlead.objectives import CISPO, FilteredNLL, Mismatch, PolicyGradient, PolicyObjective, PPOClip, ValueClip
from fairlead.runtime import Outputs
from tiny_batches import experience, rows_of

OLD = [[-1.0, -2.0, -0.5], [-1.5], [-0.7, -0.3]]
NEW = rows_of([[-0.8, -2.5, -0.5], [-1.0], [-1.2, -0.1]])
ENTROPY = rows_of([[0.5, 1.0, 0.2], [0.3], [0.9, 0.8]])
ADVANTAGES = [[1.0, 1.0, 1.0], [-2.0], [-0.5, 0.5]]


def batch(**others: Any) -> Experience:
    reference = [[-1.1, -1.9, -0.6], [-1.4], [-0.9, -0.2]]
    rows = experience(OLD, advantages=ADVANTAGES, reference_logprobs=reference, **others)
    return rows.replace(behaviour_logprobs=rows_of([[-1.2, -1.5, -0.4], [-0.9], [-1.8, -0.3]]))


def loss_of(objective: PolicyObjective, rows: Experience, new: Tensor = NEW) -> tuple[float, dict[str, float], Tensor]:
    new = new.clone().requires_grad_()
    loss, metrics = objective(Outputs(logprobs=new, entropy=ENTROPY), objective.prepare(rows))
    loss.backward()
    assert new.grad is not None
    return float(loss.detach()), {name: float(value) for name, value in metrics.items()}, new.grad


def test_ppo_by_hand() -> None:
    """Two tokens: ratio e^0.5 with A = 1 is cut to 1.2, ratio e^-0.5 with A = 1 stays."""
    rows = experience([[-1.0, -1.0]], advantages=[[1.0, 1.0]])
    objective = PPOClip()
    new = torch.tensor([[-0.5, -1.5]], requires_grad=True)
    loss, metrics = objective(Outputs(logprobs=new, entropy=torch.ones(1, 2)), objective.prepare(rows))
    low, high = torch.tensor(-0.5).exp(), torch.tensor(0.5).exp()
    torch.testing.assert_close(loss, -(1.2 + low) / 2)
    loss.backward()
    torch.testing.assert_close(new.grad, torch.tensor([[0.0, -float(low) / 2]]))
    assert metrics["clip_fraction"] == 0.5 and metrics["entropy"] == 1
    torch.testing.assert_close(metrics["ratio"], (low + high) / 2)
    torch.testing.assert_close(metrics["max/ratio"], high)
    # KL(old || new) by k3: r − 1 − log r
    torch.testing.assert_close(metrics["old_kl"], (high - 1.5 + low - 0.5) / 2)


@pytest.mark.parametrize(
    "fields",
    [
        {"clip_low": 0.5},
        {"clip_high": 0.3},
        {"dual_clip": 1.2},
        {"ratio": "sequence"},
        {"ratio": "geometric"},
        {"entropy_coefficient": 0.1},
        {"entropy_coefficient": 0.1, "entropy_target": 3.0},
        {"aggregation": "sequence-mean-token-mean"},
        {"aggregation": "sequence-mean-token-sum"},
        {"aggregation": "constant-length", "maximum_length": 4},
        {"mismatch": {}},
        {"drop_negative_above": 0.0},
    ],
    ids=str,
)
def test_every_field_of_ppo_changes_the_loss(fields: dict[str, Any]) -> None:
    assert loss_of(PPOClip(**fields), batch())[0] != loss_of(PPOClip(), batch())[0]


def test_the_constant_of_constant_length() -> None:
    four, eight = (loss_of(PPOClip(aggregation="constant-length", maximum_length=n), batch())[0] for n in (4, 8))
    assert four == pytest.approx(2 * eight)
    with pytest.raises(ValidationError, match="needs maximum_length"):
        PPOClip(aggregation="constant-length")


def test_ppo_against_the_function() -> None:
    rows = batch()
    per_token = functional.ppo_clip(NEW, rows.logprobs, rows.advantages, 0.1, 0.3, 3.0)
    expected = functional.masked_mean(per_token, rows.mask)
    assert loss_of(PPOClip(clip_low=0.1, clip_high=0.3, dual_clip=3.0), rows)[0] == pytest.approx(float(expected))


def test_geometric_ratio_is_gspo() -> None:
    rows = batch()
    weight = functional.aggregation_weights(rows.mask, "sequence-mean-token-mean")
    new = NEW.clone().requires_grad_()
    expected = (weight * functional.gspo(new, rows.logprobs, rows.advantages, rows.mask, 0.2, 0.2)).sum()
    expected.backward()
    objective = PPOClip(ratio="geometric", aggregation="sequence-mean-token-mean")
    loss, _, gradient = loss_of(objective, rows)
    assert loss == pytest.approx(float(expected.detach()), abs=1e-6)
    torch.testing.assert_close(gradient, new.grad)


def test_sequence_ratio_by_hand() -> None:
    """log ratio 0.2 + 0.1 = 0.3 of the response; both tokens carry e^0.3 and share its gradient's size."""
    rows = experience([[-1.0, -1.0]], advantages=[[1.0, 1.0]])
    objective = PPOClip(ratio="sequence", clip_high=1.0)
    new = torch.tensor([[-0.8, -0.9]], requires_grad=True)
    loss, _ = objective(Outputs(logprobs=new, entropy=torch.zeros(1, 2)), objective.prepare(rows))
    loss.backward()
    ratio = float(torch.tensor(0.3).exp())
    assert loss.item() == pytest.approx(-ratio, rel=1e-5)
    torch.testing.assert_close(new.grad, torch.full((1, 2), -ratio / 2))


@pytest.mark.parametrize("ratio", ["token", "sequence", "geometric"])
def test_the_first_ratio_is_exactly_one(ratio: str) -> None:
    rows = batch()
    loss, metrics, _ = loss_of(PPOClip(ratio=ratio), rows, rows.logprobs)
    assert metrics["max/ratio"] == 1 and metrics["ratio"] == pytest.approx(1, abs=1e-6)
    assert metrics["old_kl"] == 0 and metrics["clip_fraction"] == 0
    assert loss == pytest.approx(-float(functional.masked_mean(rows.advantages, rows.mask)), abs=1e-6)


@pytest.mark.parametrize(
    "aggregation", ["token-mean", "sequence-mean-token-mean", "sequence-mean-token-sum", "constant-length"]
)
def test_metrics_are_means_over_tokens_whatever_the_aggregation(aggregation: str) -> None:
    objective = PPOClip(aggregation=aggregation, maximum_length=100)
    rows = batch(weight=[1.0, 0.0, 1.0])
    _, metrics, _ = loss_of(objective, rows, rows.logprobs)
    assert metrics["ratio"] == pytest.approx(1, abs=1e-6)
    assert metrics["entropy"] == pytest.approx((0.5 + 1.0 + 0.2 + 0.9 + 0.8) / 5)


def test_every_task_is_normalised_by_its_own_count() -> None:
    tasks = [{"task": "a"}, {"task": "b"}, {"task": "b"}]
    rows = batch(weight=[1.0, 1.0, 1.0]).replace(rows=row_table(tasks))
    mode = {"aggregation": "sequence-mean-token-sum"}
    weights = PolicyGradient(**mode, task="task").prepare(rows).loss_weight
    torch.testing.assert_close(weights, torch.tensor([[0.5, 0.5, 0.5], [0.25, 0, 0], [0.25, 0.25, 0]]))
    left_out = rows.replace(weight=torch.tensor([1.0, 0, 0]))  # a task of which nothing counts takes no part
    assert PolicyGradient(**mode, task="task").prepare(left_out).loss_weight[0].tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="no column 'kind'"):
        PolicyGradient(task="kind").prepare(rows)


def test_two_copies_of_a_task_are_one_task() -> None:
    one = batch(weight=[1.0, 1.0, 1.0])
    one = one.replace(rows=row_table([{"task": "a"}] * 3))
    two = concatenate([one, one.replace(rows=row_table([{"task": "b"}] * 3))])
    objective = PolicyGradient(aggregation="sequence-mean-token-sum", task="task")
    _, _, single = loss_of(objective, one)
    twice = torch.cat([NEW, NEW]).requires_grad_()
    loss, _ = objective(Outputs(logprobs=twice, entropy=torch.cat([ENTROPY, ENTROPY])), objective.prepare(two))
    (found,) = torch.autograd.grad(loss, twice)
    torch.testing.assert_close(found[:3] + found[3:], single)


def test_policy_gradient() -> None:
    loss, _, gradient = loss_of(PolicyGradient(), batch())
    per_token = -rows_of(ADVANTAGES) * NEW
    assert loss == pytest.approx(float(per_token.sum() / 6))
    torch.testing.assert_close(gradient, -rows_of(ADVANTAGES) / 6)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "abs", "k3-ratio"])
def test_kl_in_the_loss(estimator: str) -> None:
    rows = batch()
    loss, metrics, _ = loss_of(PPOClip().with_kl(0.3, estimator), rows)
    kl = functional.kl_loss(NEW, rows.logprobs, rows.reference_logprobs, estimator)
    mean = float(functional.masked_mean(kl, rows.mask))
    assert metrics["loss_kl"] == pytest.approx(mean, abs=1e-6)
    assert loss == pytest.approx(loss_of(PPOClip(), rows)[0] + 0.3 * mean, abs=1e-6)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "k3-ratio"])
def test_a_clamp_on_the_kl_in_the_loss(estimator: str) -> None:
    rows = batch()
    kl = functional.kl_estimate(NEW, rows.reference_logprobs, estimator.removesuffix("-ratio"), 0.1)
    if estimator == "k3-ratio":
        kl = kl * functional.importance_ratio(NEW, rows.logprobs)
    _, metrics, _ = loss_of(PPOClip().with_kl(0.3, estimator, clamp=0.1), rows)
    assert metrics["loss_kl"] == pytest.approx(float(functional.masked_mean(kl, rows.mask)), abs=1e-6)
    assert metrics["loss_kl"] != pytest.approx(loss_of(PPOClip().with_kl(0.3, estimator), rows)[1]["loss_kl"], abs=1e-4)


def test_entropy_is_a_bonus() -> None:
    with_bonus = loss_of(PPOClip(entropy_coefficient=0.5), batch())[0]
    assert with_bonus == pytest.approx(loss_of(PPOClip(), batch())[0] - 0.5 * float(ENTROPY.sum() / 6))


@pytest.mark.parametrize(("target", "sign"), [(0.5, 1), (2.0, -1)])
def test_the_distance_to_an_entropy_target(target: float, sign: int) -> None:
    """Tokens drawn had log-probabilities of −1 in the mean, so an entropy of 1: above 0.5, below 2.

    The loss is 0.1·|H − H*| with the policy's H = 3.7 / 6, as long as H is on the side where the rollout's was.
    """
    objective = PPOClip(entropy_coefficient=0.1, entropy_target=target)
    added = loss_of(objective, batch())[0] - loss_of(PPOClip(), batch())[0]
    assert added == pytest.approx(0.1 * abs(float(ENTROPY.sum()) / 6 - target), abs=1e-6)
    rows = objective.prepare(batch())
    entropy = ENTROPY.clone().requires_grad_()
    objective(Outputs(logprobs=NEW, entropy=entropy), rows)[0].backward()
    torch.testing.assert_close(entropy.grad, sign * 0.1 * rows.mask / 6)


def test_an_entropy_target_needs_a_weight() -> None:
    with pytest.raises(ValidationError, match="set entropy_coefficient above 0"):
        PPOClip(entropy_target=1.0)


def test_a_target_kl_is_a_limit_on_the_kl_to_the_old_policy() -> None:
    assert PPOClip().limits == {}
    assert PPOClip(target_kl=0.02).limits == pytest.approx({"old_kl": 0.03})


@pytest.mark.parametrize("ratio", ["token", "sequence", "geometric"])
@pytest.mark.parametrize("aggregation", ["token-mean", "sequence-mean-token-mean", "sequence-mean-token-sum"])
def test_microbatches_add_up(ratio: str, aggregation: str) -> None:
    objective = PPOClip(ratio=ratio, aggregation=aggregation, entropy_coefficient=0.1).with_kl(0.2, "k3")
    rows = objective.prepare(batch(weight=[1.0, 2.0, 0.5]))
    whole, metrics = objective(Outputs(logprobs=NEW, entropy=ENTROPY), rows)
    total: dict[str, float] = {"loss": 0.0}
    for part in ([0], [2, 1]):
        piece = take(rows, part)
        width = piece.mask.shape[1]
        loss, found = objective(Outputs(logprobs=NEW[part, :width], entropy=ENTROPY[part, :width]), piece)
        total["loss"] += float(loss)
        for name, value in found.items():
            total[name] = (
                max(total.get(name, -1.0), float(value)) if "max/" in name else total.get(name, 0.0) + float(value)
            )
    assert total == pytest.approx({"loss": float(whole)} | {k: float(v) for k, v in metrics.items()}, abs=1e-6)


def test_weight_zero_leaves_a_row_out() -> None:
    three, two = batch(weight=[1.0, 0.0, 1.0]), take(batch(), [0, 2])
    assert loss_of(PPOClip(), three)[0] == pytest.approx(
        float(PPOClip()(Outputs(logprobs=NEW[[0, 2]], entropy=ENTROPY[[0, 2]]), PPOClip().prepare(two))[0])
    )
    loss, metrics, gradient = loss_of(PPOClip(), batch(weight=[0.0, 0.0, 0.0]))
    assert loss == 0 and gradient.abs().sum() == 0 and metrics["ratio"] == 0


def test_extras_of_other_parts_are_kept() -> None:
    rows = batch()
    rows = rows.replace(extras={"mine": torch.ones(3)})
    assert set(PPOClip().prepare(rows).extras.keys()) == {"mine", "metric_weight"}


@pytest.mark.parametrize("travel", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy, lambda x: x.model_copy()])
def test_private_state_travels(travel: Any) -> None:
    original = PPOClip(clip_low=0.1)
    objective = travel(original.at_temperature(0.7).with_kl(0.25, "k2"))
    assert objective.temperature == 0.7 and objective.clip_low == 0.1
    assert (objective._kl_coefficient, objective._kl_estimator) == (0.25, "k2")
    assert original.temperature == 1.0 and original._kl_coefficient == 0.0
    made = [loss_of(o, batch())[0] for o in (objective, original.with_kl(0.25, "k2"))]
    assert made[0] == made[1]


def test_limits_of_the_fields() -> None:
    for fields in ({"clip_low": 1.5}, {"clip_low": -0.1}, {"clip_high": -1}, {"dual_clip": 1.0}, {"ratio": "none"}):
        with pytest.raises(ValidationError):
            PPOClip(**fields)


def test_value_clip_by_hand() -> None:
    """Value 1.0, before 0.5, return 2.0: unclipped ½·1², clipped to 0.7: ½·1.3²."""
    rows = experience([[-1.0], [-1.0]], values=[[0.5], [0.5]], returns=[[2.0], [2.0]], weight=[1.0, 0.0])
    values = torch.tensor([[1.0], [9.0]])
    for clip, expected in ((0.2, 0.845), (None, 0.5), (0.4, 0.605)):
        objective = ValueClip(clip=clip)
        loss, metrics = objective(Outputs(values=values), objective.prepare(rows))
        assert float(loss) == pytest.approx(expected)
        assert float(metrics["error"]) == 1 and float(metrics["mean"]) == 1


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [("token-mean", 7 / 6), ("sequence-mean-token-mean", 1.5), ("sequence-mean-token-sum", 1.75)],
)
def test_how_value_losses_become_one_number(aggregation: str, expected: float) -> None:
    """Errors 1 and 1 of one response, √5 of another: half the squares are ½, ½ and 2½."""
    rows = experience([[-1.0, -1.0], [-1.0]], values=[[0, 0], [0]], returns=[[1, 1], [5**0.5]])
    objective = ValueClip(clip=None, aggregation=aggregation)
    loss, _ = objective(Outputs(values=torch.zeros(2, 2)), objective.prepare(rows))
    assert float(loss) == pytest.approx(expected)


def test_a_critic_with_weights_of_its_own() -> None:
    """Half the squared errors ½ and 2: with the policy's weights the first alone, with the critic's three to one."""
    rows = experience([[-1.0], [-1.0]], values=[[0], [0]], returns=[[1], [2]], weight=[1.0, 0.0])
    for own, expected in ((None, 0.5), (torch.tensor([3.0, 1.0]), 0.875)):
        objective = ValueClip(clip=None)
        weighed = objective.prepare(rows.replace(critic_weight=own))
        assert float(objective(Outputs(values=torch.zeros(2, 1)), weighed)[0]) == pytest.approx(expected)


def test_cispo_by_hand() -> None:
    """Ratios e^0.5 and e^-0.5 with bounds 0.8 and 1.2: loss −w·A·log π, gradient −w·A."""
    rows = experience([[-1.0, -1.0]], advantages=[[1.0, -2.0]])
    objective = CISPO(minimum_ratio=0.8, maximum_ratio=1.2)
    new = torch.tensor([[-0.5, -1.5]], requires_grad=True)
    loss, metrics = objective(Outputs(logprobs=new, entropy=torch.zeros(1, 2)), objective.prepare(rows))
    loss.backward()
    assert float(loss.detach()) == pytest.approx((1.2 * 0.5 - 0.8 * 2 * 1.5) / 2)
    torch.testing.assert_close(new.grad, torch.tensor([[-0.6, 0.8]]))
    assert metrics["clip_fraction"] == 1
    for fields in ({"minimum_ratio": 1.1}, {"maximum_ratio": 0.9}):
        assert loss_of(CISPO(**fields), batch())[0] != loss_of(CISPO(), batch())[0]
    with pytest.raises(ValidationError, match="exceeds maximum_ratio"):
        CISPO(minimum_ratio=2.0, maximum_ratio=1.0)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"low": 0.9},
        {"high": 1.1},
        {"mode": "mask", "high": 1.1},
        {"level": "sequence"},
        {"level": "geometric"},
        {"level": "geometric", "mode": "mask", "token_weight": True},
        {"normalise": True},
    ],
    ids=str,
)
def test_the_mismatch_weighs_the_policy_loss_alone(fields: dict[str, Any]) -> None:
    rows = batch()
    objective = PolicyGradient(mismatch=fields, entropy_coefficient=0.1).with_kl(0.3, "k3")
    plain = PolicyGradient(entropy_coefficient=0.1).with_kl(0.3, "k3")
    weight = Mismatch(**fields).weight(rows)
    terms = {k: v for k, v in fields.items() if k != "normalise"}
    raw = functional.mismatch_weight(rows.logprobs, rows.behaviour_logprobs, rows.mask, **terms)
    torch.testing.assert_close(weight, raw / raw[rows.mask].mean() if "normalise" in fields else raw)
    losses = functional.reinforce(NEW, rows.advantages)
    difference = functional.masked_mean((weight - 1) * losses, rows.mask)
    loss, metrics, _ = loss_of(objective, rows)
    assert loss == pytest.approx(loss_of(plain, rows)[0] + float(difference), abs=1e-6)
    assert metrics["mismatch_weight"] == pytest.approx(float(functional.masked_mean(weight, rows.mask)))


def test_the_mean_of_normalised_weights_is_that_of_the_rows_that_count() -> None:
    weight = Mismatch(normalise=True).weight(batch(weight=[1.0, 0.0, 1.0]))
    assert float(weight[[0, 2]].sum() / 5) == pytest.approx(1)


def test_rows_that_were_left_behind_are_dropped() -> None:
    """Mean fall of rows 1 and 2: 0 and −0.4 nats; row 2 has advantages of sum 0, row 1 a negative one."""
    rows = experience([[-1.0], [-1.0], [-1.0]], advantages=[[-1.0], [-1.0], [1.0]])
    new = torch.tensor([[-1.5], [-1.2], [-3.0]])
    _, metrics, gradient = loss_of_(PolicyGradient(drop_negative_above=0.3), rows, new)
    assert metrics["kept_negative"] == pytest.approx(2 / 3)
    torch.testing.assert_close(gradient, torch.tensor([[0.0], [1 / 3], [-1 / 3]]))


def loss_of_(objective: PolicyObjective, rows: Experience, new: Tensor) -> tuple[float, dict[str, float], Tensor]:
    new = new.clone().requires_grad_()
    loss, metrics = objective(Outputs(logprobs=new, entropy=torch.zeros_like(new)), objective.prepare(rows))
    loss.backward()
    assert new.grad is not None
    return float(loss.detach()), {name: float(value) for name, value in metrics.items()}, new.grad


def test_mismatch_refuses() -> None:
    for fields in ({"low": 2.0}, {"token_weight": True}, {"level": "row"}):
        with pytest.raises(ValidationError):
            PPOClip(mismatch=fields)


def test_the_ratio_of_a_macro_action() -> None:
    """Log ratios 0.2 + 0.1 and −0.3: tokens carry e^0.3, e^0.3, e^−0.3; single tokens and the whole response are special cases."""
    rows = experience([[-1.0, -1.0, -1.0]], advantages=[[1.0, 1.0, 1.0]])
    new = torch.tensor([[-0.8, -0.9, -1.3]])
    loss, _, gradient = loss_of_(PPOClip(ratio="macro", clip_high=1.0, clip_low=1.0), segmented(rows, [0, 0, 1]), new)
    up, down = float(torch.tensor(0.3).exp()), float(torch.tensor(-0.3).exp())
    assert loss == pytest.approx(-(2 * up + down) / 3, rel=1e-5)
    torch.testing.assert_close(gradient, torch.tensor([[-up / 3, -up / 3, -down / 3]]))
    for segments, ratio in (([0, 1, 2], "token"), ([0, 0, 0], "sequence")):
        assert loss_of_(PPOClip(ratio="macro"), segmented(rows, segments), new)[0] == pytest.approx(
            loss_of_(PPOClip(ratio=ratio), rows, new)[0]
        )
    with pytest.raises(ValueError, match="ratio macro needs the segments"):
        loss_of_(PPOClip(ratio="macro"), rows, new)


def segmented(rows: Experience, segments: list[int]) -> Experience:
    return rows.replace(extras={"segments": torch.tensor([segments])})


# -- imitation with an exact KL -------------------------------------------------------------------------------------------

EXACT = rows_of([[0.1, 0.4, 0.1], [0.5], [0.2, 0.4]])


def imitation(objective: PolicyObjective, weight: list[float]) -> float:
    rows = batch(weight=weight).replace(advantages=torch.ones(3, 3))
    outputs = Outputs(logprobs=NEW, entropy=ENTROPY, forward_kl=EXACT, kl=2 * EXACT)
    return float(objective(outputs, objective.prepare(rows))[0])


@pytest.mark.parametrize(
    ("reduction", "kl"),
    [
        # Rows one and three count: means over tokens 0.2 and 0.3, and 0.1 + 0.4 + 0.1 + 0.2 + 0.4 over five tokens.
        ("mean", 0.25),
        ("sum", 0.5),
        ("loss", 0.24),
    ],
)
def test_reductions_of_the_exact_kl(reduction: str, kl: float) -> None:
    plain = FilteredNLL()
    nll = (0.8 + 2.5 + 0.5 + 1.2 + 0.1) / 5
    assert imitation(plain, [1.0, 0, 1]) == pytest.approx(nll)
    found = plain.with_kl(0.35, "exact-forward", reduction)
    assert found.needs == ("logprobs", "entropy", "forward_kl") and plain.needs == ("logprobs", "entropy")
    assert imitation(found, [1.0, 0, 1]) == pytest.approx(nll + 0.35 * kl)
    other = plain.with_kl(0.35, "exact", reduction)
    assert other.needs[-1] == "kl" and imitation(other, [1.0, 0, 1]) == pytest.approx(nll + 0.7 * kl)


def test_of_one_response_mean_and_sum_agree() -> None:
    found = [imitation(FilteredNLL().with_kl(0.35, "exact-forward", r), [0.0, 0, 1]) for r in ("mean", "sum")]
    assert found[0] == pytest.approx(found[1]) == pytest.approx(0.65 + 0.35 * 0.3)


def test_the_inverse_loss_turns_round_below_its_root() -> None:
    rows = experience([[-0.2, -0.6], [-9.0]], weight=[1.0, 0.0], advantages=[[1.0, 1.0], [1.0]])
    for inverse, factor in ((0.0, 1.0), (0.04, 0.75), (0.16, 0.0), (0.32, -1.0)):  # 1 − C / 0.4²
        prepared = FilteredNLL(inverse=inverse).prepare(rows)
        torch.testing.assert_close(prepared.advantages, factor * rows.advantages)
