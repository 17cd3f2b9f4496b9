"""Credit: each part against the function it stands on and against numbers worked by hand; each field changes something."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from fairlead import functional
from fairlead.credit import (
    GAE,
    GroupRelative,
    LeaveOneOut,
    MacroGAE,
    NashPolicyGradient,
    Reinforce,
    ReinforcePlusPlus,
    ReMax,
)
from tiny_batches import experience

TWO_GROUPS = {"logprobs": [[-1, -1], [-1], [-1, -1, -1], [-1]], "score": [1.0, 3.0, 2.0, 2.5], "group": [4, 4, 7, 7]}


def test_gae_by_hand() -> None:
    batch = experience([[-1, -1]], score=[1.0], values=[[0.5, 0.25]])
    made = GAE(gamma=0.9, lam=0.5, whiten=False)(batch)
    # delta_2 = 1 − 0.25 = 0.75; delta_1 = 0.9 · 0.25 − 0.5 = −0.275; A_1 = −0.275 + 0.45 · 0.75 = 0.0625
    torch.testing.assert_close(made.advantages, torch.tensor([[0.0625, 0.75]]))
    torch.testing.assert_close(made.returns, torch.tensor([[0.5625, 1.0]]))


@pytest.mark.parametrize("fields", [{"gamma": 0.9}, {"lam": 0.5}, {"whiten": True}, {"clip": 0.12}])
def test_fields_of_gae(fields: dict[str, Any]) -> None:
    batch = experience(**TWO_GROUPS, values=[[0.5, 0.2], [1.0], [0.1, 0.2, 0.3], [0.4]])
    plain = {"gamma": 1.0, "lam": 0.95, "whiten": False}
    made = GAE(**(plain | fields))(batch)
    gamma, lam = fields.get("gamma", 1.0), fields.get("lam", 0.95)
    advantages, returns = functional.gae(batch.rewards, batch.values, batch.mask, gamma, lam)
    torch.testing.assert_close(made.returns, returns)
    expected = functional.whiten(advantages, batch.mask) if "whiten" in fields else advantages
    expected = expected.clamp(-0.12, 0.12) if "clip" in fields else expected
    torch.testing.assert_close(made.advantages, expected)
    assert not torch.equal(made.advantages, GAE(**plain)(batch).advantages)


def test_group_relative_by_hand() -> None:
    made = GroupRelative()(experience(**TWO_GROUPS)).advantages
    half = 0.5 / (2 * 0.25**2) ** 0.5 / 2  # (2 − 2.25) / sd, whose absolute value is 1/√2
    assert half == pytest.approx(0.5**0.5)
    expected = torch.tensor([[-half, -half, 0], [half, 0, 0], [-half, -half, -half], [half, 0, 0]])
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "fields", [{"scale": "batch"}, {"scale": "none"}, {"unbiased": False}, {"epsilon": 0.1}, {"scale": "group"}]
)
def test_fields_of_group_relative(fields: dict[str, Any]) -> None:
    batch = experience(**TWO_GROUPS)
    made = GroupRelative(**fields)(batch)
    score = functional.group_relative(batch.score, batch.group, **fields)
    torch.testing.assert_close(made.advantages, functional.broadcast_to_tokens(score, batch.mask))
    same = torch.equal(made.advantages, GroupRelative()(batch).advantages)
    assert same == (fields == {"scale": "group"})


def test_a_penalty_within_the_comparison_or_behind_it() -> None:
    """Every token costs 0.1. Compared: 0.8 and 2.9 about 1.85. Behind: 1 and 3 about 2, less what the token and later ones cost."""
    batch = experience([[-1, -1], [-1]], score=[1.0, 3.0], group=[0, 0])
    batch = batch.replace(rewards=batch.rewards - 0.1 * batch.mask)
    compared, behind = (GroupRelative(scale="none", penalty=p)(batch).advantages for p in ("compared", "to-go"))
    torch.testing.assert_close(compared, torch.tensor([[-1.05, -1.05], [1.05, 0.0]]))
    torch.testing.assert_close(behind, torch.tensor([[-1.2, -1.1], [0.9, 0.0]]))
    alone = LeaveOneOut(penalty="to-go")(batch).advantages
    torch.testing.assert_close(alone, torch.tensor([[-2.2, -2.1], [1.9, 0.0]]))
    white = ReinforcePlusPlus(baseline="group", penalty="to-go")(batch).advantages
    torch.testing.assert_close(white, functional.whiten(behind, batch.mask))


def test_whitening_with_n_or_one_less() -> None:
    """The numbers of R = (−0.1, 0, 0.05, 1), V = (0.5, 0.4, 0.6, 0.8), λ 0.95."""
    batch = experience([[-1] * 4], rewards=[[-0.1, 0, 0.05, 1]], values=[[0.5, 0.4, 0.6, 0.8]])
    unbiased, biased = (GAE(unbiased=u)(batch).advantages for u in (True, False))
    torch.testing.assert_close(unbiased, torch.tensor([[-0.140529, 1.201687, 0.166978, -1.228136]]))
    torch.testing.assert_close(biased, torch.tensor([[-0.162269, 1.387589, 0.192809, -1.418129]]))
    togo = ReinforcePlusPlus(unbiased=False)(batch).advantages
    torch.testing.assert_close(togo.square().mean(), torch.tensor(1.0))


def test_rewards_of_tokens_are_scaled_about_their_mean() -> None:
    """R = (0, 2, 4): mean 2, deviation 2 (n − 1): (1, 2, 3), whose returns are 6, 5, 3."""
    batch = experience([[-1] * 3], rewards=[[0, 2, 4]], values=[[0, 0, 0]])
    made = GAE(lam=1.0, whiten=False, scale_rewards=True)(batch)
    torch.testing.assert_close(made.returns, torch.tensor([[6.0, 5.0, 3.0]]))


def test_the_epsilon_must_be_positive() -> None:
    with pytest.raises(ValidationError):
        GroupRelative(epsilon=0.0)


def test_leave_one_out() -> None:
    batch = experience(**TWO_GROUPS)
    made = LeaveOneOut()(batch).advantages
    torch.testing.assert_close(made[:, 0], torch.tensor([-2.0, 2.0, -0.5, 0.5]))
    scaled = LeaveOneOut(normalise=True)(batch).advantages
    deviation = made[batch.mask].std()
    torch.testing.assert_close(scaled, made / deviation)


def test_reinforce() -> None:
    batch = experience([[-1, -1], [-1]], score=[2.0, 1.0])
    plain = Reinforce(gamma=0.5, baseline="none")(batch).advantages
    torch.testing.assert_close(plain, torch.tensor([[1.0, 2.0], [1.0, 0.0]]))
    centred = Reinforce(gamma=0.5)(batch).advantages
    torch.testing.assert_close(centred, torch.tensor([[-1 / 3, 2 / 3], [-1 / 3, 0.0]]))


def test_reinforce_plus_plus() -> None:
    batch = experience(**TWO_GROUPS)
    plain = ReinforcePlusPlus()(batch).advantages
    togo = functional.discounted_returns(batch.rewards, batch.mask, 1.0)
    torch.testing.assert_close(plain, functional.whiten(togo, batch.mask))
    assert not torch.equal(ReinforcePlusPlus(gamma=0.5)(batch).advantages, plain)
    against = ReinforcePlusPlus(baseline="group")(batch).advantages
    centred = functional.broadcast_to_tokens(batch.score - functional.group_mean(batch.score, batch.group), batch.mask)
    torch.testing.assert_close(against, functional.whiten(centred, batch.mask))


ALL = [
    GAE(),
    GAE(whiten=False),
    MacroGAE(length=2),
    MacroGAE(length=2, whiten="macro"),
    MacroGAE(whiten="none", rule="perplexity"),
    GroupRelative(),
    GroupRelative(scale="batch"),
    LeaveOneOut(),
    LeaveOneOut(normalise=True),
    LeaveOneOut(penalty="to-go"),
    GAE(unbiased=False),
    Reinforce(),
    Reinforce(baseline="none"),
    ReinforcePlusPlus(),
    ReinforcePlusPlus(baseline="group"),
    ReinforcePlusPlus(baseline="group", penalty="to-go"),
]


@pytest.mark.parametrize("credit", ALL, ids=repr)
def test_a_row_of_weight_zero_is_as_good_as_absent(credit: object) -> None:
    """Whatever its score, it changes no other row and makes nothing that is not finite."""
    lengths = [[-1, -1], [-1], [-1, -1, -1], [-1]]
    values = [[0.1, 0.3], [0.2], [0.4, 0.1, 0.2], [0.3]]
    full = experience(
        [*lengths, [-1, -1]],
        score=[1.0, 3.0, 2.0, 2.5, 1000.0],
        group=[4, 4, 7, 7, 7],
        weight=[1, 1, 1, 1, 0.0],
        values=[*values, [5.0, 6.0]],
    )
    rest = experience(lengths, score=[1.0, 3.0, 2.0, 2.5], group=[4, 4, 7, 7], values=values)
    with_it, without = credit(full).advantages, credit(rest).advantages  # type: ignore[operator]
    assert with_it.isfinite().all()
    torch.testing.assert_close(with_it[:4, :3], without)


@pytest.mark.parametrize("credit", ALL, ids=repr)
def test_nothing_counts(credit: object) -> None:
    batch = experience([[-1, -1], [-1]], score=[0.0, 0.0], group=[0, 0], weight=[0.0, 0.0], values=[[1, 2], [3]])
    assert credit(batch).advantages.isfinite().all()  # type: ignore[operator]


@pytest.mark.parametrize("credit", ALL, ids=repr)
def test_equal_rewards_and_padding_give_no_advantage_out_of_noise(credit: object) -> None:
    batch = experience([[-1, -1], [-1]], score=[0.1, 0.1], group=[0, 0], values=[[0.1, 0.1], [0.1]])
    made = credit(batch).advantages  # type: ignore[operator]
    assert made[1, 1] == 0
    if getattr(credit, "baseline", "batch") != "none":
        assert made.abs().max() < 1e-3


def test_what_each_needs() -> None:
    assert GAE().needs_values and not GroupRelative().needs_values
    assert [c.minimum_samples for c in (GAE, GroupRelative, LeaveOneOut, Reinforce, ReinforcePlusPlus)] == [
        1,
        2,
        2,
        1,
        1,
    ]
    assert all(c.state_dict() == {} for c in ALL)


def anchored(**others: Any) -> Any:
    """Two prompts: two samples and a greedy response, one sample and a greedy response; a penalty on each token."""
    score = others.pop("score", [9.0, -1.0, 2.0, 0.5, 0.25])
    made = experience(
        [[-1, -1], [-1], [-1], [-1], [-1]], score=score, group=[0, 0, 0, 1, 1], weight=[1.0, 1, 0, 1, 0], **others
    )
    penalty = torch.where(made.mask, torch.tensor([0.1, 0.2]), 0.0)
    return made.replace(
        rewards=made.rewards.nan_to_num() - penalty, anchor=torch.tensor([False, False, True, False, True])
    )


def test_remax() -> None:
    made = ReMax()(anchored())
    # Differences 7 (cut at 5), −3, 0.25; penalties to go 0.3 and 0.2, 0.1, 0.1.
    torch.testing.assert_close(made.advantages[[0, 1, 3]], torch.tensor([[4.7, 4.8], [-3.1, 0], [0.15, 0]]))
    assert made.weight.tolist() == [1, 1, 0, 1, 0]
    assert ReMax(clip=None)(anchored()).advantages[0].tolist() == pytest.approx([6.7, 6.8])
    assert ReMax(kl="one-step", gamma=0.5)(anchored()).advantages[0].tolist() == pytest.approx([1.15, 2.3])
    white = ReMax(whiten=True)(anchored()).advantages
    counted = white[[0, 0, 1, 3], [0, 1, 0, 0]]
    assert float(counted.mean()) == pytest.approx(0, abs=1e-6) and float(counted.std()) == pytest.approx(1)


def test_the_policy_gradient_of_a_game() -> None:
    made = NashPolicyGradient()(anchored(score=[0.9, 0.25, 0.5, 1.0, 0.0])).advantages
    # ½ less, and the penalties 0.3, 0.1, 0.1 of whole responses; or 0.3 and 0.2 to go.
    torch.testing.assert_close(made[[0, 1, 3]], torch.tensor([[0.1, 0.1], [-0.35, 0], [0.4, 0]]))
    to_go = NashPolicyGradient(kl="to-go")(anchored(score=[0.9, 0.25, 0.5, 1.0, 0.0])).advantages
    torch.testing.assert_close(to_go[[0, 1, 3]], torch.tensor([[0.1, 0.2], [-0.35, 0], [0.4, 0]]))


def test_remax_does_not_feel_the_level_of_a_prompt() -> None:
    moved = ReMax(clip=None)(anchored(score=[109.0, 99.0, 102.0, -7.0, -7.25])).advantages
    torch.testing.assert_close(moved, ReMax(clip=None)(anchored()).advantages, atol=1e-4, rtol=0)


def test_remax_leaves_out_a_prompt_whose_greedy_response_failed() -> None:
    made = ReMax()(anchored(score=[9.0, -1.0, float("nan"), 0.5, 0.25]))
    assert made.weight.tolist() == [0, 0, 0, 1, 0] and made.advantages.isfinite().all()


def test_macro_actions_of_one_token_are_gae() -> None:
    batch = experience(**TWO_GROUPS, values=[[0.5, 0.2], [1.0], [0.1, 0.2, 0.3], [0.4]])
    for whiten in ("tokens", "macro"):
        made = MacroGAE(length=1, whiten=whiten)(batch)
        torch.testing.assert_close(made.advantages, GAE()(batch).advantages)
        torch.testing.assert_close(made.returns, GAE()(batch).returns)


@pytest.mark.parametrize(
    "fields",
    [
        {"length": 3},
        {"value": "last"},
        {"value": "decayed"},
        {"reward": "mean"},
        {"gamma": 0.5},
        {"lam": 0.2},
        {"whiten": "tokens"},
        {"whiten": "macro"},
        {"rule": "perplexity"},
        {"rule": "given"},
    ],
    ids=str,
)
def test_fields_of_macro_gae(fields: dict[str, Any]) -> None:
    lengths = [[-1.0, -2, -1, -3, -0.5], [-1.0, -1, -1]]
    values = [[0.5, 0.2, 0.1, 0.6, 0.3], [0.1, 0.2, 0.3]]
    batch = experience(lengths, score=[1.0, 2.0], values=values, reference_logprobs=lengths)
    batch = batch.replace(rewards=torch.where(batch.mask, batch.rewards - 0.1, 0.0))
    batch = batch.replace(extras={"segments": torch.tensor([[0, 0, 0, 0, 1], [0, 1, 2, 3, 3]])})
    plain = MacroGAE(length=2, whiten="none")(batch)
    made = MacroGAE(**({"length": 2, "whiten": "none"} | fields))(batch)
    assert not torch.equal(made.advantages, plain.advantages)
    assert made.extras["segments"].shape == batch.mask.shape and (made.advantages[~batch.mask] == 0).all()


def test_random_lengths_differ_and_are_stored() -> None:
    batch = experience([[-1.0] * 30] * 8, values=[[0.1] * 30] * 8)
    torch.manual_seed(0)
    segments = MacroGAE(rule="randomised", repeats=1)(batch).extras["segments"]
    assert len({tuple(row) for row in segments.tolist()}) > 1
    for row in segments:  # 1, 2, 3, 5, 10 in some order and the other 9 tokens as one
        assert sorted(row.bincount().tolist()[:-1]) == [1, 2, 3, 5, 10] and row.bincount()[-1] == 9
    thrice = MacroGAE(rule="randomised", repeats=3)(batch).extras["segments"]
    assert thrice.max() > 5


class Letters:
    """A tokenizer of one letter a token."""

    def token_texts(self, ids: list[int]) -> list[str]:
        return list("a b, c"[: len(ids)])


def test_a_parser(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "tree_of.py").write_text(
        "def tree(response, pieces):\n    assert response == 'r' and pieces[0] == 'a'\n    return [[2, 2], 1]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    batch = experience([[-1.0] * 5, [-1.0] * 3], values=[[0.1] * 5, [0.1] * 3])

    def segments(**fields: Any) -> list[list[int]]:
        part = MacroGAE(rule="parsing", **fields)
        part.at_start(Letters())  # type: ignore[arg-type]
        found: list[list[int]] = part(batch).extras["segments"].tolist()
        return found

    # The second response has another number of tokens than the tree: single tokens.
    assert segments(parser="tree_of:tree", largest=4) == [[0, 0, 1, 1, 1], [0, 1, 2, -1, -1]]
    assert segments(parser="tree_of:tree", largest=9)[0] == [0] * 5
    # Without one, words: "a " and "b, " of the first response, "a " and "b" of the second, whose one token joins the action before.
    assert segments(largest=3) == [[0, 0, 1, 1, 1], [0, 0, 0, -1, -1]]
    with pytest.raises(ValidationError, match="rule fixed parses nothing"):
        MacroGAE(parser="tree_of:tree")
    with pytest.raises(ValidationError, match="no function 'three'"):
        MacroGAE(rule="parsing", parser="tree_of:three")
