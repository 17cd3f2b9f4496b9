"""Dialogues: whose tokens are whose, how they end, who answers, where they branch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import Field, ValidationError

from fairlead.batch import Experience, Pairs, Prompts, Samples, concatenate, take
from fairlead.data import PromptRecord, before_response, prompts_batch
from fairlead.models import ModelSpec
from fairlead.pool import Failure
from fairlead.rollouts import Branches, Dialogue, Environment, FunctionEnvironment, RecordedTurns, Reply, Talk, Tools
from fairlead.rollouts.environments import ModelUser
from fairlead.runtime import GroupSpec, LocalGroup
from fairlead.runtime.forward import forward
from tiny_models import save_tiny_model
from tiny_runs import logged, run_stages, write_records


class Says(Environment, name="test-says"):
    """Says the same words for a number of turns that depends on the record.

    Source: none; it exists for tests.
    """

    words: str = Field("go on", description="what it says")

    def __call__(self, talks: Sequence[Talk]) -> list[Reply]:
        return [self._one(talk) for talk in talks]

    def _one(self, talk: Talk) -> Reply:
        if talk.row.get("fails"):
            return Failure(talk.row["fails"], "it must")
        if talk.said > talk.row.get("answers", 99):
            return []
        return [{"role": "user", "content": self.words}]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> LocalGroup:
    """A context of 512 byte tokens."""
    folder = save_tiny_model(tmp_path_factory.mktemp("policy"), max_position_embeddings=512)
    return LocalGroup(GroupSpec(role="policy", model=ModelSpec(path=str(folder))))


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def prompts(policy: LocalGroup, rows: Sequence[dict[str, Any]], seed: int = 1) -> Prompts:
    records = [PromptRecord(row.pop("prompt", user(f"hi {i}")), row) for i, row in enumerate(map(dict, rows))]
    return prompts_batch(records, policy.codec, seed)


def converse(policy: LocalGroup, rows: Sequence[dict[str, Any]], environment: Any = None, **fields: Any) -> Samples:
    fields = {"turns": 3, "sampling": {"maximum_tokens": 4, "stop_tokens": list(range(260))}} | fields
    rollout = Dialogue(environment=environment or Says(), **fields)
    return rollout(policy, prompts(policy, rows))


# -- tokens and masks ---------------------------------------------------------------------------------------------------


def test_the_mask_holds_what_the_policy_wrote(policy: LocalGroup) -> None:
    samples = converse(policy, [{}, {}])
    between = policy.codec.encode_reply(user("go on"), user("hi"), ended=False)
    assert policy.codec.decode(between).replace("\n", " ").split()[-1] == "assistant"
    for row in range(2):
        present, own = samples.present[row], samples.mask[row]
        # Every turn is one token, which ends it; a token that is no end token of the codec gets one behind it.
        tokens = samples.tokens[row][present].tolist()
        stretches = [tokens[0:1], tokens[1 : 1 + len(between)], tokens[1 + len(between) : 2 + len(between)]]
        assert stretches[1] in (between, between[1:] + tokens[len(between) : 1 + len(between)])
        assert int(own.sum()) == 3 and bool((own <= present).all())
        assert own[present].tolist()[0] and own[present].tolist()[-1]
    assert {row["outcome"] for row in samples.rows} == {"turns"}
    turns = samples.rows[0]["response_turns"]
    assert [turn["role"] for turn in turns] == ["assistant", "user", "assistant", "user", "assistant"]
    assert samples.rows[0]["response"] == turns[-1]["content"]
    assert before_response(samples.rows[0]) == [*user("hi 0"), *turns[:-1]]


def test_log_probabilities_are_those_of_another_pass_and_zero_outside(policy: LocalGroup) -> None:
    samples = converse(
        policy, [{}, {"answers": 1}, {}], n=2, sampling={"maximum_tokens": 3, "stop_tokens": [7, 9, 70, 99]}
    )
    samples = concatenate([samples, converse(policy, [{}, {}])])
    again = policy.token_logprobs(Experience.from_samples(samples))
    torch.testing.assert_close(samples.logprobs, again, atol=2e-5, rtol=0)
    assert bool((samples.logprobs[~samples.mask] == 0).all()) and int((samples.logprobs != 0).sum()) == int(
        samples.mask.sum()
    )


def test_reading_with_holes_is_the_same_padded_and_ragged(policy: LocalGroup) -> None:
    experience = Experience.from_samples(converse(policy, [{}, {"answers": 1}], n=2)).replace(rows=None)
    model = policy.worker.model
    one, other = (forward(model, experience, ("logprobs", "entropy"), 0.7, ragged=ragged) for ragged in (True, False))
    for name in ("logprobs", "entropy"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=1e-5, rtol=0)
        assert bool((getattr(one, name)[~experience.mask] == 0).all())
    # Each row alone, without its neighbours' padding.
    for row in range(4):
        alone = take(experience, [row])
        found = forward(model, alone, ("logprobs",), 0.7).logprobs[0]
        torch.testing.assert_close(found, one.logprobs[row, : len(found)], atol=1e-5, rtol=0)


def test_a_dialogue_depends_on_its_own_prompt_and_seed_only(policy: LocalGroup) -> None:
    rows = [{"answers": 2}, {"answers": 0}, {"answers": 1}]
    whole, part = converse(policy, rows), converse(policy, rows[:1])
    assert torch.equal(whole.tokens[0][whole.present[0]], part.tokens[0][part.present[0]])
    two = converse(policy, rows, n=2)
    assert two.group.tolist() == [0, 0, 1, 1, 2, 2] and len(set(two.seed.tolist())) == 6
    assert [len(row["response_turns"]) for row in two.rows] == [5, 5, 1, 1, 3, 3]


def test_what_others_say_is_templated_once(policy: LocalGroup) -> None:
    codec, prompt = policy.codec, [{"role": "system", "content": "be brief"}, *user("hi")]
    said = codec.encode_prompt(prompt) + codec.encode_response("well", prompt)
    whole = codec.encode_prompt([*prompt, {"role": "assistant", "content": "well"}, *user("and?")])
    assert said + codec.encode_reply(user("and?"), prompt) == whole
    without_end = codec.encode_prompt(prompt) + codec.encode_response("well", prompt)[:-1]
    assert without_end + codec.encode_reply(user("and?"), prompt, ended=False) == whole
    assert codec.encode_reply(user("and?"), "plain") == codec.encode_prompt("and?")


def test_pairs_of_dialogues_keep_their_holes(policy: LocalGroup) -> None:
    samples = converse(policy, [{}], n=2)
    pairs = Pairs.from_samples(samples, torch.tensor([0]), torch.tensor([1]))
    assert pairs.present is not None and bool((pairs.present.sum(-1) > pairs.mask.sum(-1)).all())
    found = policy.token_logprobs(pairs)[0]
    torch.testing.assert_close(found, samples.logprobs[:, : found.shape[-1]], atol=2e-5, rtol=0)
    assert pairs.rows[0]["chosen"] == samples.rows[0]["response_turns"]


# -- how dialogues end --------------------------------------------------------------------------------------------------


def outcomes(samples: Samples) -> list[str]:
    return [row["outcome"] for row in samples.rows]


def test_outcomes_and_what_is_left_out(policy: LocalGroup) -> None:
    rows = [{}, {"answers": 0}, {"fails": "error"}, {"fails": "timeout"}]
    rollout = Dialogue(environment=Says(), turns=2, sampling={"maximum_tokens": 4, "stop_tokens": list(range(260))})
    samples = rollout(policy, prompts(policy, rows))
    assert outcomes(samples) == ["turns", "stopped", "error", "timeout"]
    assert samples.mask.any(1).tolist() == [True, True, False, False]
    shares = rollout.metrics()
    assert shares["turns"] == 5 / 4 and shares["left_out"] == 0.5 and shares["outcome/error"] == 0.25
    assert sum(value for name, value in shares.items() if name.startswith("outcome/")) == 1
    kept = converse(policy, rows, on_failure="end")
    assert bool(kept.mask.any(1).all())
    with pytest.raises(RuntimeError, match="environment test-says failed: it must"):
        converse(policy, rows, on_failure="raise")


def test_a_turn_that_is_cut_ends_its_dialogue(policy: LocalGroup) -> None:
    samples = converse(policy, [{}], sampling={"maximum_tokens": 3, "minimum_tokens": 3})
    assert outcomes(samples) == ["cut"] and samples.truncated.tolist() == [True]
    assert samples.tokens.shape[1] == 3


@pytest.mark.parametrize("policy_of_overflow", ["end", "leave-out"])
def test_without_room_for_another_turn(policy: LocalGroup, policy_of_overflow: Any) -> None:
    fields: dict[str, Any] = {"turns": 50, "on_overflow": policy_of_overflow}
    samples = converse(policy, [{}, {"answers": 0}], maximum_length=120, **fields)
    assert outcomes(samples) == ["overflow", "stopped"]
    whole = int(samples.prompt_mask[0].sum() + samples.present[0].sum())
    assert whole <= 120 < whole + 40
    assert samples.rows[0]["response_turns"][-1]["role"] == "assistant"
    assert bool(samples.mask[0].any()) == (policy_of_overflow == "end")
    assert outcomes(converse(policy, [{}], Says(words="x" * 200), **fields)) == ["overflow"]  # the context itself


# -- who answers --------------------------------------------------------------------------------------------------------


FUNCTIONS = """
import time

