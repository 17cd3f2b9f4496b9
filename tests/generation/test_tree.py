"""Trees: the rules by hand, and what the engine makes of them against plain forward passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from fairlead.batch import Prompts, Samples, take
from fairlead.generation import Sampling, Tree, TreeSampling, engine, generate
from fairlead.generation.tree import Forest
from generation.test_engine import NO_END, TOLERANCE, Codec, assert_same, make_prompts, plain_logprobs
from tiny_models import FAMILIES, tiny_model

BUSHY = {"least_probability": 0.0, "largest_gap": 1.0, "lookahead": [3]}
"""Every branch branches at every token while there are places."""
OPEN = torch.tensor([0.5, 0.45, 0.05])
"""Probabilities of the next token that branch with 0.25 and 0.15."""
SURE = torch.tensor([0.9, 0.06, 0.04])


@pytest.fixture(scope="module")
def llama() -> Any:
    return tiny_model("llama")


def one_tree(width: int, maximum: int = 100, **settings: Any) -> tuple[Forest, torch.Tensor]:
    """A tree of so many places, and the place of its first branch."""
    zeros = torch.zeros(width, dtype=torch.int64)
    forest = Forest(Tree(**settings), zeros, torch.arange(width), maximum, torch.eye(10))
    return forest, forest.plant(torch.arange(width))


def living(places: torch.Tensor) -> torch.Tensor:
    return torch.ones(len(places), dtype=torch.bool)


# -- the rules by hand ---------------------------------------------------------------------------------------------------


def test_thresholds_are_strict() -> None:
    for probabilities, settings, branches in (
        ([0.5, 0.45, 0.05], {}, True),
        ([0.5, 0.25, 0.25], {"largest_gap": 1.0}, False),  # no more than the least probability
        ([0.5, 0.25, 0.25], {"least_probability": 0.2, "largest_gap": 0.25}, False),  # no less than the largest gap
        ([0.5, 0.375, 0.125], {"least_probability": 0.3, "largest_gap": 0.126}, True),
        ([0.5, 0.45, 0.05], {"candidates": 1}, False),
    ):
        forest, places = one_tree(4, **settings)
        growth = forest.branch(places, living(places), torch.tensor([probabilities]), 0)
        assert bool(growth.children.numel()) == branches, (probabilities, settings)
        if branches:
            assert growth.tokens.tolist() == [1] and growth.children.tolist() == [1]
            assert growth.forced.tolist() == [True] and growth.likeliest.tolist() == [0]


@pytest.mark.parametrize(("probabilities", "branches"), [([0.8, 0.1, 0.1], True), ([0.9, 0.1, 0.0], False)])
def test_a_tree_may_branch_by_entropy_in_place_of_both_thresholds(probabilities: list[float], branches: bool) -> None:
    """Entropies 0.639 and 0.325 nats; neither passes the thresholds."""
    forest, places = one_tree(4, least_entropy=0.5)
    growth = forest.branch(places, living(places), torch.tensor([probabilities]), 0)
    assert growth.tokens.tolist() == ([1] if branches else [])
    with pytest.raises(ValidationError, match="two rules of branching"):
        Tree(least_entropy=0.5, random_branching=0.1)


def test_a_token_that_cannot_be_does_not_branch() -> None:
    forest, places = one_tree(4, least_entropy=0.5, candidates=3)
    growth = forest.branch(places, living(places), torch.tensor([[0.5, 0.5, 0.0]]), 0)
    assert growth.tokens.tolist() == [1]


def test_second_candidates_wait_for_the_first_ones_and_the_oldest_is_served() -> None:
    """Four places; A, B and C want 2, 1 and 2 tokens: A1, B1, C1 and A2 are kept, C2 is suppressed."""
    forest, places = one_tree(4)
    for step in range(2):
        growth = forest.branch(places, living(places), torch.stack([OPEN, SURE][: step + 1]), step)
        places = torch.cat([places, growth.children])
    assert places.tolist() == [0, 1, 2] and forest.parent.tolist()[:3] == [0, 0, 0]
    growth = forest.branch(places, living(places), torch.stack([OPEN, SURE, OPEN]), 2)
    assert growth.parents.tolist() == [0] and growth.children.tolist() == [3] and growth.tokens.tolist() == [1]
    assert forest.counts["suppressed"].tolist() == [1.0] and forest.counts["branched"].tolist() == [3.0]
    assert forest.counts["tokens"].tolist() == [2.0 + 3.0 + 4.0]


def test_third_candidates_come_behind_all_second_ones() -> None:
    forest, places = one_tree(4, candidates=3, least_probability=0.1, largest_gap=0.5)
    growth = forest.branch(places, living(places), torch.tensor([[0.5, 0.4, 0.1]]), 0)
    places = torch.cat([places, growth.children])
    third = torch.tensor([[0.4, 0.35, 0.25]] * 2)
    growth = forest.branch(places, living(places), third, 1)
    assert growth.parents.tolist() == [0, 1] and growth.tokens.tolist() == [1, 1]
    assert forest.counts["suppressed"].tolist() == [2.0]


def written(*rows: list[int]) -> torch.Tensor:
    return torch.tensor(rows)


@pytest.mark.parametrize(
    ("settings", "removed"),
    [
        ({"edit": 0.4}, [True, False, False]),
        ({"edit": 0.41}, [True, False, True]),
        ({"edit": None, "suffix": 0.5}, [True, False, True]),
        ({"edit": None, "rouge": 0.3}, [True, True, True]),
        ({"edit": None, "rouge": 0.4}, [True, False, True]),
        ({"edit": None, "embedding": 0.5}, [True, False, True]),  # 4, 2 and 4 of 5 tokens in common
        ({"edit": None, "embedding": 0.3}, [True, True, True]),
        ({"edit": None}, [False, False, False]),
        ({"edit": None, "random_pruning": 1.0}, [True, True, True]),
    ],
)
def test_a_branch_that_writes_what_its_parent_writes_is_cut_off(settings: Any, removed: list[bool]) -> None:
    forest, places = one_tree(4, lookahead=[5], **settings)
    forest.used[:] = True
    forest.parent[:] = 0
    places = torch.arange(4)
    tokens = written([1, 2, 3, 4, 5], [9, 2, 3, 4, 5], [9, 8, 3, 7, 5], [2, 3, 4, 5, 6])
    assert forest.prune(places, living(places), tokens, 3).tolist() == [False] * 4  # not yet of that age
    assert forest.prune(places, living(places), tokens, 4).tolist() == [False, *removed]
    assert forest.counts["compared"].tolist() == [3.0] and forest.counts["removed"].tolist() == [float(sum(removed))]
    assert forest.used.tolist() == [True, *(not x for x in removed)]


def test_descendants_go_with_their_ancestor_and_ended_branches_are_not_compared() -> None:
    forest, _ = one_tree(5, lookahead=[2])
    forest.used[:] = True
    forest.parent[:] = torch.tensor([0, 0, 1, 2, 0])
    forest.birth[:] = torch.tensor([0, 2, 3, 3, 2])
    places, tokens = torch.arange(5), torch.zeros(5, 4, dtype=torch.int64)
    alive = torch.tensor(
        [True, True, False, True, False]
    )  # the fourth and its kin hang on the first child; two have ended
    assert forest.prune(places, alive, tokens, 3).tolist() == [False, True, True, True, False]
    assert forest.counts["compared"].tolist() == [1.0]


def test_when_a_tree_ends() -> None:
    forest, places = one_tree(4, maximum=100, lookahead=[2, 5])
    assert not forest.stop(places, living(places), 10).any()  # one branch of four
    forest.used[:] = True
    forest.birth[:] = torch.tensor([0, 3, 6, 6])
    places = torch.arange(4)
    assert not forest.stop(places, living(places), 10).any() and bool(forest.growing)  # 11 - 6 is not more than 5
    assert not forest.stop(places, living(places), 11).any() and not bool(forest.growing)
    assert forest.counts["steps"].tolist() == [12.0]


def test_a_tree_that_ends_with_free_places() -> None:
    for case in ("longest", "all ended", "fewer are enough"):
        settings = {"longest": 3} if case == "longest" else {"lookahead": [1], "decay": 0.5}
        forest, places = one_tree(4, maximum=100, **settings)
        forest.used[:3] = True
        alive = torch.full((1,), case != "all ended")
        step = {"longest": 2, "all ended": 1, "fewer are enough": 50}[case]  # round(4 · (0.98 − 0.5 · 0.5)) = 3
        assert forest.stop(places, alive, step).tolist() == [False, False, False, True], case
        assert forest.counts["empty"].tolist() == [1.0]


# -- what the engine makes of it -----------------------------------------------------------------------------------------


class Recorded(Forest):
    """A forest that remembers the last one made, and checks its places at every step."""

    last: Recorded

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        Recorded.last = self

    def stop(self, places: torch.Tensor, alive: torch.Tensor, step: int) -> torch.Tensor:
        running = places[alive]
        assert len(running) == len(set(running.tolist())) and bool(self.used[running].all())
        assert bool(self.used[self.first[self.growing]].all())  # first branches stay
        assert (torch.bincount(self.root[self.used], minlength=len(self.width)) <= self.width).all()
        self.branches = self.used.clone()
        return super().stop(places, alive, step)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_row_of_the_cache_is_that_of_its_sequence(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log-probabilities of the branches, across births, cuts, ends and windows, equal those of plain forward passes."""
    monkeypatch.setattr(engine, "Forest", Recorded)
    model = tiny_model(family)
    tree = BUSHY | {"random_pruning": 0.5, "longest": 20}
    samples = generate(
        model,
        Codec(tuple(range(2, 18))),
        make_prompts([3, 11, 20], copies=6),
        TreeSampling(maximum_tokens=26, tree=tree),
    )
    assert samples.extras["removed"].sum() > 0 and samples.extras["branched"].sum() > 0
    for row in range(len(samples)):
        tokens = samples.tokens[row][samples.mask[row]]
        plain = plain_logprobs(model, samples, row).gather(1, tokens[:, None]).squeeze(1)
        torch.testing.assert_close(samples.logprobs[row, : len(tokens)], plain, **TOLERANCE)
    torch.testing.assert_close(samples.logprobs, samples.sampling_logprobs)  # as if they had been drawn


