"""The Ray back end gives what the local one gives: verb by verb, after several updates, and through whole stages."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fairlead.batch import Experience, Pairs, take
from fairlead.generation import Sampling, Tree, TreeSampling
from fairlead.generation.engine import ContextError
from fairlead.models import LoraSpec, ModelError, load_model
from fairlead.objectives import DPO, NegativeLogLikelihood, PPOClip, ValueClip
from fairlead.rewards import LengthReward
from fairlead.rollouts import SampleRollout
from fairlead.runs import Run, read_json_lines
from fairlead.runtime import GroupSpec, Lesson, LocalGroup, Mixture, ModelGroup, OptimiserSpec, RuntimeSpec, open_group
from fairlead.stages import Online, Preference
from tiny_models import save_tiny_model

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason='Ray is not installed: pip install "fairlead[ray]"'
    ),
]

Maker = Callable[..., GroupSpec]
Opener = Callable[[GroupSpec], Any]
RAY = RuntimeSpec(backend="ray", workers=2, threads=1)


@pytest.fixture(scope="module")
def ray_policy(spec: Maker) -> Iterator[Any]:
    """A group that stays open, so that its two processes are there for every test of this file."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        group = open_group(spec(), RAY)
    assert signal.getsignal(signal.SIGTERM) is before  # a run that is asked to stop saves first
    yield group
    group.close()
    import ray

    ray.shutdown()


@pytest.fixture
def on_ray(ray_policy: Any) -> Iterator[Opener]:
    opened: list[ModelGroup] = []

    def open_one(spec: GroupSpec) -> ModelGroup:
        opened.append(open_group(spec, RAY))
        return opened[-1]

    yield open_one
    for group in opened:
        group.close()


def assert_same_weights(one: ModelGroup, other: ModelGroup, tolerance: float = 1e-5) -> None:
    expected = one.weights()
    found = other.weights()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=tolerance)


def assert_replicas_equal(group: Any) -> None:
    checksums = group.checksums()
    assert len(checksums) == 2 and len(set(checksums)) == 1