def scripted(messages, answer, most=2):
    if answer == "raise":
        raise ZeroDivisionError("by zero")
    if answer == "hang":
        time.sleep(60)
    if answer == "number":
        return 7
    said = sum(message["role"] == "assistant" for message in messages)
    return None if said > most else {"role": "user", "content": f"{answer} {said} of {len(messages)}"}

def lookup(key, table="b"):
    return {"k": 1, "t": table, "got": key}

def hang(text):
    time.sleep(60)
"""


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dialogue_functions.py").write_text(FUNCTIONS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_a_function_answers(policy: LocalGroup, functions: None) -> None:
    path = "dialogue_functions:scripted"
    environment = FunctionEnvironment(function=path, arguments={"most": 1}, timeout=2, workers=1)
    environment.open(None)  # type: ignore[arg-type]
    try:
        rows = [{"answer": answer} for answer in ("well", "raise", "hang", "number")]
        samples = converse(policy, rows, environment, turns=5)
    finally:
        environment.close()
    assert outcomes(samples) == ["stopped", "error", "timeout", "error"]
    assert samples.rows[0]["response_turns"][1]["content"] == "well 1 of 2"
    with pytest.raises(ValidationError, match="no function 'scriptd'"):
        FunctionEnvironment(function="dialogue_functions:scriptd")


def test_recorded_turns(policy: LocalGroup) -> None:
    rows = [{"user_turns": ["one", {"role": "user", "content": "two"}]}, {"user_turns": []}]
    samples = converse(policy, rows, RecordedTurns())
    assert outcomes(samples) == ["turns", "stopped"]
    assert [turn["content"] for turn in samples.rows[0]["response_turns"][1::2]] == ["one", "two"]
    assert RecordedTurns().most_turns(rows[0]) == 3
    with pytest.raises(ValueError, match=r"no list of turns in the column 'other'.*rollout\.environment\.column"):
        converse(policy, rows, RecordedTurns(column="other"))


class Opens:
    """What parts need of a run."""

    def __init__(self, group: LocalGroup) -> None:
        self.group = group

    def open(self, role: str, model: Any, kind: Any = "causal") -> LocalGroup:
        return self.group


def test_a_model_plays_the_user(policy: LocalGroup) -> None:
    sampling = {"maximum_tokens": 6, "minimum_tokens": 6}
    environment = ModelUser(model="any", sampling=sampling)
    environment.open(Opens(policy))  # type: ignore[arg-type]
    first, second = converse(policy, [{}, {}], environment), converse(policy, [{}], environment)
    said = [row["response_turns"][1]["content"] for row in first.rows if len(row["response_turns"]) > 1]
    assert said and all(said)
    assert first.rows[0]["response_turns"] == second.rows[0]["response_turns"]  # its own dialogue and seed only
    picky = ModelUser(model="any", sampling=sampling, keep="(?:no such)")
    picky.open(Opens(policy))  # type: ignore[arg-type]
    assert outcomes(converse(policy, [{}], picky)) == ["error"]
    assert ModelUser(model="any", keep="Why: .*?(Question.*)")._reply("Why: so. Question?") == user("Question?")
    assert ModelUser(model="any", farewell="<bye>")._reply("ok <bye>") == []
    assert isinstance(ModelUser(model="any")._reply(""), Failure)
    for fields, message in (
        ({"instruction": "speak"}, "must hold {dialogue}"),
        ({"keep": "("}, "no regular expression"),
    ):
        with pytest.raises(ValidationError, match=message):
            ModelUser(model="any", **fields)


def called(text: str, **fields: Any) -> tuple[Reply, dict[str, float]]:
    environment = Tools(**{"workers": 1, "timeout": 2} | fields)
    environment.open(None)  # type: ignore[arg-type]
    try:
        talk = Talk({"prompt": "p"}, 0, 0, [1])
        talk.speak([1], [0.0], [0.0], text)
        return environment([talk])[0], environment.metrics()
    finally:
        environment.close()


def test_tools_are_run_and_their_results_told() -> None:
    call = '<tool_call>{"name": "calculator", "arguments": {"expression": "(15 + 17) / 5"}}</tool_call>'
    assert called(f"I ask. {call}")[0] == [{"role": "tool", "content": "6.4"}]
    assert called("[calculator(2^10)] [calculator(1/3)]", form="brackets", role="user")[0] == [
        {"role": "user", "content": "1024\n1/3"}
    ]
    reply, counts = called("It is 4.")
    assert reply == [] and counts == {"tool_calls": 0, "tool_errors": 0, "tool_timeouts": 0}
    assert called("It is 4.", otherwise=Says())[0] == user("go on")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[abacus(1)]", "there is no tool 'abacus'; there are calculator"),
        ("[calculator(1/0)]", "ZeroDivisionError"),
        ("[calculator(open(1)]", "ValueError: cannot read"),
        ("[calculator(1)][calculator(2)]", "at most 1 calls in a turn"),
    ],
)
def test_what_is_wrong_with_a_call_is_told_to_the_policy(text: str, message: str) -> None:
    reply, counts = called(text, form="brackets", most_calls=1)
    assert isinstance(reply, list) and reply[0]["content"].splitlines()[-1].startswith("error: ")
    assert message in reply[0]["content"] and counts["tool_errors"] == 1
    malformed, _ = called("<tool_call>{oh}</tool_call>")
    assert isinstance(malformed, list) and malformed[0]["content"].startswith("error: ")
    listed, _ = called("<tool_call>[1]</tool_call>")
    assert isinstance(listed, list) and "a call has the form" in listed[0]["content"]


def test_tools_of_ones_own(functions: None) -> None:
    tools = {"find": "dialogue_functions:lookup", "hang": "dialogue_functions:hang"}
    call = '<tool_call>{"name": "find", "arguments": {"key": [1], "%s": "c"}}</tool_call>'
    assert called(call % "table", tools=tools)[0] == [{"role": "tool", "content": '{"k": 1, "t": "c", "got": [1]}'}]
    unknown, _ = called(call % "nonsense", tools=tools)
    assert isinstance(unknown, list) and "unexpected keyword argument 'nonsense'" in unknown[0]["content"]
    late, counts = called("[hang(x)]", tools=tools, form="brackets")
    assert late == [{"role": "tool", "content": "error: took longer than 2 seconds"}] and counts["tool_timeouts"] == 1
    with pytest.raises(ValidationError, match="letters, digits and _"):
        Tools(tools={"a b": "dialogue_functions:hang"})


# -- branches -----------------------------------------------------------------------------------------------------------


ONE_TOKEN: dict[str, Any] = {"maximum_tokens": 4, "stop_tokens": list(range(260))}


def branches(policy: LocalGroup, rows: Sequence[dict[str, Any]], environment: Any = None, **fields: Any) -> Samples:
    fields = {"turns": 3, "sampling": ONE_TOKEN} | fields
    return Branches(environment=environment or Says(), **fields)(policy, prompts(policy, rows))


def test_futures_share_what_was_said_before_and_the_response_is_one_turn(policy: LocalGroup) -> None:
    samples = branches(policy, [{}] * 60, n=3, sampling={"maximum_tokens": 16, "stop_tokens": list(range(0, 260, 2))})
    assert samples.group.tolist() == [group for group in range(60) for _ in range(3)]
    seen = set()
    for group in range(60):
        of_group = samples[samples.group == group]
        ids = [ids[mask].tolist() for ids, mask in zip(of_group.prompt_ids, of_group.prompt_mask, strict=True)]
        assert ids[0] == ids[1] == ids[2]
        row = of_group.rows[0]
        at, end = row["branch"], row["judged"]
        assert 0 <= at <= end < 3
        seen.add((at, end))
        assert all(len(other["response_turns"]) == 2 * end + 1 for other in of_group.rows)
        shared = [other["response_turns"][: 2 * at] for other in of_group.rows]
        assert shared[0] == shared[1] == shared[2]
        assert bool((of_group.mask == of_group.present).all())  # no hole
        said = of_group.rows[0]["response_turns"][2 * at]["content"]
        assert policy.codec.decode(of_group.tokens[0][of_group.mask[0]].tolist()[:-1]) == said
    assert len(seen) == 6
    assert len({str(row["response_turns"]) for row in samples.rows}) > 90  # futures differ
    torch.testing.assert_close(
        samples.logprobs, policy.token_logprobs(Experience.from_samples(samples)), atol=2e-5, rtol=0
    )


def test_choices_of_branches(policy: LocalGroup) -> None:
    def turns(**fields: Any) -> set[tuple[int, int]]:
        return {(row["branch"], row["judged"]) for row in branches(policy, [{}] * 30, **fields).rows}

    assert turns(judged="last", branch="last") == {(2, 2)}
    assert turns(judged="last") == {(0, 2), (1, 2), (2, 2)}
    assert turns(branch="last") == {(0, 0), (1, 1), (2, 2)}
    recorded = branches(policy, [{"user_turns": ["x"]}] * 12, RecordedTurns(), judged="last")
    assert {(row["branch"], row["judged"]) for row in recorded.rows} == {(0, 1), (1, 1)}


def test_a_dialogue_that_ends_before_the_branch_is_left_out(policy: LocalGroup) -> None:
    samples = branches(policy, [{"answers": 0}] * 20, judged="last")
    reached = [row["branch"] == 0 for row in samples.rows]
    assert samples.mask.any(1).tolist() == reached and 0 < sum(reached) < len(reached)
    assert {row["outcome"] for row in samples.rows} == {"stopped"}
    policy.token_logprobs(Experience.from_samples(samples[~samples.mask.any(1)]))  # nothing to read, and no error


def test_histories_of_the_data(policy: LocalGroup) -> None:
    history = [{"role": "assistant", "content": "A1"}, *user("B1"), {"role": "assistant", "content": "A2"}, *user("B2")]
    samples = branches(policy, [{"history": history}] * 12, histories="history", branch="last", judged="last", n=2)
    assert {row["branch"] for row in samples.rows} == {2}
    expected = policy.codec.encode_prompt([*user("hi 0"), *history])
    assert samples.prompt_ids[0][samples.prompt_mask[0]].tolist() == expected
    assert samples.rows[0]["response_turns"][:4] == history
    short = branches(policy, [{"history": history[:2]}] * 12, histories="history", branch="last", judged="last")
    assert {row["branch"] for row in short.rows} == {1}
    full = branches(
        policy, [{"history": history}], histories="history", branch="last", judged="last", maximum_length=40
    )
    assert {row["outcome"] for row in full.rows} == {"overflow"} and not bool(full.mask.any())
    with pytest.raises(ValueError, match="the column 'other' messages"):
        branches(policy, [{"history": history}], histories="other")
    with pytest.raises(ValueError, match="every other one"):
        branches(policy, [{"history": history[1:]}], histories="history")


# -- in the stages ------------------------------------------------------------------------------------------------------


DIALOGUE: dict[str, Any] = {
    "part": "dialogue",
    "environment": "test-says",
    "turns": 3,
    "n": 2,
    "sampling": {"maximum_tokens": 4, "stop_tokens": list(range(260))},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_model(tmp_path_factory.mktemp("model"), max_position_embeddings=512))


@pytest.mark.parametrize(
    "fields",
    [
        {"credit": "gae"},
        {"credit": {"part": "macro-gae", "length": 2}, "objective": {"part": "ppo-clip", "ratio": "macro"}},
        {"credit": "group-relative", "objective": {"part": "ppo-clip", "ratio": "geometric"}},
        {"credit": "reinforce++", "regulariser": {"part": "kl", "coefficient": 0.1, "place": "loss"}},
        {"credit": "response-value", "value_objective": {"part": "value-huber", "position": "prompt"}},
    ],
)
def test_every_credit_takes_a_mask_with_holes(model: str, tmp_path: Path, fields: dict[str, Any]) -> None:
    rows = [{"prompt": user("a")}, {"prompt": user("b"), "fails": "error"}, {"prompt": user("c"), "answers": 0}]
    stage = {
        "part": "online",
        "model": model,
        "prompts": write_records(tmp_path / "prompts.jsonl", rows),
        "rewards": {"length": {"part": "length", "longest": 3}},
        "rollout": DIALOGUE,
        "steps": 2,
        "batch_size": 3,
        **fields,
    }
    found = logged(run_stages(tmp_path / "run", {"learn": stage}).directory, "learn")
    for row in found:
        assert row["rollout/left_out"] == pytest.approx(1 / 3) and row["counted_rows"] == pytest.approx(2 / 3)
        assert row["rollout/turns"] == pytest.approx(5 / 3) and row["policy/gradient_norm"] >= 0
        assert all(
            value == value for name, value in row.items() if isinstance(value, float) and "explained" not in name
        )
        assert row["mismatch"] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("part", ["dialogue", "branches"])
@pytest.mark.parametrize("objective", ["dpo", "rebel"])
def test_rounds_and_evaluation_take_dialogues(model: str, tmp_path: Path, part: str, objective: str) -> None:
    data = write_records(tmp_path / "prompts.jsonl", [{"prompt": user("a")}, {"prompt": user("b"), "answers": 1}])
    rollout = DIALOGUE | {"part": part}
    learn = {
        "part": "preference-rounds",
        "model": model,
        "prompts": data,
        "rewards": {"length": {"part": "length", "longest": 3}},
        "pairing": {"part": "random-pair", "ties": True},
        "objective": objective,
        "rollout": rollout,
        "rounds": 2,
        "prompts_per_round": 8,
        "batch_size": 4,
    }
    judge = {"models": {"it": "stage:learn"}, "prompts": data, "judges": {"length": {"part": "length", "longest": 3}}}
    run = run_stages(tmp_path / "run", {"learn": learn, "evaluate": judge | {"rollout": rollout}})
    rows = [row for row in logged(run.directory, "learn") if "score" in row]
    assert len(rows) == 2 and all(row["rollout/turns"] > 1 and row["pairs"] > 0 for row in rows)
    samples = (run.directory / "samples.jsonl").read_text(encoding="utf-8")
    assert "user: go on" in samples


def test_what_a_judge_of_whole_dialogues_reads() -> None:
    turns = [{"role": "assistant", "content": "A"}, *user("B"), {"role": "assistant", "content": "C"}]
    row = {"prompt": "plain", "response": "C", "response_turns": turns}
    assert before_response(row) == [*user("plain"), *turns[:2]]
    assert before_response(row | {"response_turns": turns[:1]}) == "plain"
    assert before_response({"prompt": "plain", "response": "x", "turns": ["of the data"]}) == "plain"


def test_judges_are_told_whole_dialogues(policy: LocalGroup) -> None:
    told: list[dict[str, Any]] = []
    with policy.watched(told.append):
        samples = converse(policy, [{}, {"answers": 0}])
        assert policy.watcher is not None
    assert policy.watcher is None
    assert sorted(map(str, told)) == sorted(map(str, samples.rows))
    assert told[0]["outcome"] == "stopped"  # the shorter one first