def test_a_child_shares_its_parents_beginning_and_differs_where_it_was_born(
    llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "Forest", Recorded)
    tree = BUSHY | {"edit": None, "longest": 12}
    samples = generate(llama, NO_END, make_prompts([4, 9], copies=6), TreeSampling(maximum_tokens=12, tree=tree))
    forest = Recorded.last
    assert forest.branches.all()
    for place in range(12):
        parent, birth = int(forest.parent[place]), int(forest.birth[place])
        assert forest.root[parent] == forest.root[place]
        if parent != place:
            assert torch.equal(samples.tokens[place, :birth], samples.tokens[parent, :birth])
            assert samples.tokens[place, birth] != samples.tokens[parent, birth]


@pytest.mark.parametrize("settings", [{"least_probability": 1.0}, {"largest_gap": 0.0}, {"candidates": 1}])
def test_a_tree_that_never_branches_is_greedy_and_then_sampled(llama: Any, settings: dict[str, Any]) -> None:
    prompts = make_prompts([5, 8], copies=4)
    tree = BUSHY | {"longest": 6} | settings
    samples = generate(llama, NO_END, prompts, TreeSampling(maximum_tokens=12, tree=tree))
    greedy = generate(llama, NO_END, take(prompts, [0, 4]), Sampling(maximum_tokens=6, temperature=0))
    assert torch.equal(samples.tokens[:, :6], greedy.tokens.repeat_interleave(4, 0))
    assert len({tuple(row) for row in samples.tokens[:4, 6:].tolist()}) == 4
    assert samples.extras["empty"].tolist() == [3.0] * 8 and samples.extras["steps"].tolist() == [6.0] * 8


