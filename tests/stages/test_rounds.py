"""Preference learning in rounds: what is sampled, paired and learned, and that an interruption changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from fairlead.batch import Experience, Pairs, Samples
from fairlead.data import DataError
from fairlead.recipes.execute import resume
from fairlead.rewards import Oracle, Reward, WinRate
from fairlead.runs import Interrupted, Run, RunError
from fairlead.selection import BestWorst, RandomPair
from fairlead.worlds import CyclicOracle, CyclicScore, TokenWorld, cyclic_preferences
from tiny_runs import assert_resumes_the_same, exported, logged, run_stages, write_records

WORLD = TokenWorld(symbols=3, maximum_tokens=2)


class Constant(Reward, name="constant-for-rounds"):
    """The same score for everything."""

    def __call__(self, samples: Samples) -> torch.Tensor:
        return torch.ones(len(samples))


class Biased(Oracle, name="first-slot-for-rounds"):
    """Prefers whatever it is shown first, and a longer response a little."""

    def prefers(self, samples: Samples, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        lengths = samples.mask.sum(1)
        return torch.where(lengths[first] > lengths[second], 0.9, 0.7)


def stage(shelf: Path, **fields: Any) -> dict[str, Any]:
    symbols = {"symbols": 4, "maximum_tokens": 4, "prompts": 3}
    return {
        "part": "preference-rounds",
        "model": str(shelf / "world"),
        "prompts": str(shelf / "world.jsonl"),
        "rewards": {"true": {"part": "token-world", **symbols}},
        "rollout": {"part": "sample", "n": 4, "sampling": {"maximum_tokens": 4}},
        "rounds": 3,
        "prompts_per_round": 24,
        "batch_size": 8,
        "epochs": 2,
        "optimiser": {"learning_rate": 5e-3},
    } | fields


@pytest.mark.parametrize("objective", ["dpo", {"part": "inpo", "eta": 0.5, "tau": 0.1}])
def test_rounds_raise_the_reward(shelf: Path, tmp_path: Path, objective: Any) -> None:
    run = run_stages(tmp_path / "run", {"learn": stage(shelf, objective=objective)})
    rows = logged(run.directory, "learn")
    starts = [row for row in rows if "score" in row]
    assert [row["step"] for row in starts] == [1, 7, 13] and len(rows) == 18
    assert [row["round"] for row in starts] == [1, 2, 3]
    # The first round is sampled from the reference itself, later ones from what was learned.
    assert starts[0]["kl/k1"] == pytest.approx(0, abs=1e-5)
    assert starts[2]["score"] > starts[0]["score"] + 0.5 and starts[2]["kl/k1"] > 0.1
    assert all(row["best_score"] >= row["score"] for row in starts)
    assert all(row["pairs"] + row["dropped_prompts"] == 24 for row in starts)


@pytest.mark.parametrize("anchor", ["first", "previous"])
def test_what_the_first_step_of_a_round_is_compared_with(shelf: Path, tmp_path: Path, anchor: str) -> None:
    """Beside the policy itself every log-ratio is 0 and DPO's loss log 2; beside the first policy only in the first round."""
    run = run_stages(tmp_path / "run", {"learn": stage(shelf, anchor=anchor)})
    losses = [row["policy/loss"] for row in logged(run.directory, "learn") if "score" in row]
    log_two = float(torch.tensor(2.0).log())
    assert losses[0] == pytest.approx(log_two, abs=1e-5)
    if anchor == "previous":
        assert losses[1:] == pytest.approx([log_two] * 2, abs=1e-5)
    else:
        assert all(abs(loss - log_two) > 1e-3 for loss in losses[1:])


