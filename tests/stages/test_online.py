"""Online learning: every method end to end, failures, and a bandit that is solved."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from fairlead.runs import read_json_lines
from fairlead.runtime import LocalGroup
from tiny_runs import exported, logged, run_stages, tiny_recipe, write_records


def online(shelf: Path, **fields: Any) -> dict[str, Any]:
    stage: dict[str, Any] = {
        "model": str(shelf / "world"),
        "prompts": str(shelf / "world.jsonl"),
        "rewards": {"share": {"part": "test-share-of"}},
        "steps": 2,
        "batch_size": 3,
        "rollout": {"part": "sample", "n": 4, "sampling": {"maximum_tokens": 4}},
        "optimiser": {"learning_rate": 1e-3},
    }
    return {"online": stage | fields}


METHODS: dict[str, dict[str, Any]] = {
    "ppo": {"credit": "gae"},
    "grpo": {"credit": "group-relative", "regulariser": {"part": "kl", "place": "loss", "estimator": "k3"}},
    "dr-grpo": {
        "credit": {"part": "group-relative", "scale": "none"},
        "objective": {"part": "ppo-clip", "aggregation": "constant-length", "maximum_length": 4},
    },
    "rloo": {"credit": "rloo", "objective": "reinforce"},
    "reinforce++": {"credit": "reinforce++"},
    "reinforce++-baseline": {"credit": {"part": "reinforce++", "baseline": "group"}},
    "reinforce": {"credit": "reinforce", "objective": "reinforce"},
    "dapo": {
        "credit": "group-relative",
        "selection": ["drop-flat-groups"],
        "collection": {"part": "refill", "most_draws": 3},
        "shaping": [{"part": "overlong", "maximum_length": 4, "buffer": 2}],
        "objective": {"part": "ppo-clip", "clip_high": 0.28, "mismatch": {}},
    },
    "cispo": {"credit": "group-relative", "objective": "cispo"},
    "latr": {
        "credit": "group-relative",
        "rollout": {
            "part": "lookahead-tree",
            "n": 4,
            "sampling": {"maximum_tokens": 4},
            "tree": {"least_probability": 0.0, "largest_gap": 1.0, "lookahead": [1]},
            "schedule": {0: 1.0, 2: 0.5},
        },
    },
    "ppo-max": {
        "credit": {"part": "gae", "whiten": False},
        "shaping": ["normalise", {"part": "clip", "limit": 0.8}],
        "value_objective": {"part": "value-clip", "clip": 0.2},
    },
    "ma-rlhf": {
        "credit": {"part": "macro-gae", "length": 2, "rule": "randomised"},
        "objective": {"part": "ppo-clip", "ratio": "macro"},
    },
    "remax": {
        "credit": "remax",
        "objective": "reinforce",
        "rollout": {"part": "greedy-baseline", "n": 2, "sampling": {"maximum_tokens": 4}},
    },
    "safe": {
        "credit": "response-value",
        "critic": {"path": "world", "head": {}},
        "value_objective": {"part": "value-huber", "position": "prompt"},
        "regulariser": {"part": "threshold-kl", "threshold": -1.0, "lowest": -1.0},
    },
    "gspo": {"credit": "group-relative", "objective": {"part": "ppo-clip", "ratio": "geometric"}},
}


def finite_weights(directory: Path) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in exported(directory, "online").values())


def moved(directory: Path, shelf: Path) -> bool:
    from safetensors.torch import load_file

    before, after = load_file(shelf / "world" / "model.safetensors"), exported(directory, "online")
    return any(not torch.equal(before[name], after[name]) for name in after)


@pytest.mark.parametrize("method", METHODS)
def test_every_method(shelf: Path, tmp_path: Path, method: str) -> None:
    fields = dict(METHODS[method])
    if "critic" in fields:
        fields["critic"] = fields["critic"] | {"path": str(shelf / "world")}
    run = run_stages(tmp_path / "run", online(shelf, **fields, epochs=1))
    first, second = logged(run.directory, "online")
    assert first["policy/ratio"] == pytest.approx(1, abs=1e-6)
    assert first["policy/max/ratio"] == pytest.approx(1, abs=1e-5)
    assert first["policy/old_kl"] == pytest.approx(0, abs=1e-6)
    assert first["kl/k1"] == pytest.approx(0, abs=1e-5) and second["kl/k3"] > 0
    assert first["mismatch"] == pytest.approx(0, abs=1e-4)
    assert 0 < first["policy/entropy"] <= math.log(5) and 0 < first["length"] <= 4
    assert first["counted_rows"] == 1 and first["failed/share"] == 0
    assert ("critic/loss" in first) == (method in ("ppo", "ppo-max", "ma-rlhf", "safe"))
    assert moved(run.directory, shelf) and finite_weights(run.directory)
    samples = read_json_lines(run.directory / "samples.jsonl")
    assert {row["step"] for row in samples} == {1, 2}
    assert all({"prompt", "response", "score"} <= row.keys() for row in samples)


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.7}, {"temperature": 0.7, "top_k": 3}])
def test_the_sampler_knows_the_old_log_probabilities(shelf: Path, tmp_path: Path, sampling: dict[str, Any]) -> None:
    """In single precision another pass finds the same; with a filter at another temperature it is made in any case."""
    rollout = {"part": "sample", "n": 4, "sampling": {"maximum_tokens": 4, **sampling}}
    ends = []
    for choice in ("auto", "sampler", "recompute"):
        stages = online(shelf, credit="rloo", rollout=rollout, old_logprobs=choice)
        run = run_stages(tmp_path / choice, stages)
        first = logged(run.directory, "online")[0]
        assert first["policy/ratio"] == pytest.approx(1, abs=1e-5)
        ends.append(exported(run.directory, "online"))
    for name, weight in ends[2].items():
        torch.testing.assert_close(ends[0][name], weight, atol=1e-5, rtol=0)
        assert torch.equal(ends[0][name], ends[1][name])


def test_every_part_is_told_the_step_and_a_rollout_reports(shelf: Path, tmp_path: Path) -> None:
    rows = logged(run_stages(tmp_path / "run", online(shelf, **METHODS["latr"])).directory, "online")
    assert [row["rollout/tree_share"] for row in rows] == [1.0, 0.5]
    assert 3.0 <= rows[0]["rollout/saturation_length"] <= 4.0  # four branches, older than one token
    assert rows[0]["distinct"] > 0.5


def test_a_view_without_a_delimiter_is_no_view(shelf: Path, tmp_path: Path) -> None:
    """Behind the view, with a rollout that looks for thoughts and finds none, the run is the plain one, bit for bit."""
    sampled = {"n": 4, "sampling": {"maximum_tokens": 4}}
    view = {"part": "answer", "delimiter": None, "strict": True, "reward": {"part": "test-share-of"}}
    plain = run_stages(tmp_path / "plain", online(shelf, credit="group-relative", rollout=sampled))
    seen = run_stages(
        tmp_path / "seen",
        online(shelf, credit="group-relative", rollout=sampled | {"part": "think"}, rewards={"share": view}),
    )
    rows = [logged(run.directory, "online") for run in (plain, seen)]
    assert [{key: row[key] for key in rows[0][0]} for row in rows[1]] == rows[0]
    assert rows[1][0]["reward/share/malformed"] == 0.0 and rows[1][0]["rollout/without_answer"] == 1.0
    weights = [exported(run.directory, "online") for run in (plain, seen)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_first_update_is_of_ratio_one_on_answers_alone_too(shelf: Path, tmp_path: Path) -> None:
    """The delimiter is a symbol of the world; thoughts stand before it, are read, and are not learned."""
    rollout = {"part": "think", "delimiter": "b", "learn": "answer", "n": 8, "sampling": {"maximum_tokens": 4}}
    for choice in ("sampler", "recompute"):
        stages = online(shelf, credit="group-relative", rollout=rollout, old_logprobs=choice, epochs=1)
        first = logged(run_stages(tmp_path / choice, stages).directory, "online")[0]
        assert first["policy/ratio"] == pytest.approx(1, abs=1e-5)
        assert 0 < first["rollout/without_answer"] < 1
        assert first["length"] < 4


def test_weights_against_the_sampler_need_another_pass() -> None:
    stage = {"part": "online", "model": "m", "prompts": "p", "rewards": {"r": {"part": "length"}}, "credit": "rloo"}
    stage |= {"rollout": {"part": "sample", "n": 2}, "objective": {"part": "ppo-clip", "mismatch": {}}}
    tiny_recipe({"online": stage})
    with pytest.raises(ValidationError, match="set old_logprobs to recompute"):
        tiny_recipe({"online": stage | {"old_logprobs": "sampler"}})


def test_half_precision(shelf: Path, tmp_path: Path) -> None:
    """Another pass makes the first ratio one; the sampler's log-probabilities are near enough."""
    for choice, tolerance in (("recompute", 1e-6), ("sampler", 0.05)):
        stages = online(shelf, credit="rloo", old_logprobs=choice)
        run = run_stages(tmp_path / choice, stages, runtime={"precision": "bfloat16"})
        first = logged(run.directory, "online")[0]
        assert first["policy/max/ratio"] == pytest.approx(1, abs=tolerance) and first["mismatch"] < 0.05