def test_places_that_stay_free_may_be_filled_with_independent_samples(llama: Any) -> None:
    prompts = make_prompts([5, 8], copies=4)
    tree = BUSHY | {"candidates": 1, "longest": 6, "fill": "fresh"}
    samples = generate(llama, NO_END, prompts, TreeSampling(maximum_tokens=12, tree=tree))
    alone = generate(llama, NO_END, prompts, Sampling(maximum_tokens=12))
    fresh = [1, 2, 3, 5, 6, 7]
    assert torch.equal(samples.tokens[fresh], alone.tokens[fresh])
    assert [samples.rows[i]["response"] for i in fresh] == [alone.rows[i]["response"] for i in fresh]


def test_a_tree_is_the_same_alone_and_among_others(llama: Any) -> None:
    prompts = make_prompts([5, 8, 20, 8], copies=4)
    sampling = TreeSampling(maximum_tokens=14, tree=BUSHY | {"edit": 0.7, "sample": "full", "longest": 9})
    codec = Codec(tuple(range(2, 10)))
    whole = generate(llama, codec, prompts, sampling)
    assert_same(whole, generate(llama, codec, prompts, sampling, token_budget=1))
    assert_same(whole, generate(llama, codec, prompts, sampling, fast=False))
    for first in range(0, 16, 4):
        rows = list(range(first, first + 4))
        assert_same(take(whole, rows), generate(llama, codec, take(prompts, rows), sampling))