# -- reading --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [range(12), [4, 4, 4], [9]])
def test_generate(ray_policy: Any, spec: Maker, prompts: Any, rows: Any) -> None:
    local, asked = LocalGroup(spec()), take(prompts, rows)
    sampling = Sampling(maximum_tokens=8, temperature=0.8, top_k=50)
    expected, found = local.generate(asked, sampling), ray_policy.generate(asked, sampling)
    for name in ("prompt_ids", "prompt_mask", "tokens", "mask", "group", "seed", "truncated"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    for name in ("logprobs", "sampling_logprobs"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-5)
    assert list(found.rows) == list(expected.rows)
    assert type(Experience.from_samples(found)) is Experience


def test_a_mixture(ray_policy: Any, on_ray: Opener, spec: Maker, prompts: Any, tmp_path: Path) -> None:
    other = spec(role="reference", optimiser=None, model__path=str(save_tiny_model(tmp_path, seed=1)))
    sampling = Sampling(maximum_tokens=8, temperature=0.8)
    here, there = LocalGroup(other), on_ray(other)
    expected = LocalGroup(spec()).generate(prompts, sampling, Mixture(0.4, here))
    found = ray_policy.generate(prompts, sampling, Mixture(0.4, there))
    assert torch.equal(found.tokens, expected.tokens) and list(found.rows) == list(expected.rows)
    torch.testing.assert_close(found.sampling_logprobs, expected.sampling_logprobs, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="policy and reference do not share their processes"):
        ray_policy.generate(prompts, sampling, Mixture(0.4, here))
    with pytest.raises(ValueError, match="reference does not live in this process"):
        here.generate(prompts, sampling, Mixture(0.4, there))


def test_a_tree_grows_on_one_worker(ray_policy: Any, spec: Maker, prompts: Any) -> None:
    tree = Tree(least_probability=0.0, largest_gap=1.0, lookahead=[2])
    asked = take(prompts, [4, 4, 4, 7, 7, 7, 7]).replace(group=torch.tensor([0, 0, 0, 1, 1, 1, 1]))
    expected, found = (
        g.generate(asked, TreeSampling(maximum_tokens=8, tree=tree)) for g in (LocalGroup(spec()), ray_policy)
    )
    assert torch.equal(found.tokens, expected.tokens) and list(found.rows) == list(expected.rows)
    assert found.extras["branched"].tolist() == expected.extras["branched"].tolist() == [2.0] * 3 + [3.0] * 4


@pytest.mark.parametrize("rows", [range(12), [8], [7]])
def test_outputs(ray_policy: Any, spec: Maker, experience: Experience, rows: Any) -> None:
    batch = experience[torch.tensor(list(rows))]  # not trimmed: the outputs are as wide as the batch
    local = LocalGroup(spec())
    found = ray_policy.outputs(batch, ("logprobs", "entropy"), 0.7)
    expected = local.outputs(batch, ("logprobs", "entropy"), 0.7)
    assert found.values is None and found.scores is None
    torch.testing.assert_close(found.logprobs, expected.logprobs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.entropy, expected.entropy, rtol=1e-4, atol=1e-5)


def test_scalars_and_pairs(
    on_ray: Opener, model_path: Path, tmp_path: Path, experience: Experience, pairs: Pairs
) -> None:
    from transformers import AutoTokenizer

    from fairlead.models import ModelSpec

    scalar = load_model(ModelSpec(path=str(model_path)), "scalar", labels=3)
    torch.nn.init.normal_(scalar.score.weight)
    scalar.save_pretrained(tmp_path / "scalar")
    AutoTokenizer.from_pretrained(model_path).save_pretrained(tmp_path / "scalar")
    spec = GroupSpec(role="reward", model=ModelSpec(path=str(tmp_path / "scalar")), kind="scalar", labels=3)
    group, local = on_ray(spec), LocalGroup(spec)
    for batch in (experience, pairs):
        torch.testing.assert_close(group.scores(batch), local.scores(batch), rtol=1e-4, atol=1e-5)
    assert group.scores(pairs).shape == (6, 2, 3)


# -- training -------------------------------------------------------------------------------------------------------------


def test_one_step_of_every_objective(case: tuple[str, Any, Any], on_ray: Opener, spec: Maker) -> None:
    kind, batch, objective = case
    made = spec(kind=kind)
    group, local = on_ray(made), LocalGroup(made)
    expected, found = local.update(batch, objective), group.update(batch, objective)
    assert found == pytest.approx(expected, rel=2e-4, abs=1e-5)
    assert_same_weights(local, group)
    assert_replicas_equal(group)


def test_five_updates(on_ray: Opener, spec: Maker, experience: Experience) -> None:
    made = spec(schedule="cosine", total_steps=30, tokens_per_microbatch=60)
    group, local = on_ray(made), LocalGroup(made)
    for seed in range(5):
        expected, found = (g.update(experience, PPOClip(), 2, 3, seed) for g in (local, group))
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert_same_weights(local, group)
    assert_replicas_equal(group)


def test_two_lessons_in_every_step(on_ray: Opener, spec: Maker, experience: Experience, sequences: Any) -> None:
    group, local = on_ray(spec()), LocalGroup(spec())
    beside = Lesson(sequences, NegativeLogLikelihood(), 0.5, "text")
    expected, found = (g.update(experience, PPOClip(), 2, 1, 0, beside=beside) for g in (local, group))
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-4) and found["text/loss"] > 0
    assert_same_weights(local, group)
    assert_replicas_equal(group)


def test_a_limit_ends_the_update_everywhere(on_ray: Opener, spec: Maker, experience: Experience) -> None:
    group, local = on_ray(spec()), LocalGroup(spec())
    rows = experience.replace(logprobs=local.token_logprobs(experience))
    objective = PPOClip(target_kl=1e-5)
    expected, found = (g.update(rows, objective, 4, 2) for g in (local, group))
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-4) and 0 < found["optimiser_steps"] < 8
    assert_same_weights(local, group)
    assert_replicas_equal(group)


def test_fewer_rows_than_workers(on_ray: Opener, spec: Maker, experience: Experience) -> None:
    group, local = on_ray(spec()), LocalGroup(spec())
    expected, found = (g.update(take(experience, [2]), PPOClip()) for g in (local, group))
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert_same_weights(local, group)
    assert_replicas_equal(group)