@pytest.mark.parametrize("credit", ["gae", "group-relative"])
def test_a_bandit_is_learned(shelf: Path, tmp_path: Path, credit: str) -> None:
    """Reward is the share of one symbol; from a third it rises to nearly one."""
    stages = online(
        shelf,
        credit=credit,
        steps=12,
        batch_size=6,
        epochs=2,
        minibatches=2,
        optimiser={"learning_rate": 1e-2},
        critic_optimiser={"learning_rate": 1e-2},
        regulariser={"part": "kl", "coefficient": 0.0},
        monitor_every=100,
    )
    rows = logged(run_stages(tmp_path / "run", stages).directory, "online")
    scores = [row["score"] for row in rows]
    assert scores[0] < 0.4
    assert sum(scores[-3:]) / 3 > 0.85
    if credit == "gae":
        assert rows[-1]["critic/error"] < rows[0]["critic/error"]


@pytest.mark.parametrize(
    ("place", "estimator"),
    [
        *(("reward", name) for name in ("k1", "k2", "k3", "abs")),
        *(("loss", name) for name in ("k1", "k2", "k3", "abs", "k3-ratio")),
    ],
)
def test_kl_in_reward_and_loss(shelf: Path, tmp_path: Path, place: str, estimator: str) -> None:
    regulariser = {"part": "kl", "coefficient": 0.2, "place": place, "estimator": estimator}
    run = run_stages(tmp_path / "run", online(shelf, credit="rloo", regulariser=regulariser, epochs=2))
    rows = logged(run.directory, "online")
    assert rows[0]["kl/coefficient"] == 0.2 and finite_weights(run.directory)
    assert ("policy/loss_kl" in rows[0]) == (place == "loss")