def test_rounds_with_an_older_policy_beside(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It moves on at the end of a round: in the second it is the policy as it began, in the third that of the first round."""
    limit = {"maximum_tokens": 4}
    samplers = [
        {"n": 2, "sampling": limit},
        {"n": 2, "sampling": limit, "who": {"part": "past", "every": 1, "most": 1}},
        {"n": 1, "sampling": limit | {"temperature": 1.5}},
    ]
    learn = stage(shelf, rollout={"part": "several-samplers", "samplers": samplers})
    assert_resumes_the_same(tmp_path, monkeypatch, {"learn": learn}, stopped_after=8)
    starts = [row for row in logged(tmp_path / "whole", "learn") if "score" in row]
    assert starts[2]["score"] > starts[0]["score"] + 0.3


REBEL: dict[str, Any] = {
    "objective": {"part": "rebel", "eta": 2.0},
    "pairing": {"part": "random-pair", "ties": True},
    "rollout": {"part": "sample", "n": 2, "sampling": {"maximum_tokens": 4, "temperature": 0.8}},
}


def test_rebel_begins_at_the_squared_difference_of_rewards(shelf: Path, tmp_path: Path) -> None:
    """At the sampling policy every log-ratio is 0, at the temperature of sampling too: the loss is η² (r − r')², the mean over pairs."""
    run = run_stages(tmp_path / "run", {"learn": stage(shelf, **REBEL, batch_size=24)})
    starts = [row for row in logged(run.directory, "learn") if "score" in row]
    for row in starts:
        assert row["policy/statistic"] == pytest.approx(0, abs=1e-5)
        assert row["policy/loss"] >= row["policy/target"] ** 2 > 0
    assert starts[-1]["score"] > starts[0]["score"]


def test_the_regulariser_of_rounds_is_taken_from_the_score(shelf: Path, tmp_path: Path) -> None:
    """In the first round the policy is the reference; later what has moved away costs something."""
    free = run_stages(tmp_path / "free", {"learn": stage(shelf, **REBEL, monitors={"same": "constant-for-rounds"})})
    held = run_stages(
        tmp_path / "held", {"learn": stage(shelf, **REBEL, regulariser={"part": "kl", "coefficient": 1.0})}
    )
    ends = [[row for row in logged(run.directory, "learn") if "score" in row] for run in (free, held)]
    assert ends[0][0]["score"] == pytest.approx(ends[1][0]["score"], abs=1e-4)
    assert ends[1][-1]["kl/k1"] < ends[0][-1]["kl/k1"] and ends[1][-1]["kl/coefficient"] == 1.0
    assert ends[1][-1]["score"] < ends[1][-1]["channel/true"] - 0.5 * ends[1][-1]["kl/k1"]


def test_selection_says_what_may_be_paired(shelf: Path, tmp_path: Path) -> None:
    run = run_stages(tmp_path / "run", {"learn": stage(shelf, selection=["drop-truncated"])})
    start = logged(run.directory, "learn")[0]
    assert start["truncated"] > 0 and start["counted_rows"] == pytest.approx(1 - start["truncated"])


def test_an_interrupted_round_goes_on_with_its_pairs(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = {"learn": stage(shelf, objective={"part": "inpo", "eta": 0.5, "tau": 0.1})}
    whole = run_stages(tmp_path / "whole", stages)
    original = Run.stage

    def stopping(run: Run, identifier: str, part: str) -> Any:
        context = original(run, identifier, part)
        log = context.log

        def stop(step: int, *rest: Any) -> None:
            log(step, *rest)
            run.stopping = step == 9  # within the second round

        monkeypatch.setattr(context, "log", stop)
        return context

    monkeypatch.setattr(Run, "stage", stopping)
    with pytest.raises(Interrupted):
        run_stages(tmp_path / "halved", stages)
    monkeypatch.undo()
    resume(tmp_path / "halved", quiet=True)
    assert logged(tmp_path / "halved", "learn") == logged(whole.directory, "learn")
    ours, theirs = exported(tmp_path / "halved", "learn"), exported(whole.directory, "learn")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_no_pair_in_the_first_round_is_an_error_and_says_what_to_do(shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"round 1: no pair is left of 24 prompts.*raise rollout\.n"):
        run_stages(tmp_path / "run", {"learn": stage(shelf, rewards={"same": "constant-for-rounds"})})


def test_a_later_round_without_pairs_passes(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = BestWorst.__call__, []

    def once(self: BestWorst, experience: Experience, generator: torch.Generator) -> Any:
        calls.append(1)
        found = original(self, experience, generator)
        return found if len(calls) != 2 else (found[0][:0], found[1][:0])

    monkeypatch.setattr(BestWorst, "__call__", once)
    run = run_stages(tmp_path / "run", {"learn": stage(shelf)})
    rows = logged(run.directory, "learn")
    assert [row["round"] for row in rows if "policy/loss" not in row] == [2] * 6
    assert rows[6]["pairs"] == 0 and rows[6]["dropped_prompts"] == 24


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rollout": {"part": "sample", "n": 1}}, "set rollout.n to 2 or more"),
        ({"rewards": {"true": {"part": "token-world", "weight": 0}}}, "every reward has weight 0"),
        ({"regulariser": {"part": "kl", "coefficient": 0.1, "place": "loss"}}, "set regulariser.place to reward"),
        ({"selection": ["policy-filtration"]}, "selection policy-filtration looks at advantages"),
        ({"objective": {"part": "inpo", "eta": 0.1, "tau": 0.2}}, r"tau \(0.2\) must not be above eta \(0.1\)"),
    ],
)
def test_mistakes(shelf: Path, tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        run_stages(tmp_path / "run", {"learn": stage(shelf, **fields)})


def test_inpo_needs_pairs_of_its_own_policy(shelf: Path, tmp_path: Path) -> None:
    stages = {"preference": {"model": str(shelf / "tiny"), "data": str(shelf / "pairs.jsonl"), "objective": "inpo"}}
    with pytest.raises(ValidationError, match="use the stage preference-rounds"):
        run_stages(tmp_path / "run", stages)


def test_a_prompt_that_leaves_no_room_is_left_out_before_the_first_step(shelf: Path, tmp_path: Path) -> None:
    """The context of this model is 32 tokens; a response takes 4 of them."""
    records = [{"prompt": "a b"}, {"prompt": "b c"}, {"prompt": " ".join("a" * 29)}]
    run = run_stages(tmp_path / "run", {"learn": stage(shelf, prompts=write_records(tmp_path / "p.jsonl", records))})
    starts = [row for row in logged(run.directory, "learn") if "score" in row]
    assert len(starts) == 3 and all(row["pairs"] > 0 for row in starts)
    with pytest.raises(DataError, match="a source has no prompt of at most 28 tokens"):
        alone = write_records(tmp_path / "long.jsonl", records[2:])
        run_stages(tmp_path / "other", {"learn": stage(shelf, prompts=alone)})


# -- pairing ------------------------------------------------------------------------------------------------------------


def experience(texts: list[str], scores: list[float]) -> Experience:
    rows = [WORLD.place[text] for text in texts]
    found = Experience.from_samples(WORLD.batch[torch.tensor(rows)])
    return found.replace(score=torch.tensor(scores), group=torch.zeros(len(texts), dtype=torch.int64))


def test_best_and_worst() -> None:
    batch = experience(["a", "b", "c", "a b"], [0.1, 0.9, 0.5, -1.0])
    assert [x.tolist() for x in BestWorst()(batch, torch.Generator())] == [[1], [3]]
    assert [x.tolist() for x in BestWorst(rejected="second")(batch, torch.Generator())] == [[1], [2]]
    seen = {int(BestWorst(rejected="random")(batch, torch.Generator().manual_seed(s))[1]) for s in range(40)}
    assert seen == {0, 2, 3}
    failed = batch.replace(weight=torch.tensor([1.0, 0.0, 1.0, 1.0]))
    assert [x.tolist() for x in BestWorst()(failed, torch.Generator())] == [[2], [3]]


def test_a_length_penalty_orders_by_what_is_left() -> None:
    """The raw score would choose the long one: tokens 3 against 2, penalty 0.5."""
    batch = experience(["a b", "c"], [1.0, 0.9])
    batch = batch.replace(mask=torch.tensor([[True, True], [True, False]]))
    assert [x.tolist() for x in BestWorst()(batch, torch.Generator())] == [[0], [1]]
    assert [x.tolist() for x in BestWorst(length_penalty=0.5)(batch, torch.Generator())] == [[1], [0]]


@pytest.mark.parametrize("pairing", [BestWorst(), RandomPair()])
def test_what_cannot_be_told_apart_is_no_pair(pairing: Any) -> None:
    for batch in (experience(["a", "b"], [1.0, 1.0]), experience(["a", "a"], [1.0, 0.0]), experience(["a"], [1.0])):
        assert [len(x) for x in pairing(batch, torch.Generator())] == [0, 0]


def test_ties_may_be_kept() -> None:
    batch = experience(["a", "b"], [1.0, 1.0])
    assert [len(x) for x in RandomPair(ties=True)(batch, torch.Generator())] == [1, 1]


def test_the_margin_of_a_pair_is_the_difference_of_its_scores() -> None:
    batch = experience(["a", "b"], [0.25, 1.0])
    pairs = Pairs.from_samples(batch, *RandomPair()(batch, torch.Generator()))
    assert pairs.margin.tolist() == [0.75]
    assert Pairs.from_samples(WORLD.batch, torch.tensor([1]), torch.tensor([2])).margin.tolist() == [0.0]


def test_ties_are_broken_by_chance() -> None:
    batch = experience(["a", "b", "c"], [1.0, 1.0, 0.0])
    assert {int(BestWorst()(batch, torch.Generator().manual_seed(s))[0]) for s in range(20)} == {0, 1}


def test_drawn_labels_have_the_oracles_probability() -> None:
    batch = experience(["a", "b"], [0.9, 0.1])
    won = [int(RandomPair(labels="sampled")(batch, torch.Generator().manual_seed(s))[0]) == 0 for s in range(600)]
    assert sum(won) / 600 == pytest.approx(0.9, abs=0.05)
    with pytest.raises(ValueError, match="use the reward win-rate alone"):
        RandomPair(labels="sampled")(experience(["a", "b"], [3.0, 0.0]), torch.Generator())


def test_pairs_keep_the_sampled_tokens() -> None:
    """A response that was cut has no end token, which making tokens of its text again would add."""
    cut, ended = WORLD.place["a b"], WORLD.place["c"]
    pairs = Pairs.from_samples(WORLD.batch, torch.tensor([cut]), torch.tensor([ended]))
    assert pairs.tokens.tolist() == [[[1, 2], [3, 0]]] and pairs.mask.all()
    assert pairs.rows[0]["chosen"] == "a b" and pairs.rows[0]["rejected"] == "c"


# -- preferences --------------------------------------------------------------------------------------------------------


def test_an_oracle_is_asked_in_both_orders() -> None:
    batch = WORLD.batch[torch.tensor([1, 2, 5])]
    one, other = torch.tensor([0, 2]), torch.tensor([2, 0])
    assert (Biased()(batch, one, other) + Biased()(batch, other, one)).tolist() == pytest.approx([1, 1])
    assert Biased()(batch, torch.tensor([0]), torch.tensor([1])).item() == pytest.approx(0.5)


def test_win_rate_is_the_mean_over_the_other_samples() -> None:
    texts = ["a", "b", "c"]
    batch = experience(texts, [0.0] * 3)
    samples = WORLD.batch[torch.tensor([WORLD.place[text] for text in texts])].replace(group=batch.group)
    # a beats b with 0.9 and c with 0.2; b beats a with 0.1 and c with 0.8; c beats a with 0.8 and b with 0.2.
    assert WinRate(oracle=CyclicOracle())(samples).tolist() == pytest.approx([0.55, 0.45, 0.5])
    with pytest.raises(ValueError, match=r"set rollout\.n to 2 or more"):
        WinRate(oracle=CyclicOracle())(samples.replace(group=torch.arange(3)))


def test_beside_an_opponent_samples_are_compared_with_it_alone() -> None:
    texts = ["a", "b", "c", "c"]
    batch = experience(texts, [0.0] * 4)
    samples = WORLD.batch[torch.tensor([WORLD.place[text] for text in texts])].replace(group=batch.group)
    samples = samples.replace(anchor=torch.tensor([False, False, True, True]))
    # a and b against c twice, c against a and b.
    assert WinRate(oracle=CyclicOracle())(samples).tolist() == pytest.approx([0.2, 0.8, 0.5, 0.5])
    assert WinRate(oracle=CyclicOracle())(samples[1:3]).tolist() == pytest.approx([0.8, 0.2])


def test_the_cyclic_preference_is_one() -> None:
    preference = cyclic_preferences(WORLD)
    assert torch.allclose(preference + preference.T, torch.ones_like(preference))
    place = WORLD.place
    assert float(preference[place["a"], place["b"]]) == 0.9
    assert float(preference[place["a b"], place["b b"]]) == pytest.approx((0.9 + 0.5) / 2)
    assert float(preference[place["a b"], place["b"]]) == pytest.approx((0.9 + 0.9) / 2)
    assert float(preference[place[""], place["a"]]) == pytest.approx(0.1)


@pytest.mark.parametrize("length", [1, 2])
def test_the_scores_of_the_cycle_predict_as_many_wins_as_there_are(length: int) -> None:
    """Where Bradley–Terry is likeliest, each response's predicted wins over all pairs are its wins: the first-order condition."""
    world = TokenWorld(symbols=3, maximum_tokens=length, prompts=3)
    preference = cyclic_preferences(world)
    scores = CyclicScore(maximum_tokens=length)(world.batch)[: len(world.texts)].double()
    predicted = torch.sigmoid(scores[:, None] - scores[None, :])
    assert predicted.sum(1).tolist() == pytest.approx(preference.sum(1).tolist(), abs=1e-5)
    assert float(scores.mean()) == pytest.approx(0, abs=1e-6) and int(scores.argmin()) == world.place[""]
