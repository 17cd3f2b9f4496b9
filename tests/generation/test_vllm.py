"""The vLLM adapter against a stand-in that answers with the engine: what is asked, what is read, and when weights move."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as distributed
from pydantic import ValidationError

from fairlead.batch import Prompts, Samples, concatenate, left_pad, row_table, take
from fairlead.data import sequences_batch
from fairlead.generation import ContextError, Sampling, TreeSampling, VllmSampler, VllmSpec, generate
from fairlead.models import LoraSpec, ModelSpec
from fairlead.objectives import NegativeLogLikelihood
from fairlead.recipes import load_recipe
from fairlead.runtime import GroupSpec, LocalGroup, Mixture, OptimiserSpec
from fairlead.worlds.token_world import TokenWorld
from fake_vllm import LLM, fake_module
from tiny_models import save_tiny_model
from tiny_runs import exported, logged, run_stages

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
Maker = Callable[..., LocalGroup]


@pytest.fixture(autouse=True)
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in in place of the package."""
    monkeypatch.setitem(sys.modules, "vllm", fake_module())
    monkeypatch.setattr(VllmSampler, "_running", None)
    for name in ("VLLM_ENABLE_V1_MULTIPROCESSING", "RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.setenv(name, "1")  # whatever it was


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name, family, seed in (("one", "llama", 0), ("two", "llama", 1), ("other", "qwen2", 0)):
        save_tiny_model(folder / name, family, seed=seed)
    return folder


@pytest.fixture
def opened(folder: Path) -> Maker:
    """A group in this process that samples with vLLM; `own=True`: with the engine."""

    def make(model: str = "one", own: bool = False, lora: LoraSpec | None = None, **fields: Any) -> LocalGroup:
        group = {name: fields.pop(name) for name in list(fields) if name in ("precision", "optimiser")}
        settings = {name: fields.pop(name) for name in list(fields) if name in VllmSpec.model_fields}
        spec = ModelSpec(path=str(folder / model), lora=lora, **fields)
        return LocalGroup(GroupSpec(role="policy", model=spec, vllm=None if own else VllmSpec(**settings), **group))

    return make


def make_prompts(lengths: list[int], copies: int = 1) -> Prompts:
    generator = torch.Generator().manual_seed(0)
    distinct = [torch.randint(4, 260, (n,), generator=generator).tolist() for n in lengths]
    ids, mask = left_pad([prompt for prompt in distinct for _ in range(copies)], 0)
    index = torch.arange(len(ids))
    rows = row_table([{"prompt": f"row {i}"} for i in range(len(ids))])
    return Prompts(
        prompt_ids=ids, prompt_mask=mask, group=index // copies, seed=index + 100, rows=rows, batch_size=[len(ids)]
    )


def train(group: LocalGroup, samples: Samples) -> None:
    """One step that moves the weights far."""
    responses = [tokens[mask].tolist() for tokens, mask in zip(samples.tokens, samples.mask, strict=True)]
    documents = [([5, *response], [True] * (len(response) + 1)) for response in responses]
    group.update(sequences_batch(documents, 0), NegativeLogLikelihood())


TRAINED = OptimiserSpec(learning_rate=0.05)


# -- the samples ------------------------------------------------------------------------------------------------------

ENDS = list(range(2, 22))


@pytest.mark.parametrize(
    ("sampling", "known"),
    [
        (Sampling(maximum_tokens=12), "all"),
        (Sampling(maximum_tokens=12, stop_tokens=ENDS), "all"),
        (Sampling(maximum_tokens=12, temperature=0), "all"),
        (Sampling(maximum_tokens=12, temperature=0.7), "none"),
        (Sampling(maximum_tokens=12, top_k=20), "none"),
        (Sampling(maximum_tokens=12, top_p=0.8, min_p=0.01), "none"),
        (Sampling(maximum_tokens=12, stop_tokens=ENDS, minimum_tokens=4), "late"),
        (Sampling(maximum_tokens=3, stop_tokens=ENDS, minimum_tokens=9), "late"),
        (Sampling(maximum_tokens=30, stop=["e", "", "\n"]), "all"),
    ],
)
def test_samples_are_read_as_the_engine_writes_them(opened: Maker, sampling: Sampling, known: str) -> None:
    prompts = make_prompts([1, 5, 9, 14], copies=3)
    found, own = opened().generate(prompts, sampling), opened(own=True).generate(prompts, sampling)
    for name in ("tokens", "mask", "truncated", "group", "seed", "prompt_ids", "prompt_mask"):
        assert torch.equal(getattr(found, name), getattr(own, name)), name
    assert list(found.rows) == list(own.rows)
    assert found.batch_size == own.batch_size and found.device == own.device
    torch.testing.assert_close(found.sampling_logprobs, own.sampling_logprobs, **TOLERANCE)
    # What vLLM cannot say is NaN; the rest is the model's own distribution.
    first = {"all": 0, "none": 99, "late": sampling.minimum_tokens}[known]
    said = torch.zeros_like(found.mask)
    said[:, first:] = True
    assert torch.equal(found.logprobs.isnan(), found.mask & ~said)
    torch.testing.assert_close(found.logprobs.nan_to_num(0.0), own.logprobs.where(said, 0.0), **TOLERANCE)


def test_what_is_asked(opened: Maker) -> None:
    prompts = make_prompts([2, 3], copies=2)
    seeds = [7, -1, -(2**63), 2**62 + 5]
    sampling = Sampling(
        maximum_tokens=6, temperature=0.5, top_k=9, top_p=0.9, min_p=0.1, stop=["x"], stop_tokens=[9], minimum_tokens=2
    )
    opened().generate(prompts.replace(seed=torch.tensor(seeds)), sampling)
    (llm,) = LLM.started
    assert llm.requests == [
        {"prompt_token_ids": row[mask].tolist()}
        for row, mask in zip(prompts.prompt_ids, prompts.prompt_mask, strict=True)
    ]
    assert [params.seed for params in llm.settings] == [7, 2**63 - 1, -(2**63), 2**62 + 5]
    assert vars(llm.settings[0]) == {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 9,
        "min_p": 0.1,
        "seed": 7,
        "stop": ["x"],
        "stop_token_ids": [2, 9],  # the codec's end token is one of them
        "ignore_eos": True,
        "max_tokens": 6,
        "min_tokens": 2,
        "logprobs": 0,
        "detokenize": True,
    }
    opened().generate(prompts, Sampling(maximum_tokens=2))
    assert not llm.settings[0].detokenize


def test_an_answer_that_is_none_is_an_error(opened: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = LLM._completion

    def aborted(this: LLM, *arguments: Any) -> Any:
        answer = whole(this, *arguments)
        answer.finish_reason = "abort"
        return answer

    monkeypatch.setattr(LLM, "_completion", aborted)
    group = opened()
    with pytest.raises(RuntimeError, match=r"row 0 with 'abort'"):
        group.generate(make_prompts([2]), Sampling(maximum_tokens=2))
    assert LLM.started[0].asleep


def test_what_does_not_fit(opened: Maker) -> None:
    with pytest.raises(ContextError, match=r"context holds 128; .* maximum_tokens to 120 or less"):
        opened().generate(make_prompts([8]), Sampling(maximum_tokens=121))
    with pytest.raises(ContextError, match="context holds 20"):
        opened(context=20).generate(make_prompts([8]), Sampling(maximum_tokens=13))
    with pytest.raises(ValueError, match="without any token"):
        opened().generate(make_prompts([0, 2]), Sampling(maximum_tokens=2))
    assert not LLM.started


# -- weights ----------------------------------------------------------------------------------------------------------


def test_trees_are_refused(opened: Maker) -> None:
    with pytest.raises(ValueError, match=r"cannot grow trees: set runtime\.sampler=own"):
        opened().generate(make_prompts([2]), TreeSampling(maximum_tokens=3))


def test_weights_follow_the_model(opened: Maker) -> None:
    """With sleep they are brought for every rollout, without it after a change."""
    prompts, sampling = make_prompts([3, 5]), Sampling(maximum_tokens=8)
    group, own = opened(sleep=False, optimiser=TRAINED), opened(own=True, optimiser=TRAINED)
    first = group.generate(prompts, sampling)
    assert torch.equal(group.generate(prompts, sampling).tokens, first.tokens)
    (llm,) = LLM.started
    assert llm.calls == ["reload_weights", "reset_prefix_cache", "generate", "generate"]
    old = group.weights()
    for one in (group, own):
        train(one, first)
    second = group.generate(prompts, sampling)
    assert not torch.equal(second.tokens, first.tokens)
    assert torch.equal(second.tokens, own.generate(prompts, sampling).tokens)
    group.load_weights(old)
    assert torch.equal(group.generate(prompts, sampling).tokens, first.tokens)
    assert llm.calls[4:] == ["reload_weights", "reset_prefix_cache", "generate"] * 2 and len(LLM.started) == 1


def test_weights_follow_a_checkpoint(opened: Maker, tmp_path: Path) -> None:
    prompts, sampling = make_prompts([3, 5]), Sampling(maximum_tokens=8)
    group, fresh = opened(sleep=False, optimiser=TRAINED), opened(sleep=False, optimiser=TRAINED)
    train(group, group.generate(prompts, sampling))
    group.save(tmp_path)
    before = fresh.generate(prompts, sampling)
    fresh.load(tmp_path)
    after = fresh.generate(prompts, sampling)
    assert not torch.equal(before.tokens, after.tokens)
    assert torch.equal(after.tokens, group.generate(prompts, sampling).tokens)


def test_sleep_between_rollouts(opened: Maker) -> None:
    prompts, sampling = make_prompts([3]), Sampling(maximum_tokens=4)
    group = opened()
    first, second = (group.generate(prompts, sampling) for _ in range(2))
    assert torch.equal(first.tokens, second.tokens)
    (llm,) = LLM.started
    assert llm.calls == [
        *("reload_weights", "reset_prefix_cache", "generate", "sleep"),
        *("wake_up weights", "reload_weights", "wake_up kv_cache", "reset_prefix_cache", "generate", "sleep"),
    ]
    assert llm.arguments["enable_sleep_mode"]


def test_adapters_are_merged(opened: Maker) -> None:
    prompts, sampling = make_prompts([3, 5]), Sampling(maximum_tokens=8)
    lora = LoraSpec(rank=4, alpha=16.0)
    group, own = (opened(lora=lora, optimiser=TRAINED, own=own) for own in (False, True))
    first = group.generate(prompts, sampling)
    for one in (group, own):
        train(one, first)
        train(one, first)
    found, expected = group.generate(prompts, sampling), own.generate(prompts, sampling)
    assert torch.equal(found.tokens, expected.tokens) and not torch.equal(found.tokens, first.tokens)
    torch.testing.assert_close(found.logprobs, expected.logprobs, **TOLERANCE)


def test_one_engine_in_a_process(opened: Maker) -> None:
    """Models of one architecture take turns; another architecture gets another engine."""
    prompts, sampling = make_prompts([3, 5]), Sampling(maximum_tokens=8)
    one, two, other = (opened(name, sleep=False) for name in ("one", "two", "other"))
    answers = [group.generate(prompts, sampling).tokens for group in (one, two, one)]
    assert torch.equal(answers[0], answers[2]) and not torch.equal(answers[0], answers[1])
    assert len(LLM.started) == 1 and LLM.started[0].calls.count("reload_weights") == 3
    directory = Path(LLM.started[0].model)
    assert torch.equal(
        other.generate(prompts, sampling).tokens, opened("other", own=True).generate(prompts, sampling).tokens
    )
    assert len(LLM.started) == 2 and not directory.exists()


# -- starting ---------------------------------------------------------------------------------------------------------


def test_how_vllm_is_started(opened: Maker) -> None:
    group = opened(memory=0.25, context=64, sleep=False, options={"enforce_eager": True}, dtype="float16")
    assert not LLM.started  # a group that is never asked starts nothing
    group.generate(make_prompts([2]), Sampling(maximum_tokens=2))
    assert LLM.started[0].arguments == {
        "dtype": "float16",
        "load_format": "dummy",
        "max_model_len": 64,
        "gpu_memory_utilization": 0.25,
        "enable_sleep_mode": False,
        "logprobs_mode": "processed_logprobs",
        "generation_config": "vllm",
        "distributed_executor_backend": "uni",
        "enforce_eager": True,
    }
    opened(precision="bfloat16").generate(make_prompts([2]), Sampling(maximum_tokens=2))
    assert LLM.started[1].arguments["dtype"] == "bfloat16"
    assert LLM.started[1].arguments["max_model_len"] == 128


def test_several_ranks(opened: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines of ranks come up together, so one without rows comes up too."""
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 3)
    monkeypatch.setattr(distributed, "get_rank", lambda: 2)
    samples = opened().generate(take(make_prompts([2, 3]), []), Sampling(maximum_tokens=2))
    assert samples.tokens.shape == (0, 0) and samples.truncated.shape == (0,) and list(samples.rows) == []
    assert len(concatenate([samples, opened(own=True).generate(make_prompts([2]), Sampling(maximum_tokens=2))])) == 1
    (llm,) = LLM.started
    assert llm.arguments["distributed_executor_backend"] == "external_launcher" and "generate" not in llm.calls
    assert [os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")] == ["2", "3", "0"]


def test_settings_that_are_not_yours() -> None:
    with pytest.raises(ValidationError, match="dtype, tensor_parallel_size cannot be set here"):
        VllmSpec(options={"tensor_parallel_size": 2, "dtype": "half", "seed": 1})


def test_without_vllm(opened: Maker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)  # as if it were not installed
    with pytest.raises(RuntimeError, match=r'pip install "fairlead\[vllm\]", or set runtime\.sampler=own'):
        opened()
    assert opened(own=True).generate(make_prompts([2]), Sampling(maximum_tokens=2)).tokens.shape == (1, 2)
    with pytest.raises(RuntimeError, match=r"runtime\.sampler is vllm, but"):
        run_stages(tmp_path / "run", grpo(tmp_path), runtime={"threads": 1, "sampler": "vllm"})


# -- a run ------------------------------------------------------------------------------------------------------------


def grpo(folder: Path, **fields: Any) -> dict[str, Any]:
    """Two steps of GRPO in a small world."""
    if not (folder / "world").exists():
        world = TokenWorld(symbols=4, maximum_tokens=4)
        world.save_model(folder / "world")
        world.save_prompts(folder / "world.jsonl")
    stage = {
        "model": str(folder / "world"),
        "prompts": str(folder / "world.jsonl"),
        "rewards": {"share": {"part": "test-share-of"}},
        "steps": 2,
        "batch_size": 3,
        "rollout": {"part": "sample", "n": 4, "sampling": {"maximum_tokens": 4}},
        "credit": "group-relative",
        "regulariser": {"part": "kl", "place": "loss", "estimator": "k3"},
        "optimiser": {"learning_rate": 1e-2},
    }
    return {"online": stage | fields}


@pytest.mark.parametrize("lora", [None, {"rank": 4}])
def test_a_run_samples_what_the_engine_samples(tmp_path: Path, lora: dict[str, Any] | None) -> None:
    model = {"path": str(tmp_path / "world"), "lora": lora}
    stages = grpo(tmp_path, model=model, old_logprobs="recompute")
    own = run_stages(tmp_path / "own", stages)
    assert not LLM.started
    other = run_stages(tmp_path / "other", stages, runtime={"threads": 1, "sampler": "vllm"})
    (llm,) = LLM.started
    assert llm.calls.count("generate") == llm.calls.count("reload_weights") == 2
    assert (own.directory / "samples.jsonl").read_bytes() == (other.directory / "samples.jsonl").read_bytes()
    weights = [exported(run.directory, "online") for run in (own, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    rows = logged(own.directory, "online"), logged(other.directory, "online")
    assert [row["score"] for row in rows[0]] == [row["score"] for row in rows[1]]
    assert rows[1][0]["mismatch"] == pytest.approx(0, abs=1e-5) and rows[1][0]["policy/max/ratio"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("sampling", "choice", "passes"),
    [({}, "auto", 2), ({}, "sampler", 0), ({"top_k": 3}, "sampler", 2), ({"temperature": 0.7}, "sampler", 0)],
)
def test_old_log_probabilities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampling: dict[str, Any], choice: str, passes: int
) -> None:
    """Of another arithmetic, so `auto` recomputes; and what vLLM cannot say is recomputed whatever is chosen."""
    asked: list[float] = []
    whole = LocalGroup.outputs

    def counted(this: LocalGroup, batch: Any, needs: Any, temperature: float = 1.0, reference: bool = False) -> Any:
        if this.spec.role == "policy":
            asked.append(temperature)
        return whole(this, batch, needs, temperature, reference)

    monkeypatch.setattr(LocalGroup, "outputs", counted)
    rollout = {"part": "sample", "n": 4, "sampling": {"maximum_tokens": 4, **sampling}}
    stages = grpo(tmp_path, rollout=rollout, old_logprobs=choice)
    run = run_stages(tmp_path / "run", stages, runtime={"threads": 1, "sampler": "vllm"})
    assert len(asked) == passes
    assert logged(run.directory, "online")[0]["policy/max/ratio"] == pytest.approx(1, abs=1e-5)


def test_one_word_in_a_recipe(folder: Path) -> None:
    recipe = load_recipe("grpo", ["runtime.sampler=vllm", "runtime.vllm.memory=0.6"])
    assert recipe.runtime.sampler == "vllm" and recipe.runtime.vllm == VllmSpec(memory=0.6)
    assert load_recipe("grpo").runtime.sampler == "own"


@pytest.mark.parametrize(
    ("fields", "exact"),
    [({}, True), ({"vllm": VllmSpec()}, False), ({"precision": "bfloat16"}, False), ({"dtype": "bfloat16"}, False)],
)
def test_whose_log_probabilities_are_exact(fields: dict[str, Any], exact: bool) -> None:
    model = ModelSpec(path="x", dtype=fields.pop("dtype", "float32"))
    assert GroupSpec(role="policy", model=model, **fields).exact_sampler is exact


def test_the_engine_is_asked_in_the_same_way(opened: Maker) -> None:
    """`generate` and the sampler take the same arguments and give the same type."""
    group = opened()
    sampler, worker = group.worker.sampler, group.worker
    assert sampler is not None
    prompts, sampling = make_prompts([2]), Sampling(maximum_tokens=3)
    one, other = (f(worker.model, worker.codec, prompts, sampling) for f in (sampler.generate, generate))
    assert type(one) is type(other) and torch.equal(one.tokens, other.tokens)


def test_vllm_samples_from_one_model(opened: Maker) -> None:
    with pytest.raises(
        ValueError, match=r"vLLM cannot sample from a mixture of two models: set runtime\.sampler to own"
    ):
        opened().generate(make_prompts([2]), Sampling(maximum_tokens=3), Mixture(0.5, opened("two", own=True)))