def test_a_strong_kl_holds_the_policy(shelf: Path, tmp_path: Path) -> None:
    distances = []
    for number, coefficient in enumerate((0.001, 5.0)):
        regulariser = {"part": "kl", "coefficient": coefficient, "place": "loss", "estimator": "k2"}
        stages = online(shelf, credit="rloo", regulariser=regulariser, steps=8, optimiser={"learning_rate": 5e-3})
        distances.append(logged(run_stages(tmp_path / str(number), stages).directory, "online")[-1]["kl/k3"])
    assert distances[1] < 0.5 * distances[0]


def test_the_adaptive_coefficient_moves(shelf: Path, tmp_path: Path) -> None:
    regulariser = {"part": "kl", "coefficient": 0.1, "adaptive": {"target": 1.0, "horizon": 12}}
    rows = logged(run_stages(tmp_path / "run", online(shelf, regulariser=regulariser)).directory, "online")
    # Nothing has moved at first, so the error is cut at −0.2; 12 samples of a horizon of 12.
    assert [row["kl/coefficient"] for row in rows] == pytest.approx([0.1, 0.08])


def test_several_rewards_and_monitors(shelf: Path, tmp_path: Path) -> None:
    stages = online(
        shelf,
        credit="rloo",
        rewards={
            "a": {"part": "test-share-of", "symbol": "a", "weight": 2.0},
            "b": {"part": "test-share-of", "symbol": "b", "weight": -0.5},
            "seen": {"part": "test-cycle", "values": [7.0], "weight": 0},
        },
        monitors={"c": {"part": "test-share-of", "symbol": "c"}},
        monitor_every=3,
        steps=4,
    )
    rows = logged(run_stages(tmp_path / "run", stages).directory, "online")
    for row in rows:
        assert row["score"] == pytest.approx(2 * row["channel/a"] - 0.5 * row["channel/b"], abs=1e-6)
        assert row["channel/seen"] == 7 and row["reward/seen/asked"] == 1
    assert [row["step"] for row in rows if "monitor/c" in row] == [1, 3, 4]


