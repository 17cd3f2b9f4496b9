"""Every method of the house, driven through its ordinary stage, comes close to the exact answer of the token world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fairlead import functional
from fairlead.evidence import Laboratory
from fairlead.evidence.experiments.bradley_terry import judge_exactly
from fairlead.evidence.experiments.dpo import distance
from fairlead.evidence.experiments.inpo import game_figures
from fairlead.evidence.experiments.pairwise_model import by_scores, circles
from fairlead.evidence.experiments.rloo import response_gradients
from fairlead.recipes import load_recipe
from fairlead.recipes.execute import execute
from fairlead.runs import read_json_lines
from fairlead.worlds import TokenWorld, cyclic_preferences, exact_figures

BETA = 0.3


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    return Laboratory(TokenWorld(symbols=4, maximum_tokens=3, prompts=3), tmp_path_factory.mktemp("lab"))


def kl(**changes: Any) -> dict[str, Any]:
    return {"part": "kl", "coefficient": BETA, **changes}


ONLINE: dict[str, dict[str, Any]] = {
    "ppo": {"credit": "gae", "epochs": 2, "minibatches": 2},
    "grpo-none": {"credit": {"part": "group-relative", "scale": "none"}},
    "grpo-group": {"credit": {"part": "group-relative", "scale": "group"}},
    "rloo": {"credit": "rloo"},
    "reinforce++": {"credit": "reinforce++"},
}


@pytest.mark.parametrize("method", ONLINE)
def test_online_methods_approach_the_optimum(lab: Laboratory, method: str) -> None:
    """From a total variation of 0.73 to π*, and the whole gap, to a small part of either; the KL is in the reward."""
    start = exact_figures(lab.world, lab.log_reference, lab.log_reference, BETA)
    assert start["total_variation"] > 0.7
    stage = lab.online(40, 24, 4, 5e-3, regulariser=kl(), **ONLINE[method])
    figures = lab.run(stage, name=method).figures(BETA)
    assert figures["total_variation"] < 0.25, figures
    assert figures["relative_gap"] < 0.06, figures


def test_an_entropy_target_is_kept(lab: Laboratory) -> None:
    """Without KL and target the entropy goes from 1.2 nats a token to nearly none; with a target it stays there."""
    entropy = {}
    for name, objective in (
        ("free", "ppo-clip"),
        ("held", {"part": "ppo-clip", "entropy_coefficient": 1.0, "entropy_target": 0.8}),
    ):
        stage = lab.online(40, 24, 4, 5e-3, regulariser=kl(coefficient=0), credit="rloo", objective=objective)
        last = [row["policy/entropy"] for row in lab.run(stage, name=name).metrics[-10:]]
        entropy[name] = sum(last) / len(last)
    assert entropy["free"] < 0.3 and abs(entropy["held"] - 0.8) < 0.2, entropy


@pytest.mark.parametrize("estimator", ["k2", "k3-ratio"])
def test_grpo_with_the_kl_in_the_loss_comes_to_rest_elsewhere(tmp_path: Path, estimator: str) -> None:
    """`scale: group` divides the reward and not the KL: it converges to the scaled optimum, not to π*; `none` goes to π*.

    Responses of one token, where the KL of a token is the KL of the response.
    """
    beta = 1.5
    lab = Laboratory(TokenWorld(symbols=6, maximum_tokens=1, prompts=3, reward_scale=0.3, seed=2), tmp_path)
    world = lab.world
    optimum = world.optimum(lab.log_reference, beta)
    scaled = world.scaled_optimum(lambda weight: world.optimum(lab.log_reference, weight), beta)
    assert world.total_variation(optimum, scaled) > 0.2
    regulariser = {"part": "kl", "coefficient": beta, "place": "loss", "estimator": estimator}
    for scale, goal, other in (("none", optimum, scaled), ("group", scaled, optimum)):
        credit = {"part": "group-relative", "scale": scale}
        stage = lab.online(40, 12, 16, 5e-3, regulariser=regulariser, credit=credit)
        policy = lab.run(stage, name=scale).log_policy
        near, far = world.total_variation(policy, goal), world.total_variation(policy, other)
        assert near < 0.06 and near < 0.3 * far, (scale, near, far)


def test_division_by_the_spread_collapses_for_a_small_beta(lab: Laboratory) -> None:
    with pytest.raises(ArithmeticError, match="collapses onto one response"):
        lab.world.scaled_optimum(lambda weight: lab.world.optimum(lab.log_reference, weight), 0.3)


def test_the_kl_in_the_loss_looks_no_token_ahead(tmp_path: Path) -> None:
    """For longer responses k2 in the loss leads to the exact fixed point without look-ahead, k1 in the reward to π*."""
    beta = 0.5
    lab = Laboratory(TokenWorld(symbols=4, maximum_tokens=2, prompts=3), tmp_path, spread=0.2)
    greedy = lab.world.greedy_kl_optimum(lab.world.conditionals(lab.open(lab.reference)), beta)
    optimum = lab.world.optimum(lab.log_reference, beta)
    assert lab.world.total_variation(greedy, optimum) > 0.17
    for place, estimator, goal, other in (("loss", "k2", greedy, optimum), ("reward", "k1", optimum, greedy)):
        regulariser = {"part": "kl", "coefficient": beta, "place": place, "estimator": estimator}
        policy = lab.run(lab.online(80, 48, 4, 5e-3, regulariser=regulariser, credit="rloo"), name=place).log_policy
        near, far = lab.world.total_variation(policy, goal), lab.world.total_variation(policy, other)
        assert near < 0.12 and near < 0.65 * far, (place, near, far)


@pytest.mark.parametrize("seed", range(3))
def test_where_a_game_and_its_scores_come_to_rest(tmp_path: Path, seed: int) -> None:
    """Nash-MD-PG rests at π ∝ μ exp(P(y ≻ mixture) / τ): nearer to the Nash policy than the best response to μ, and than the optimum of
    Bradley–Terry scores at the KL weight that they are matched with."""
    tau, lab = 0.05, Laboratory(TokenWorld(symbols=3, maximum_tokens=2, prompts=3, seed=seed), tmp_path)
    preference = cyclic_preferences(lab.world)
    figures = {}
    for share in (0.25, 1.0):
        policy = lab.log_reference
        for _ in range(3000):
            mixture = torch.softmax((1 - share) * policy + share * lab.log_reference, -1)
            goal = torch.log_softmax(lab.log_reference + mixture @ preference.T / tau, -1)
            policy = torch.log_softmax(policy + 0.02 * (goal - policy), -1)
        torch.testing.assert_close(policy, goal)
        figures[share] = game_figures(lab, policy, tau)
    scores = functional.bradley_terry_scores(preference)
    optimum = game_figures(lab, torch.log_softmax(lab.log_reference + scores / (4 * tau), -1), tau)
    for figure, share in (("total_variation", 0.5), ("exploitability", 0.8)):
        assert figures[0.25][figure] < share * min(optimum[figure], figures[1.0][figure])


def test_gradients_of_responses_are_scores(lab: Laboratory) -> None:
    """Σ π(y) ∇ log π(y) = 0 for every prompt: the enumeration is whole and the gradients belong to it."""
    gradients = response_gradients(lab.world, lab.reference)
    mean = torch.einsum("xy,xyp->xp", lab.log_reference.exp(), gradients)
    assert float(mean.norm(dim=-1).max()) < 1e-4 * float(gradients.norm(dim=-1).mean())


@pytest.fixture(scope="module")
def pair_lab(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    world = TokenWorld(symbols=3, maximum_tokens=3, prompts=3, reward_scale=2.0)
    return Laboratory(world, tmp_path_factory.mktemp("pairs"))


def test_dpo_approaches_the_optimum_of_the_hidden_reward(pair_lab: Laboratory) -> None:
    pairs = pair_lab.pairs(16_000, 0)
    outcome = pair_lab.run(pair_lab.from_pairs("preference", pairs, rate=6e-3, objective={"part": "dpo", "beta": 1.0}))
    figures = distance(pair_lab, outcome.log_policy)
    assert figures["total_variation_at_start"] > 0.45
    assert figures["total_variation"] < 0.2, figures


def test_the_reward_model_recovers_the_reward(tmp_path: Path) -> None:
    lab = Laboratory(TokenWorld(symbols=3, maximum_tokens=2, prompts=3, reward_scale=2.0), tmp_path)
    figures = judge_exactly(lab, lab.run(lab.from_pairs("reward", lab.pairs(16_000, 0), rate=5e-3, epochs=2)))
    assert figures["decorrelation"] < 0.05, (
        figures
    )  # Pearson above 0.95 for every prompt, over the responses that occur
    assert figures["excess_error"] < 0.02, figures
    assert figures["calibration_error"] < 0.04, figures


def test_circles_of_a_preference_that_no_score_has() -> None:
    """Each of a, b, c beats the next with more than 0.6, also at one of two places; scores, whatever they are, make no circle."""
    world = TokenWorld(symbols=3, maximum_tokens=2, prompts=3)
    found = circles(cyclic_preferences(world)[None], 0.6)[0]
    names = {tuple(world.texts[index] for index in triple) for triple in found.nonzero().tolist()}
    assert {("a", "b", "c"), ("b", "c", "a"), ("a a", "a b", "a c"), ("c b", "a b", "b b")} <= names
    assert ("a", "c", "b") not in names and not any("" in triple for triple in names)
    scores = torch.randn(2, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert not circles(by_scores(scores), 0.5).any()


def test_a_recipe_file_can_name_the_world(lab: Laboratory, tmp_path: Path) -> None:
    """The same through YAML, plug-in and diagnostic."""
    world = "symbols: 4, maximum_tokens: 3, prompts: 3"
    recipe = tmp_path / "world.yaml"
    recipe.write_text(
        f"""
plugins: [fairlead.worlds]
stages:
  online:
    model: {lab.reference}
    prompts: {lab.prompts}
    rewards: {{exact: {{part: token-world, {world}}}}}
    diagnostics: {{gap: {{part: token-world, reference: {lab.reference}, beta: {BETA}, world: {{{world}}}}}}}
    rollout: {{part: sample, n: 2, sampling: {{maximum_tokens: 3}}}}
    credit: rloo
    batch_size: 6
    steps: 2
""",
        encoding="utf-8",
    )
    execute(load_recipe(str(recipe)), tmp_path / "run", quiet=True)
    rows = read_json_lines(tmp_path / "run" / "metrics.jsonl")
    assert 0.9 < rows[0]["diagnostic/gap/relative_gap"] < 1.1
    assert rows[0]["diagnostic/gap/total_variation"] > 0.5
