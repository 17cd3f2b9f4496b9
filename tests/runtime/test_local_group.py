"""The group in this process: gradients, steps, keeping, adapters, dropout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fairlead.batch import Experience, Pairs, Sequences, take
from fairlead.generation import Sampling
from fairlead.models import LoraSpec, ModelError
from fairlead.objectives import NegativeLogLikelihood, PPOClip
from fairlead.runtime import GroupSpec, Lesson, LocalGroup
from fairlead.runtime.worker import ModelWorker

Maker = Callable[..., GroupSpec]
LORA = LoraSpec(rank=2, alpha=8.0)


def gradients(spec: GroupSpec, batch: Any, objective: Any) -> tuple[dict[str, Tensor], dict[str, float]]:
    worker = ModelWorker(spec)
    if spec.kind == "scalar":  # a new head is zero, and then nothing below it has a gradient
        torch.nn.init.normal_(worker.model.score.weight, generator=torch.Generator().manual_seed(3))
    metrics = worker.accumulate(Lesson(objective.prepare(batch), objective))
    return {name: p.grad for name, p in worker.model.named_parameters() if p.grad is not None}, metrics


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 2e-6) -> None:
    """Equal to `tolerance` of the largest gradient of all."""
    largest = max(float(g.abs().max()) for g in expected.values())
    assert largest > 0 and found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert float((found[name] - gradient).abs().max()) <= tolerance * largest, name


def same(one: LocalGroup, other: LocalGroup) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.weights().values(), other.weights().values(), strict=True))


# -- gradients ------------------------------------------------------------------------------------------------------------


def test_micro_batches_change_nothing(case: tuple[str, Any, Any], spec: Maker) -> None:
    kind, batch, objective = case
    whole, metrics = gradients(spec(kind=kind, tokens_per_microbatch=10**6), batch, objective)
    for budget in (1, 70):
        part, sums = gradients(spec(kind=kind, tokens_per_microbatch=budget), batch, objective)
        assert_close(part, whole)
        assert sums == pytest.approx(metrics, rel=1e-4, abs=1e-5)


def test_the_loss_is_normalised_over_the_whole_batch(spec: Maker, sequences: Sequences) -> None:
    group = LocalGroup(spec(tokens_per_microbatch=1))
    logprobs = group.token_logprobs(sequences)
    token_mean = float(-logprobs.sum() / sequences.mask.sum())
    row_mean = float((-logprobs.sum(1) / sequences.mask.sum(1)).mean())
    assert abs(token_mean - row_mean) > 1e-3  # else the two would not be told apart
    for aggregation, expected in (("token-mean", token_mean), ("sequence-mean-token-mean", row_mean)):
        objective = NegativeLogLikelihood(aggregation=aggregation)
        assert group.worker.accumulate(Lesson(objective.prepare(sequences), objective))["loss"] == pytest.approx(
            expected, rel=1e-5
        )


def test_the_gradient_of_two_lessons_is_their_weighted_sum(
    spec: Maker, experience: Experience, sequences: Sequences
) -> None:
    policy, text = PPOClip(), NegativeLogLikelihood()
    (one, first), (two, second) = gradients(spec(), experience, policy), gradients(spec(), sequences, text)
    worker = ModelWorker(spec(learning_rate=1e-30, maximum_gradient_norm=None))
    lessons = [Lesson(policy.prepare(experience), policy), Lesson(text.prepare(sequences), text, 0.25, "text")]
    metrics: dict[str, float] = {}
    for lesson in lessons:
        metrics |= worker.accumulate(lesson)
    assert_close(
        {name: p.grad for name, p in worker.model.named_parameters() if p.grad is not None},
        {name: one[name] + 0.25 * two[name] for name in one},
    )
    assert metrics["loss"] == pytest.approx(first["loss"]) and metrics["text/loss"] == pytest.approx(second["loss"])
    assert metrics["max/ratio"] == first["max/ratio"]
    assert Lesson(0, text, name="text").named({"max/ratio": 1.0, "loss": 2.0}) == {
        "max/text/ratio": 1.0,
        "text/loss": 2.0,
    }


def test_every_step_gets_its_share_of_the_second_lesson(
    spec: Maker, experience: Experience, sequences: Sequences
) -> None:
    rows = int(sequences.batch_size[0])
    lesson = Lesson(sequences, NegativeLogLikelihood(), name="text")
    shares = lesson.shares(2)
    assert sum(int(share.batch.batch_size[0]) for share in shares) == rows
    seen: list[list[str]] = []
    group = LocalGroup(spec())
    step = group.step
    group.step = lambda lessons, _: seen.append([lesson.name for lesson in lessons]) or step(lessons)  # type: ignore[method-assign,func-returns-value]
    group.update(experience, PPOClip(), 1, 2, 0, beside=lesson)
    assert seen == [["", "text"], ["", "text"]]


def test_a_limit_ends_the_update_before_the_step_that_exceeds_it(spec: Maker, experience: Experience) -> None:
    """The first step is at the old policy, whose KL is 0; the second would be the first to see how far that one went."""
    stopped, once, whole = (LocalGroup(spec()) for _ in range(3))
    rows = experience.replace(logprobs=stopped.token_logprobs(experience))
    found = stopped.update(rows, PPOClip(target_kl=1e-9), epochs=4, minibatches=1)
    single = once.update(rows, PPOClip())
    assert found["optimiser_steps"] == 1 == stopped.worker.steps and same(stopped, once)
    assert "optimiser_steps" not in single and "stopped" not in found
    assert found["old_kl"] > 1e-9 > single["old_kl"] and found["gradient_norm"] == single["gradient_norm"]
    assert all(parameter.grad is None for parameter in stopped.worker.trained())
    assert whole.update(rows, PPOClip(target_kl=1e3), epochs=4)["optimiser_steps"] == 4 == whole.worker.steps
    # A batch that was sampled by another policy may exceed it at once: then nothing is learned.
    assert once.update(experience, PPOClip(target_kl=1e-9), epochs=2)["optimiser_steps"] == 0 and same(once, stopped)


def test_the_limits_of_a_lesson_that_has_a_name(spec: Maker, experience: Experience) -> None:
    group = LocalGroup(spec())
    text = Lesson(experience, PPOClip(target_kl=1e-9), name="text")
    assert text.limits == {"text/old_kl": pytest.approx(1.5e-9)}
    assert group.update(experience, PPOClip(), beside=text)["text/old_kl"] > 0 and group.worker.steps == 0


def test_gradient_checkpointing_changes_nothing(spec: Maker, experience: Experience) -> None:
    plain, _ = gradients(spec(), experience, PPOClip())
    saved, _ = gradients(spec(model__gradient_checkpointing=True), experience, PPOClip())
    assert_close(saved, plain, 1e-6)


def test_bfloat16_arithmetic(spec: Maker, experience: Experience) -> None:
    plain, half = LocalGroup(spec()), LocalGroup(spec(precision="bfloat16"))
    first, second = (g.update(experience, PPOClip()) for g in (plain, half))
    assert second["entropy"] == pytest.approx(first["entropy"], rel=0.02)
    assert second["entropy"] != first["entropy"]
    assert second["skipped_steps"] == 0 and second["gradient_norm"] == pytest.approx(first["gradient_norm"], rel=0.1)
    assert all(weight.dtype == torch.float32 for weight in half.weights().values())
    assert half.token_logprobs(experience).dtype == torch.float32


# -- steps ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [None, 0.01, 1e6])
def test_clipping(spec: Maker, experience: Experience, limit: float | None) -> None:
    group = LocalGroup(spec(maximum_gradient_norm=limit))
    optimiser = group.worker.optimiser
    assert optimiser is not None
    applied: list[float] = []

    def look(*_: Any) -> None:
        applied.append(
            float(torch.nn.utils.get_total_norm([p.grad for p in group.worker.trained() if p.grad is not None]))
        )

    optimiser.register_step_pre_hook(look)
    norm = group.update(experience, PPOClip())["gradient_norm"]  # the norm before clipping is what is reported
    assert norm > 0.01
    assert applied == [pytest.approx(0.01 if limit == 0.01 else norm, rel=1e-3)]


def test_a_gradient_that_is_not_finite_is_skipped_and_counted(spec: Maker, experience: Experience) -> None:
    group, fresh = LocalGroup(spec(schedule="linear", total_steps=4)), LocalGroup(spec())
    broken = experience.replace(advantages=torch.full_like(experience.advantages, float("nan")))
    metrics = group.update(broken, PPOClip())
    assert (metrics["skipped_steps"], metrics["gradient_norm"]) == (1.0, 0.0)
    assert same(group, fresh)
    metrics = group.update(experience, PPOClip())  # nothing of it is left behind, but the schedule has moved on
    assert metrics["skipped_steps"] == 0.0 and metrics["learning_rate"] == pytest.approx(0.75e-3)
    assert not same(group, fresh)


def test_update_deals_rows_by_its_seed(spec: Maker, experience: Experience) -> None:
    groups = [LocalGroup(spec()) for _ in range(3)]
    metrics = [
        g.update(experience, PPOClip(), epochs=2, minibatches=3, seed=s) for g, s in zip(groups, (1, 1, 2), strict=True)
    ]
    assert [group.worker.steps for group in groups] == [6, 6, 6]
    assert metrics[0] == metrics[1] != metrics[2]
    assert same(groups[0], groups[1]) and not same(groups[0], groups[2])
    assert metrics[0]["max/ratio"] > metrics[0]["ratio"]


def test_what_cannot_be_updated(spec: Maker, experience: Experience) -> None:
    with pytest.raises(ValueError, match="empty batch"):
        LocalGroup(spec()).update(take(experience, []), PPOClip())
    with pytest.raises(RuntimeError, match="reference group was opened without an optimiser"):
        LocalGroup(spec(role="reference", optimiser=None)).update(experience, PPOClip())


# -- outputs --------------------------------------------------------------------------------------------------------------


def test_a_row_does_not_depend_on_the_others(spec: Maker, experience: Experience, pairs: Pairs) -> None:
    policy, critic = LocalGroup(spec()), LocalGroup(spec(kind="scalar"))
    torch.nn.init.ones_(critic.worker.model.score.weight)
    whole = policy.token_logprobs(experience)
    values, scores = critic.values(experience), critic.scores(pairs)
    assert whole.shape == values.shape == experience.tokens.shape and scores.shape == (6, 2)
    for row in (0, 3, 8, 11):
        alone = take(experience, [row])
        width = alone.tokens.shape[1]
        for found, expected in ((policy.token_logprobs(alone), whole), (critic.values(alone), values)):
            torch.testing.assert_close(found[0], expected[row, :width], rtol=1e-4, atol=1e-5)
            assert not expected[row, width:].any()
    torch.testing.assert_close(critic.scores(take(pairs, [4]))[0], scores[4], rtol=1e-4, atol=1e-5)


def test_prompts_alone_have_no_outputs(spec: Maker, prompts: Any) -> None:
    with pytest.raises(TypeError, match="prompts alone"):
        LocalGroup(spec()).outputs(prompts, ("logprobs",))


# -- keeping --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [None, LORA])
def test_a_saved_group_continues_bit_for_bit(
    spec: Maker, dropout_path: Path, experience: Experience, tmp_path: Path, lora: LoraSpec | None
) -> None:
    made = spec(
        model__path=str(dropout_path), model__dropout=0.2, model__lora=lora, schedule="linear", total_steps=8, seed=4
    )
    whole = LocalGroup(made)
    for seed in (1, 2):
        whole.update(experience, PPOClip(), minibatches=2, seed=seed)
    whole.save(tmp_path / "state")
    expected = whole.update(experience, PPOClip(), minibatches=2, seed=3)
    resumed = LocalGroup(made)
    torch.rand(7)  # the state of the global generator does not matter
    resumed.load(tmp_path / "state")
    assert resumed.update(experience, PPOClip(), minibatches=2, seed=3) == expected
    assert same(whole, resumed)


def test_weights_go_in_and_out(spec: Maker, experience: Experience, tmp_path: Path) -> None:
    group, other = LocalGroup(spec()), LocalGroup(spec())
    before = group.token_logprobs(experience)
    group.update(experience, PPOClip())
    weights = group.weights()
    other.load_weights(weights)
    assert torch.equal(other.token_logprobs(experience), group.token_logprobs(experience))
    for tensor in weights.values():
        tensor.zero_()  # a copy: the model does not notice
    assert same(group, other) and not torch.equal(group.token_logprobs(experience), before)
    with pytest.raises(ValueError, match="do not fit policy: nonsense"):
        other.load_weights({**group.weights(), "nonsense": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"do not fit policy: model\.norm\.weight"):
        other.load_weights({**group.weights(), "model.norm.weight": torch.zeros(1)})
    group.export(tmp_path / "exported")
    assert same(LocalGroup(spec(model__path=str(tmp_path / "exported"))), group)


# -- adapters and dropout -------------------------------------------------------------------------------------------------


def test_the_reference_of_adapters_is_the_model_without_them(spec: Maker, experience: Experience) -> None:
    plain, group = LocalGroup(spec()), LocalGroup(spec(model__lora=LORA, learning_rate=0.05))
    before = plain.token_logprobs(experience)
    torch.testing.assert_close(group.token_logprobs(experience), before)
    group.update(experience, PPOClip(), epochs=3)
    # Not bit for bit: small matrix products depend on where the weights lie in memory.
    torch.testing.assert_close(group.token_logprobs(experience, reference=True), before, atol=1e-6, rtol=1e-6)
    assert float((group.token_logprobs(experience) - before).abs().max()) > 0.01
    merged = LocalGroup(spec())
    merged.load_weights(group.weights())  # the weights are those of a plain model, adapters merged
    torch.testing.assert_close(
        merged.token_logprobs(experience), group.token_logprobs(experience), rtol=1e-4, atol=1e-4
    )
    with pytest.raises(ValueError, match="trains adapters and cannot take whole weights"):
        group.load_weights(plain.weights())
    with pytest.raises(ModelError, match="no adapters to switch off"):
        plain.token_logprobs(experience, reference=True)


def test_new_weights_come_from_their_seed_alone(spec: Maker) -> None:
    fields = {
        "model_type": "llama",
        "vocab_size": 260,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    fields |= {
        "intermediate_size": 16,
        "num_key_value_heads": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "bos_token_id": None,
    }
    for changes in ({"model__initialise": fields}, {"model__lora": LORA}):
        state = torch.get_rng_state()
        one, two = ModelWorker(spec(**changes, seed=1)), ModelWorker(spec(**changes, seed=2, role="reference"))
        other = ModelWorker(spec(**changes, weights_seed=1))
        assert one.checksum() == two.checksum() != other.checksum()
        assert torch.equal(torch.get_rng_state(), state)


def test_dropout_follows_seed_step_and_rank(spec: Maker, dropout_path: Path, experience: Experience) -> None:
    def losses(dropout: float = 0.3, rank: int = 0, **fields: Any) -> list[float]:
        made = spec(model__path=str(dropout_path), model__dropout=dropout, learning_rate=1e-30, **fields)
        worker, objective = ModelWorker(made, rank=rank), PPOClip()
        return [worker.step([Lesson(objective.prepare(experience), objective)])["loss"] for _ in range(2)]

    first = losses(seed=1)
    assert losses(seed=1) == first
    assert first[0] != first[1]  # each step draws anew
    assert losses(seed=9)[0] != first[0] != losses(seed=1, rank=1)[0]
    without = losses(dropout=0.0)
    assert without[0] == without[1]
    group = LocalGroup(spec(model__path=str(dropout_path), model__dropout=0.3))
    assert torch.equal(group.token_logprobs(experience), group.token_logprobs(experience))


def test_a_sampled_row_has_its_own_text_and_columns(spec: Maker, prompts: Any) -> None:
    samples = LocalGroup(spec()).generate(prompts, Sampling(maximum_tokens=4))
    assert [row["number"] for row in samples.rows] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert all("response" in row for row in samples.rows)