@pytest.mark.parametrize("credit", ["gae", "group-relative", "rloo", "reinforce", "reinforce++"])
def test_some_rows_fail(shelf: Path, tmp_path: Path, credit: str) -> None:
    rewards = {"share": {"part": "test-share-of"}, "judge": {"part": "test-cycle", "values": [1.0, None, 0.5]}}
    stages = online(shelf, credit=credit, rewards=rewards, shaping=["normalise"], minibatches=4)
    run = run_stages(tmp_path / "run", stages)
    for row in logged(run.directory, "online"):
        assert row["failed/judge"] == pytest.approx(1 / 3) and row["counted_rows"] == pytest.approx(2 / 3)
        assert math.isfinite(row["policy/loss"]) and row["policy/skipped_steps"] == 0
    assert finite_weights(run.directory) and moved(run.directory, shelf)


def test_a_failing_function(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that raises for one prompt and returns NaN for another: counted, left out, nothing breaks."""
    (tmp_path / "judging.py").write_text(
        "def judge(prompt, response, refused, unclear):\n"
        "    if prompt == refused:\n"
        "        raise ValueError('cannot say')\n"
        "    return float('nan') if prompt == unclear else float(len(response.split()))\n"
    )
    prompts = [json.loads(line)["prompt"] for line in (shelf / "world.jsonl").read_text().splitlines()]
    refused, unclear, _ = dict.fromkeys(prompts)
    monkeypatch.syspath_prepend(str(tmp_path))
    function = {"part": "function", "function": "judging:judge", "workers": 1, "timeout": 60.0}
    rewards = {"judge": function | {"arguments": {"refused": refused, "unclear": unclear}}}
    run = run_stages(tmp_path / "run", online(shelf, credit="group-relative", rewards=rewards, steps=1))
    row = logged(run.directory, "online")[0]
    assert row["reward/judge/errors"] == 8 and row["failed/judge"] == pytest.approx(2 / 3)
    assert row["counted_rows"] == pytest.approx(1 / 3) and finite_weights(run.directory)


@pytest.mark.parametrize("credit", ["gae", "group-relative", "rloo", "reinforce++"])
@pytest.mark.parametrize("values", [[None], [0.25]], ids=["all failed", "all equal"])
def test_nothing_to_learn_from(shelf: Path, tmp_path: Path, credit: str, values: list[Any]) -> None:
    rewards = {"judge": {"part": "test-cycle", "values": values}}
    run = run_stages(
        tmp_path / "run",
        online(
            shelf,
            credit=credit,
            rewards=rewards,
            shaping=["normalise", "clip"],
            selection=["drop-flat-groups"],
            regulariser={"part": "kl", "coefficient": 0},
        ),
    )
    for row in logged(run.directory, "online"):
        assert row["counted_rows"] == 0 and row["policy/loss"] == 0 and row["policy/gradient_norm"] == 0
    assert finite_weights(run.directory) and not moved(run.directory, shelf)


def test_equal_rewards_teach_a_group_method_nothing(shelf: Path, tmp_path: Path) -> None:
    rewards = {"judge": {"part": "test-cycle", "values": [0.25]}}
    stages = online(shelf, credit="group-relative", rewards=rewards, regulariser={"part": "kl", "coefficient": 0})
    run = run_stages(tmp_path / "run", stages)
    assert not moved(run.directory, shelf)


def test_every_response_is_truncated(shelf: Path, tmp_path: Path) -> None:
    rollout = {"part": "sample", "n": 2, "sampling": {"maximum_tokens": 3, "minimum_tokens": 3}}
    penalised = run_stages(
        tmp_path / "a", online(shelf, rollout=rollout, shaping=[{"part": "missing-end", "penalty": 3.0}])
    )
    row = logged(penalised.directory, "online")[0]
    assert row["truncated"] == 1 and row["length"] == 3
    assert row["score"] == pytest.approx(row["channel/share"] - 3, abs=1e-6)
    dropped = run_stages(
        tmp_path / "b",
        online(shelf, rollout=rollout, selection=["drop-truncated"], regulariser={"part": "kl", "coefficient": 0}),
    )
    assert logged(dropped.directory, "online")[0]["counted_rows"] == 0
    assert finite_weights(dropped.directory) and not moved(dropped.directory, shelf)


def test_shapings_in_order(shelf: Path, tmp_path: Path) -> None:
    rewards = {"judge": {"part": "test-cycle", "values": [1.0, 2.0, 3.0, 4.0]}}
    clip, centre = {"part": "clip", "limit": 2.0}, {"part": "normalise", "over": "batch"}
    for number, (shaping, score) in enumerate(
        [([], 2.5), ([clip], 1.75), ([centre, clip], 0.0), ([clip, centre], 0.0)]
    ):
        stages = online(shelf, rewards=rewards, shaping=shaping, credit="rloo", steps=1)
        row = logged(run_stages(tmp_path / str(number), stages).directory, "online")[0]
        assert row["score"] == pytest.approx(score, abs=1e-6)
        assert row["channel/judge"] == 2.5  # what was said is never overwritten


def test_warm_up_of_the_critic(shelf: Path, tmp_path: Path) -> None:
    rows = logged(run_stages(tmp_path / "run", online(shelf, critic_warmup=1)).directory, "online")
    assert ["policy/loss" in row for row in rows] == [False, True]
    assert rows[1]["policy/max/ratio"] == pytest.approx(1, abs=1e-5) and rows[1]["kl/k3"] == pytest.approx(0, abs=1e-6)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The specs of all groups that are opened from here on."""
    specs: list[Any] = []
    original = LocalGroup.__init__

    def record(self: LocalGroup, spec: Any) -> None:
        specs.append(spec)
        original(self, spec)

    monkeypatch.setattr(LocalGroup, "__init__", record)
    return specs


def test_which_models_are_opened(shelf: Path, tmp_path: Path, opened: list[Any]) -> None:
    world, lora = str(shelf / "world"), {"rank": 2}
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({"credit": "gae"}, ["policy", "critic", "reference"]),
        ({"credit": "rloo"}, ["policy", "reference"]),
        ({"credit": "rloo", "regulariser": {"part": "kl", "coefficient": 0}}, ["policy"]),
        ({"credit": "rloo", "model": {"path": world, "lora": lora}}, ["policy"]),
        ({"credit": "gae", "model": {"path": world, "lora": lora}}, ["policy", "critic"]),
        ({"credit": "rloo", "model": {"path": world, "lora": lora}, "reference": world}, ["policy", "reference"]),
    ]
    for number, (fields, roles) in enumerate(cases):
        opened.clear()
        run = run_stages(tmp_path / str(number), online(shelf, **fields, steps=2))
        assert [spec.role for spec in opened] == roles
        if "regulariser" not in fields:
            first = logged(run.directory, "online")[0]
            assert first["kl/k1"] == pytest.approx(0, abs=1e-5)
    assert all(spec.optimiser is None for spec in opened if spec.role == "reference")


