"""The token world itself: its language, its exact distributions and optima."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from scipy.special import chdtrc

from fairlead import functional
from fairlead.batch import Experience, Prompts, row_table
from fairlead.evidence import Laboratory
from fairlead.generation import Sampling
from fairlead.regularisers import KL
from fairlead.rollouts import SampleRollout
from fairlead.runtime import ModelGroup
from fairlead.worlds import TokenWorld, TokenWorldReward, exact_figures


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    # Weights spread so widely that filters cut something.
    return Laboratory(TokenWorld(4, 3, 3), tmp_path_factory.mktemp("lab"), spread=0.3)


@pytest.fixture(scope="module")
def policy(lab: Laboratory) -> ModelGroup:
    return lab.open(lab.reference)


def prompts(world: TokenWorld, copies: int) -> Prompts:
    rows = [{"prompt": prompt} for prompt in world.prompts for _ in range(copies)]
    ids = torch.tensor([world.prompt_ids(row["prompt"]) for row in rows])
    return Prompts(
        prompt_ids=ids,
        prompt_mask=torch.ones_like(ids, dtype=torch.bool),
        group=torch.arange(len(rows)),
        seed=torch.arange(len(rows)),
        rows=row_table(rows),
        batch_size=[len(rows)],
    )


def test_the_language_holds_every_response_once() -> None:
    world = TokenWorld(4, 4, 3)
    assert len(world.responses) == 1 + 4 + 16 + 64 + 256 == len(set(world.texts))
    assert world.texts[0] == "" and world.place["a b"] == world.responses.index((1, 2, 0))


def test_a_world_follows_from_its_seed() -> None:
    assert torch.equal(TokenWorld(seed=1).rewards, TokenWorld(seed=1).rewards)
    assert not torch.equal(TokenWorld(seed=1).rewards, TokenWorld(seed=2).rewards)
    assert float(TokenWorld(reward_scale=2.0).rewards.std()) == pytest.approx(2.0)


def test_only_the_beginning_may_bear_on_the_reward() -> None:
    world = TokenWorld(4, 4, 3, seed=1, early=2)
    same = [world.place[text] for text in ("a b", "a b c", "a b d a")]
    assert torch.equal(world.rewards[:, same], world.rewards[:, same[:1]].expand(-1, 3))
    assert not bool((world.rewards[:, world.place["a b"]] == world.rewards[:, world.place["a"]]).any())
    reward = TokenWorldReward.of(world)
    assert torch.equal(reward.world.rewards, world.rewards) and not torch.equal(
        TokenWorld(seed=1).rewards, world.rewards
    )


def test_levels_move_all_rewards_of_a_prompt_alike() -> None:
    world = TokenWorld(4, 3, 3, seed=1)
    plain, raised = TokenWorldReward.of(world)(world.batch), TokenWorldReward.of(world, levels=3.0)(world.batch)
    assert torch.equal(plain, world.rewards.flatten().float())
    difference = (raised - plain).reshape(3, -1)
    torch.testing.assert_close(difference, difference[:, :1].expand_as(difference))
    assert len(set(difference[:, 0].round(decimals=4).tolist())) == 3


@pytest.mark.parametrize("sizes", [(4, 4, 5), (1, 3, 1), (13, 3, 2), (4, 7, 3), (4, 0, 3)])
def test_impossible_worlds_are_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="got"):
        TokenWorld(*sizes)


def test_probabilities_sum_to_one(lab: Laboratory) -> None:
    for log_distribution in (lab.log_reference, lab.world.optimum(lab.log_reference, 0.3)):
        assert torch.allclose(log_distribution.exp().sum(-1), torch.ones(3, dtype=torch.float64), atol=1e-5)


def test_the_tree_gives_back_the_responses(lab: Laboratory, policy: ModelGroup) -> None:
    table = lab.world.conditionals(policy)
    assert torch.allclose(table.exp().sum(-1), torch.ones(table.shape[:2], dtype=torch.float64), atol=1e-5)
    assert torch.allclose(lab.world.from_conditionals(table), lab.log_reference, atol=1e-5)


def _filtered(p: list[float], sampling: Sampling) -> list[float]:
    """Temperature, top-k, top-p, min-p of one distribution, written again in the plainest way."""
    p = [x ** (1 / sampling.temperature) for x in p]
    p = [x / sum(p) for x in p]
    order = sorted(range(len(p)), key=lambda i: -p[i])
    keep = set(order[: sampling.top_k or len(p)])
    total = sum(p[i] for i in keep)
    p = [x / total if i in keep else 0.0 for i, x in enumerate(p)]
    before, kept = 0.0, set()
    for i in order:
        if before < sampling.top_p and p[i] > 0:
            kept.add(i)
        before += p[i]
    p = [x if i in kept and x >= sampling.min_p * max(p) else 0.0 for i, x in enumerate(p)]
    return [x / sum(p) for x in p]


_SAMPLINGS = [
    Sampling(maximum_tokens=3),
    Sampling(maximum_tokens=3, temperature=0.6),
    Sampling(maximum_tokens=3, temperature=1.7),
    Sampling(maximum_tokens=3, top_k=3),
    Sampling(maximum_tokens=3, top_p=0.8),
    Sampling(maximum_tokens=3, min_p=0.3),
    Sampling(maximum_tokens=3, temperature=1.3, top_k=4, top_p=0.9, min_p=0.1),
]


@pytest.mark.parametrize("sampling", _SAMPLINGS, ids=lambda s: json.dumps(s.model_dump(exclude_defaults=True)))
def test_samples_have_the_exact_frequencies(lab: Laboratory, policy: ModelGroup, sampling: Sampling) -> None:
    world, copies = lab.world, 1000
    plain = world.conditionals(policy).exp()
    cut = torch.tensor([[_filtered(node, sampling) for node in nodes] for nodes in plain.tolist()], dtype=torch.float64)
    exact = world.from_conditionals(cut.log()).exp()
    assert torch.allclose(exact, world.sampling_distribution(policy, sampling).exp(), atol=1e-5)
    samples = policy.generate(prompts(world, copies), sampling)
    drawn = torch.tensor([world.place[row["response"]] for row in samples.rows]).reshape(3, copies)
    statistic, freedom = 0.0, 0
    for x in range(3):
        observed = torch.bincount(drawn[x], minlength=len(world.responses)).double()
        assert not bool(((exact[x] == 0) & (observed > 0)).any()), "a response that the filter forbids"
        expected = exact[x] * copies
        rare = expected < 5  # pooled: their chi-square terms would not follow the law
        cells = [*zip(observed[~rare], expected[~rare], strict=True)]
        if float(expected[rare].sum()) > 1:
            cells.append((observed[rare].sum(), expected[rare].sum()))
        statistic += sum(float((o - e) ** 2 / e) for o, e in cells)
        freedom += len(cells) - 1
    assert chdtrc(freedom, statistic) > 1e-3


def test_sampled_kl_agrees_with_the_exact_kl(tmp_path: Path) -> None:
    """k1 and k3, summed over tokens as the regulariser logs them, are unbiased for the KL of whole responses.

    The two policies are near each other: k3 of far ones has so heavy a tail that a sample's own spread says little.
    """
    lab = Laboratory(TokenWorld(4, 3, 3), tmp_path, spread=0.1)
    policy = lab.open(lab.reference)
    other = lab.open(TokenWorld(4, 3, 3, seed=7).save_model(tmp_path / "other", spread=0.1))
    exact = float(lab.world.divergence(lab.log_reference, lab.world.log_distribution(other)).mean())
    experience = Experience.from_samples(SampleRollout(n=1, sampling=_SAMPLINGS[0])(policy, prompts(lab.world, 1000)))
    experience = experience.replace(
        logprobs=policy.token_logprobs(experience), reference_logprobs=other.token_logprobs(experience)
    )
    metrics = KL(coefficient=0.1).observe(experience)
    for estimator in ("k1", "k3"):
        estimates = functional.kl_estimate(experience.logprobs, experience.reference_logprobs, estimator)
        # The same number of samples of each prompt: only the spread within a prompt is noise.
        rows = functional.masked_sum(estimates, experience.mask, dim=1).reshape(3, -1)
        error = math.sqrt(float(rows.var(1).mean()) / rows.numel())
        assert error < 0.2 * exact
        assert abs(metrics[f"kl/{estimator}"] - exact) < 3 * error, (estimator, error, exact)


def test_the_optimum_cannot_be_bettered(lab: Laboratory) -> None:
    world, beta = lab.world, 0.3
    optimum = world.optimum(lab.log_reference, beta)
    best = world.objective(optimum, lab.log_reference, beta)
    partition = (lab.log_reference + world.rewards / beta).logsumexp(-1)
    assert best == pytest.approx(float(beta * partition.mean()), abs=1e-9)
    for seed in range(5):
        noise = torch.randn(optimum.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        worse = torch.log_softmax(optimum + 0.05 * noise, -1)
        assert world.objective(worse, lab.log_reference, beta) < best


def test_figures_are_zero_at_the_optimum_and_one_at_the_start(lab: Laboratory) -> None:
    optimum = lab.world.optimum(lab.log_reference, 0.3)
    at_optimum = exact_figures(lab.world, optimum, lab.log_reference, 0.3)
    at_start = exact_figures(lab.world, lab.log_reference, lab.log_reference, 0.3)
    assert at_optimum["total_variation"] == at_optimum["gap"] == at_optimum["relative_gap"] == 0
    assert at_start["relative_gap"] == 1 and at_start["kl"] == 0 and at_start["total_variation"] > 0.3


def test_for_one_token_the_kl_of_each_token_is_the_whole_kl(tmp_path: Path) -> None:
    lab = Laboratory(TokenWorld(6, 1, 3), tmp_path)
    greedy = lab.world.greedy_kl_optimum(lab.world.conditionals(lab.open(lab.reference)), 0.3)
    assert torch.allclose(greedy, lab.world.optimum(lab.log_reference, 0.3), atol=1e-4)


def test_for_several_tokens_it_is_not(lab: Laboratory, policy: ModelGroup) -> None:
    greedy = lab.world.greedy_kl_optimum(lab.world.conditionals(policy), 0.3)
    assert torch.allclose(greedy.exp().sum(-1), torch.ones(3, dtype=torch.float64))
    assert lab.world.total_variation(greedy, lab.world.optimum(lab.log_reference, 0.3)) > 0.05


def test_the_scaled_optimum_is_a_fixed_point(lab: Laboratory) -> None:
    world, beta = lab.world, 1.5
    scaled = world.scaled_optimum(lambda weight: world.optimum(lab.log_reference, weight), beta)
    again = world.optimum(lab.log_reference, beta * world.reward_deviation(scaled))
    assert world.total_variation(scaled, again) < 1e-6


def test_the_reward_part_says_what_the_world_says(lab: Laboratory) -> None:
    part = TokenWorldReward.of(lab.world)
    assert torch.allclose(part(lab.world.batch).double().reshape(3, -1), lab.world.rewards, atol=1e-6)
    with pytest.raises(KeyError):
        lab.world.reward("a b", "a b c d")


def test_pairs_follow_their_law(lab: Laboratory) -> None:
    rows = [json.loads(line) for line in lab.pairs(4000, 0).read_text().splitlines()]
    world = lab.world
    assert all(row["chosen"] and row["rejected"] and row["chosen"] != row["rejected"] for row in rows)
    right = sum(world.reward(r["prompt"], r["chosen"]) > world.reward(r["prompt"], r["rejected"]) for r in rows) / len(
        rows
    )
    best = world.best_accuracy(lab.log_reference)
    assert abs(right - best) < 3.5 * math.sqrt(best * (1 - best) / len(rows))
    often, _ = world.pair_probabilities(lab.log_reference)
    assert float(often.sum()) == pytest.approx(1)


def test_pairs_of_a_preference_without_scores(tmp_path: Path) -> None:
    """In two thirds of all pairs of a and b the table's winner is chosen, whatever the rewards say."""
    world = TokenWorld(symbols=2, maximum_tokens=1, prompts=1)
    even = torch.full(world.rewards.shape, 1.0, dtype=torch.float64).log_softmax(-1)
    preference = torch.full((3, 3), 0.5, dtype=torch.float64)
    a, b = world.place["a"], world.place["b"]
    preference[a, b], preference[b, a] = 2 / 3, 1 / 3
    path = world.save_pairs(tmp_path / "pairs.jsonl", even, 3_000, 0, preference)
    chosen = [json.loads(line)["chosen"] for line in path.read_text().splitlines()]
    assert chosen.count("a") / len(chosen) == pytest.approx(2 / 3, abs=0.03)