def test_adapters(on_ray: Opener, spec: Maker, experience: Experience) -> None:
    made = spec(model__lora=LoraSpec(rank=2), weight_decay=0.1, learning_rate=0.01)
    group, local = on_ray(made), LocalGroup(made)
    before = group.token_logprobs(experience)
    for each in (group, local):
        each.update(experience, PPOClip(), epochs=2)
    assert_same_weights(local, group, 1e-4)
    assert_replicas_equal(group)
    torch.testing.assert_close(group.token_logprobs(experience, reference=True), before)


def test_bad_gradients_are_skipped_everywhere(on_ray: Opener, spec: Maker, experience: Experience) -> None:
    group = on_ray(spec())
    before = group.checksums()
    broken = experience.advantages.clone()
    broken[0] = float("nan")  # on one rank only
    metrics = group.update(experience.replace(advantages=broken), PPOClip())
    assert metrics["skipped_steps"] == 1.0
    assert group.checksums() == before
    assert group.update(experience, PPOClip())["skipped_steps"] == 0.0
    assert_replicas_equal(group)


def test_dropout_differs_between_ranks_and_is_repeatable(
    on_ray: Opener, spec: Maker, dropout_path: Path, experience: Experience
) -> None:
    twins = take(experience, [0, 0])  # the same row on both ranks
    made = spec(model__path=str(dropout_path), model__dropout=0.3, seed=3)
    one, two = on_ray(made), on_ray(made)
    first = one.update(twins, PPOClip())
    assert two.update(twins, PPOClip()) == first
    assert one.checksums() == two.checksums()
    alone = LocalGroup(made).update(take(experience, [0]), PPOClip())  # what both would give if they drew alike
    assert abs(alone["loss"] - first["loss"]) > 1e-6


# -- keeping --------------------------------------------------------------------------------------------------------------


def test_saving_and_weights(on_ray: Opener, spec: Maker, experience: Experience, tmp_path: Path) -> None:
    made = spec(schedule="linear", total_steps=4)
    group, local = on_ray(made), LocalGroup(made)
    group.update(experience, PPOClip())
    group.save(tmp_path / "state")
    local.load(tmp_path / "state")  # a checkpoint does not know its back end
    expected, found = (g.update(experience, PPOClip()) for g in (local, group))
    assert found["learning_rate"] == expected["learning_rate"] == pytest.approx(0.75e-3)
    assert_same_weights(local, group)
    after = group.checksums()
    group.load(tmp_path / "state")
    group.update(experience, PPOClip())
    assert group.checksums() == after  # bit for bit
    group.export(tmp_path / "model", "bfloat16")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == "bfloat16"
    fresh = on_ray(spec())
    weights = local.weights()
    fresh.load_weights(weights)
    assert_same_weights(local, fresh, 0.0)
    assert_replicas_equal(fresh)
    assert fresh.weights()["model.norm.weight"].add_(1).sum() != 0  # memory of their own, which may be written to


# -- errors ---------------------------------------------------------------------------------------------------------------


def test_errors_are_those_of_the_local_group(
    ray_policy: Any, on_ray: Opener, spec: Maker, prompts: Any, pairs: Pairs
) -> None:
    with pytest.raises(ContextError, match="context holds 128"):
        ray_policy.generate(prompts, Sampling(maximum_tokens=127))
    with pytest.raises(ValueError, match="do not fit policy"):
        ray_policy.load_weights({"x": torch.zeros(1)})
    with pytest.raises(ModelError, match="no adapters"):
        ray_policy.token_logprobs(pairs, reference=True)
    with pytest.raises(TypeError, match="prompts alone"):
        ray_policy.outputs(prompts, ("logprobs",))
    with pytest.raises(ModelError, match="no model at"):
        on_ray(spec(model__path="/nowhere/at/all"))
    with pytest.raises(FileNotFoundError, match="storage that all machines share"):
        ray_policy.load(Path("/nowhere/at/all"))
    with pytest.raises(RuntimeError, match="reference group was opened without an optimiser"):
        on_ray(spec(role="reference", optimiser=None)).update(pairs, DPO())
    closed = on_ray(spec())
    closed.close()
    closed.close()
    with pytest.raises(RuntimeError, match="policy group is closed"):
        closed.weights()