def test_a_trained_reward_model_judges_and_begins_the_critic(shelf: Path, tmp_path: Path) -> None:
    pairs = write_records(tmp_path / "pairs.jsonl", [{"prompt": "a", "chosen": "a a", "rejected": "b c"}] * 4)
    stages = {
        "reward": {"model": str(shelf / "world"), "data": pairs, "steps": 4, "optimiser": {"learning_rate": 1e-2}},
        **online(
            shelf,
            rewards={"reward": {"part": "model", "model": "stage:reward", "mean": 1.0, "scale": 2.0}},
            critic="stage:reward",
            steps=1,
        ),
    }
    run = run_stages(tmp_path / "run", stages)
    row = logged(run.directory, "online")[0]
    assert row["failed/reward"] == 0 and row["score"] == pytest.approx(row["channel/reward"], abs=1e-6)
    assert row["critic/mean"] != 0  # the head of the reward model, not a new one


def test_temperature_of_sampling_and_training_agree(shelf: Path, tmp_path: Path) -> None:
    rollout = {"part": "sample", "n": 2, "sampling": {"maximum_tokens": 4, "temperature": 0.5}}
    row = logged(run_stages(tmp_path / "run", online(shelf, rollout=rollout, steps=1)).directory, "online")[0]
    assert row["policy/max/ratio"] == pytest.approx(1, abs=1e-5) and row["mismatch"] == pytest.approx(0, abs=1e-4)


def test_long_prompts_are_cut(shelf: Path, tmp_path: Path) -> None:
    prompts = write_records(tmp_path / "long.jsonl", [{"prompt": "a b c a b"}, {"prompt": "a"}])
    run = run_stages(tmp_path / "run", online(shelf, prompts=prompts, maximum_prompt=2, batch_size=2))
    assert len(logged(run.directory, "online")) == 2


