"""Credit of CGPO: the mean over responses as a baseline, pairs, tasks."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from tensordict import TensorDict

from fairlead import functional
from fairlead.batch import row_table
from fairlead.credit import GAE, CreditByTask, DPOCredit, GroupRelative, Reinforce
from tiny_batches import experience


def test_the_mean_over_responses_by_hand() -> None:
    rows = experience([[-1.0, -1.0], [-1.0], [-1.0], [-1.0]], score=[0.548294, 0, 0.415295, 0])
    made = Reinforce(baseline="responses")(rows).advantages
    assert made[:, 0].tolist() == pytest.approx([0.307397, -0.240897, 0.174398, -0.240897], abs=1e-6)
    assert made[0, 1] == made[0, 0] and made[1, 1] == 0  # lengths do not matter
    left_out = rows.replace(weight=torch.tensor([1.0, 1, 1, 0]))
    assert float(Reinforce(baseline="responses")(left_out).advantages[1, 0]) == pytest.approx(-0.321196, abs=1e-6)


def test_pairs_get_the_gradient_of_dpo() -> None:
    rows = experience(
        [[-1.0, -1.0], [-3.0], [-2.0]], group=[0, 0, 0], reference_logprobs=[[-1.5, -1.0], [-2.7], [-2.0]]
    )
    with pytest.raises(ValueError, match="selection pairs"):
        DPOCredit()(rows)
    rows = rows.replace(
        weight=torch.tensor([1.0, 1, 0]), extras=TensorDict({"side": torch.tensor([1.0, -1, 0])}, batch_size=[3])
    )
    push = 2 * 0.1 / (1 + torch.tensor(0.08).exp())
    made = DPOCredit(beta=0.1, likelihood=0)(rows).advantages
    torch.testing.assert_close(made, torch.stack([push, push, -push, 0 * push, 0 * push, 0 * push]).view(3, 2))
    assert float(DPOCredit(beta=0.1, likelihood=5)(rows).advantages[0, 0]) == pytest.approx(float(push) + 2 * 5 / 2)
    assert DPOCredit.needs_reference and DPOCredit.minimum_samples == 2


def test_tasks_have_a_baseline_of_their_own() -> None:
    rows = experience([[-1.0]] * 4, score=[1.0, 2.0, 3.0, 6.0], group=[0, 1, 0, 1])
    rows = rows.replace(rows=row_table([{"task": task} for task in ("a", "b", "a", "b")]))
    part = CreditByTask(tasks={"a": Reinforce(baseline="responses")}, others=Reinforce(baseline="none"))
    assert part(rows).advantages[:, 0].tolist() == [-1, 2, 1, 6]
    assert part.minimum_samples == 1 and not part.anchor_rollout and not part.needs_reference
    assert CreditByTask(tasks={"a": GroupRelative(), "b": DPOCredit()}).needs_reference
    assert CreditByTask(tasks={"a": Reinforce(), "b": GroupRelative()}).minimum_samples == 2
    with pytest.raises(ValidationError, match="has a critic"):
        CreditByTask(tasks={"a": GAE()})


def test_without_judges_and_distance_crpg_is_reinforce_on_the_calibrated_reward() -> None:
    """KL limit to infinity: the factor is 1, and what is left is the batch mean of σ(r − r̄)."""
    score = torch.tensor([2.0, 0.5, -1.0])
    calibrated = torch.sigmoid(score - 1.0)
    faded = calibrated * functional.kl_factor(torch.tensor([3.0, -2.0, 1.0]), 1e9)
    made = Reinforce(baseline="responses")(experience([[-1.0]] * 3, score=faded.tolist())).advantages[:, 0]
    torch.testing.assert_close(made, calibrated - calibrated.mean())