def test_a_failure_on_one_rank_does_not_leave_the_other_waiting(on_ray: Opener, spec: Maker, pairs: Pairs) -> None:
    group = on_ray(spec())
    before = group.checksums()
    broken = pairs.tokens.clone()
    broken[0, 0, 0] = 10**6  # no such token: one rank cannot embed it
    with pytest.raises((IndexError, RuntimeError), match=r"out of (range|bounds)"):
        group.update(pairs.replace(tokens=broken), DPO())
    assert group.checksums() == before
    local = LocalGroup(spec())
    for each in (group, local):
        each.update(pairs, DPO())
    assert_same_weights(local, group)  # nothing of the failed gradient is left


def test_without_ray(monkeypatch: pytest.MonkeyPatch, spec: Maker) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RuntimeError, match=r'pip install "fairlead\[ray\]"'):
        open_group(spec(), RAY)


def test_more_workers_than_gpus(monkeypatch: pytest.MonkeyPatch, ray_policy: Any, spec: Maker) -> None:
    import ray

    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": 2.0})
    with pytest.raises(RuntimeError, match=r"runtime\.workers is 3, but Ray sees 2 GPUs, of which 2 are taken"):
        open_group(spec(), RuntimeSpec(backend="ray", workers=3))


# -- whole stages ---------------------------------------------------------------------------------------------------------


def run_stage(stage: Any, directory: Path, runtime: RuntimeSpec) -> tuple[list[dict[str, Any]], Any]:
    """Logged metrics without those of the clock, and the model that the stage made."""
    run = Run(directory, seed=3, runtime=runtime, quiet=True)
    try:
        stage.run(run.stage("one", stage.part_name))
    finally:
        run.close()
    rows = read_json_lines(directory / "metrics.jsonl")
    clock = ("time", "tokens_per_second", "peak_memory")
    logged = [{k: v for k, v in row.items() if k not in clock and not k.startswith("seconds/")} for row in rows]
    return logged, load_model(
        GroupSpec(role="policy", model={"path": str(directory / "stages" / "one" / "model")}).model
    )


def assert_same_run(stage: Callable[[], Any], directory: Path) -> None:
    expected, local = run_stage(stage(), directory / "local", RuntimeSpec())
    found, distributed = run_stage(stage(), directory / "ray", RAY)
    assert [row["step"] for row in found] == [1, 2, 3]
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        assert one.pop("stage") == other.pop("stage")
        assert one == pytest.approx(other, rel=2e-3, abs=2e-4)
    for one, other in zip(distributed.parameters(), local.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-5)


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("critic", [None, {"trunk": "policy", "coefficient": 0.5}])
def test_ppo_with_critic(ray_policy: Any, model_path: Path, tmp_path: Path, critic: Any) -> None:
    prompts = write(tmp_path / "prompts.jsonl", [{"prompt": f"{'count ' * (i % 3)}{i}?"} for i in range(8)])

    def stage() -> Online:
        return Online(
            model=str(model_path),
            prompts=prompts,
            rewards={"length": LengthReward(shortest=4)},
            rollout=SampleRollout(n=2, sampling=Sampling(maximum_tokens=8)),
            objective=PPOClip(),
            value_objective=ValueClip(),
            critic=critic,
            optimiser=OptimiserSpec(learning_rate=3e-4, tokens_per_microbatch=100),
            steps=3,
            batch_size=4,
            epochs=2,
            minibatches=2,
            save_every=2,
        )

    assert_same_run(stage, tmp_path)


def test_dpo(ray_policy: Any, model_path: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}?", "chosen": "yes " * (1 + i % 2), "rejected": "no " * (1 + i % 3)} for i in range(8)]
    pairs = write(tmp_path / "pairs.jsonl", rows)

    def stage() -> Preference:
        optimiser = OptimiserSpec(learning_rate=3e-4)
        return Preference(
            model=str(model_path), data=pairs, validation=pairs, steps=3, batch_size=4, optimiser=optimiser
        )

    assert_same_run(stage, tmp_path)


# -- the end (these tests take the processes of this file away, so they stand last) -----------------------------------------


def test_the_death_of_a_worker(ray_policy: Any, on_ray: Opener, spec: Maker, sequences: Any) -> None:
    import ray

    critic = on_ray(spec(role="critic"))
    victim = ray.get(critic._processes.actors[1].process_id.remote())
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"worker 1 of the critic group died during step .*fairlead run --resume"):
        critic.update(sequences, NegativeLogLikelihood())
    with pytest.raises(RuntimeError, match=r"worker \d of the policy group died during weights"):
        ray_policy.weights()  # it lived in the same processes
    critic.close()