def test_too_few_samples_are_refused_in_the_recipe(shelf: Path) -> None:
    with pytest.raises(ValidationError, match=r"set rollout\.n to that or more \(it is 1\)"):
        tiny_recipe(online(shelf, credit="rloo", rollout="sample"))


def test_dynamic_sampling_draws_other_prompts(shelf: Path, tmp_path: Path) -> None:
    """Two of three prompts always get one score: the batch is filled with the third, draw after draw, and a draw is no repeat."""
    prompts = write_records(tmp_path / "two.jsonl", [{"prompt": text} for text in ("a b", "b c", "c d")])
    stages = online(
        shelf,
        prompts=prompts,
        credit="group-relative",
        rewards={"judge": {"part": "test-cycle", "values": [0.0, 0, 0, 0, 1, 1, 1, 1, 0, 1, 0, 1]}},
        selection=["drop-flat-groups"],
        collection={"part": "refill", "most_draws": 5},
    )
    for row in logged(run_stages(tmp_path / "run", stages).directory, "online"):
        assert row["collection/draws"] == 3 and row["collection/filled"] == 1 and row["counted_rows"] == 1


def test_a_greedy_response_that_fails(shelf: Path, tmp_path: Path) -> None:
    """Three prompts with two samples and an anchor each; the second anchor and the first sample cannot be judged."""
    stages = online(
        shelf,
        credit="remax",
        rollout={"part": "greedy-baseline", "n": 2, "sampling": {"maximum_tokens": 4}},
        rewards={"judge": {"part": "test-cycle", "values": [None, 1.0, 0.5, 1.0, 2.0, None, 3.0, 0.0, 1.5]}},
        monitors={"seen": {"part": "test-cycle", "values": [1.0, 1.0, 9.0]}},
    )
    run = run_stages(tmp_path / "run", stages)
    row = logged(run.directory, "online")[0]
    assert row["anchor_score"] == 1.0 and row["counted_rows"] == 0.5 and row["monitor/seen"] == 1.0
    assert row["score"] == pytest.approx((1 + 3 + 0) / 3) and finite_weights(run.directory)
    with pytest.raises(ValidationError, match=r"set rollout\.part to greedy-baseline"):
        tiny_recipe(online(shelf, credit="remax"))


@pytest.mark.parametrize("moment", ["before-credit", "after-credit"])
def test_a_selection_before_or_after_credit(shelf: Path, tmp_path: Path, moment: str) -> None:
    """Group-relative advantages of 0, 1, 2, 5: against the mean of all (2) or of the two that are kept (2.5)."""
    stages = online(
        shelf,
        credit={"part": "group-relative", "scale": "none"},
        objective="reinforce",
        rewards={"judge": {"part": "test-cycle", "values": [0.0, 1.0, 2.0, 5.0]}},
        selection=[{"part": "policy-filtration", "mode": "filter", "moment": moment}],
        diagnostics={"filters": {"part": "filter-agreement", "truth": "judge"}},
    )
    row = logged(run_stages(tmp_path / "run", stages).directory, "online")[0]
    assert row["counted_rows"] == 0.5 and row["score"] == 2.5
    assert row["diagnostic/filters/none"] == pytest.approx(1)


def test_a_critic_that_learns_from_what_selection_left_out(shelf: Path, tmp_path: Path) -> None:
    """Its loss is then that of a run without the selection, the policy's is not."""
    losses = {}
    for name, selection in (("none", []), ("filtered", [{}]), ("all", [{"critic": "all"}])):
        stages = online(
            shelf,
            credit="gae",
            rewards={"judge": {"part": "test-cycle", "values": [0.0, 1.0, 2.0, 5.0]}},
            selection=[{"part": "policy-filtration", **fields} for fields in selection],
        )
        row = logged(run_stages(tmp_path / name, stages).directory, "online")[0]
        losses[name] = row["critic/loss"], row["counted_rows"]
    assert losses["all"] == pytest.approx((losses["none"][0], 0.5))
    assert losses["filtered"][0] != pytest.approx(losses["none"][0], rel=1e-3)


def test_macro_actions_by_parsing_need_no_parser(shelf: Path, tmp_path: Path) -> None:
    stages = online(
        shelf, credit={"part": "macro-gae", "rule": "parsing"}, objective={"part": "ppo-clip", "ratio": "macro"}
    )
    row = logged(run_stages(tmp_path / "run", stages).directory, "online")[0]
    assert row["policy/loss"] == row["policy/loss"] and finite_weights(tmp_path / "run")