def grown(llama: Any, seed: int, copies: int = 3, maximum_tokens: int = 8, **tree: Any) -> Samples:
    prompts: Prompts = make_prompts([6], copies=copies)
    sampling = TreeSampling(maximum_tokens=maximum_tokens, tree=BUSHY | {"lookahead": [8]} | tree)
    return generate(llama, NO_END, prompts.replace(seed=prompts.seed + seed), sampling)


def test_without_drawing_a_tree_does_not_depend_on_seeds(llama: Any) -> None:
    assert torch.equal(grown(llama, 0).tokens, grown(llama, 1000).tokens)
    assert torch.equal(grown(llama, 0).tokens, grown(llama, 0).tokens)


def test_what_is_drawn_while_a_tree_grows(llama: Any) -> None:
    """`full` draws once all three places are taken, at the second token; `always` wherever a branch does not branch."""
    by_mode = {mode: [grown(llama, seed, sample=mode) for seed in (0, 1000)] for mode in ("none", "full", "always")}
    assert torch.equal(by_mode["none"][0].tokens[:, 0], by_mode["full"][0].tokens[:, 0])
    assert not torch.equal(by_mode["full"][0].tokens, by_mode["full"][1].tokens)
    sure = {mode: [grown(llama, s, candidates=1, sample=mode) for s in (0, 1000)] for mode in ("full", "always")}
    assert torch.equal(sure["full"][0].tokens, sure["full"][1].tokens)  # never full
    assert not torch.equal(sure["always"][0].tokens, sure["always"][1].tokens)


def test_random_branching(llama: Any) -> None:
    assert grown(llama, 0, random_branching=0.0).extras["branched"][0] == 0
    assert grown(llama, 0, random_branching=1.0, least_probability=1.0).extras["branched"][0] == 2
    births = {grown(llama, seed, random_branching=0.3).extras["tokens"][0].item() for seed in range(0, 5000, 1000)}
    assert len(births) > 1


def test_ends_within_the_tree_and_the_watcher(llama: Any) -> None:
    """Every row is told once, whatever became of its place, and nothing is written behind an end."""
    prompts = make_prompts([5, 8, 3], copies=5)
    told: list[dict[str, Any]] = []
    codec = Codec(tuple(range(2, 60)))
    sampling = TreeSampling(maximum_tokens=16, tree=BUSHY | {"random_pruning": 0.5, "longest": 10}, minimum_tokens=2)
    samples = generate(llama, codec, prompts, sampling, finished=told.append)
    assert sorted(row["line"] for row in told) == list(range(15))
    assert sorted(told, key=lambda row: row["line"]) == list(samples.rows)
    lengths = samples.mask.sum(1)
    assert lengths.min() > 2 and not samples.truncated.all()
    ends = torch.isin(samples.tokens, torch.tensor(codec.end_ids)) & samples.mask
    for row in range(15):
        places = ends[row, 2:].nonzero().squeeze(1).tolist()
        assert samples.truncated[row] == (not places) and (not places or places == [int(lengths[row]) - 3])


def test_filters_do_not_hide_what_the_tree_took(llama: Any) -> None:
    samples = generate(
        llama, NO_END, make_prompts([6], copies=4), TreeSampling(maximum_tokens=6, temperature=0.5, top_k=1, tree=BUSHY)
    )
    assert samples.sampling_logprobs.isfinite().all() and samples.extras["branched"][0] == 3


def test_refuses() -> None:
    with pytest.raises(ValidationError, match="lookahead"):
        Tree(lookahead=[])
