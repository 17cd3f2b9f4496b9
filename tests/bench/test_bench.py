"""The measuring of speed: models of known lengths, rows as recipes, costs by hand, and the table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from fairlead import bench
from fairlead.bench import command
from fairlead.cli import app
from fairlead.data import TextCodec
from fairlead.models import ModelSpec, load_tokenizer
from fairlead.recipes import Recipe

ROOF = bench.Roof({"float32": 1e11, "bfloat16": 2e11}, 1e10)
TINY = {
    "grpo-full": {"prompts": 2, "samples": 2, "prompt_tokens": 4, "maximum_tokens": 3},
    "ppo-natural": {"prompts": 4, "prompt_tokens": 4, "maximum_tokens": 6, "mean_length": 3.0},
    "dpo": {"prompts": 2},
    "reward": {"prompts": 2},
    "sft": {"prompts": 4, "maximum_length": 64},
}


@pytest.fixture
def tiny_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, sizes in TINY.items():
        monkeypatch.setitem(bench.ROWS, name, replace(bench.ROWS[name], **sizes))


@pytest.fixture(scope="module")
def steered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bench.write_model(tmp_path_factory.mktemp("models") / "steered", "1m", mean_length=16)


def end_probability(directory: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    torch.manual_seed(3)
    with torch.no_grad():
        logits = model(torch.randint(4, bench.models.VOCABULARY, (4, 50))).logits
    return torch.softmax(logits, -1)[..., [1, 0, 2, 3]].flatten(0, 1)


def test_the_end_token_is_as_likely_as_asked_after_every_token(steered: Path) -> None:
    probability = end_probability(steered)
    assert float(probability[:, 0].mean()) == pytest.approx(1 / 16, rel=0.15)
    assert float(probability[:, 0].std()) < 0.4 / 16
    assert float(probability[:, 1:].max()) < 1e-9  # padding and roles are never drawn


def test_without_a_mean_length_nothing_ends(tmp_path: Path) -> None:
    assert float(end_probability(bench.write_model(tmp_path / "endless", "1m"))[:, 0].max()) < 1e-9


def test_words_survive_decoding(steered: Path) -> None:
    codec = TextCodec(load_tokenizer(ModelSpec(path=str(steered))))
    ids = [7, 4095, 4, 7]
    assert codec.encode_prompt(codec.decode(ids)) == ids
    assert codec.decode(ids) == " ".join(map(bench.word, ids))


def test_prompts_have_exactly_as_many_tokens_as_asked(steered: Path, tmp_path: Path) -> None:
    path = bench.write_prompts(tmp_path / "prompts.jsonl", str(steered), 9, 5)
    codec = TextCodec(load_tokenizer(ModelSpec(path=str(steered))))
    prompts = [json.loads(line)["prompt"] for line in Path(path).read_text().splitlines()]
    assert [len(codec.encode_prompt(prompt)) for prompt in prompts] == [9] * 5
    assert len(set(prompts)) == 5


@pytest.mark.parametrize("name", bench.ROWS)
def test_every_row_is_a_valid_recipe(name: str) -> None:
    row = bench.ROWS[name]
    stage = bench.Work("m", "d", "s", packed_rows=2).stage(row, 7)
    found = Recipe.model_validate({"stages": {"bench": stage}}).stages["bench"].model_dump()
    assert found["steps"] == 7
    if row.online:
        assert found["batch_size"] * found["rollout"]["n"] == row.sequences
    assert found["save_every"] == 0


def test_cost_of_a_model_counts_its_matrices(steered: Path) -> None:
    cost = bench.ModelCost.of(str(steered))
    # Three layers of queries and outputs 128 × 128, keys and values 128 × 64, and three matrices 128 × 320.
    assert cost.body == 3 * (2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 320)
    assert (cost.head, cost.layers, cost.attention_width, cost.cache_width) == (4096 * 128, 3, 128, 64)


def test_demands_by_hand() -> None:
    cost = bench.ModelCost(body=10, head=100, layers=1, attention_width=2, cache_width=1)
    row = replace(bench.ROWS["grpo-full"], prompts=1, samples=2, prompt_tokens=3, maximum_tokens=2)
    found = bench.demands(row, cost, "float32", response=2, sequence=5, longest=2)
    context = 2 * 15  # positions 1 … 5 attend to as many
    forward = 2 * 10 * 10 + 2 * 100 * 4 + 8 * context
    assert found["scoring"].flops == 2 * forward and found["training"].flops == 3 * forward
    # The second sample's prompt is the first one's: 3 tokens and 6 attended positions less.
    assert found["sampling"].flops == 2 * 10 * 7 + 2 * 100 * 4 + 8 * (context - 6)
    assert found["sampling"].bytes == 2 * 110 * 4 + 2 * 4 * (context - 2 * 6)
    assert found["sampling"].tokens == 4 and found["training"].tokens == 10


def test_roof_is_the_slower_of_arithmetic_and_memory() -> None:
    assert ROOF.seconds(bench.Demand(1, 1e11, 1e9), "float32") == pytest.approx(1.0)
    assert ROOF.seconds(bench.Demand(1, 1e11, 1e10), "bfloat16") == pytest.approx(1.0)


def test_measured_roof_is_positive() -> None:
    roof = bench.measure_roof(64, 1, 0.01)
    assert min(roof.flops.values()) > 0 and roof.bandwidth > 0


@pytest.mark.usefixtures("tiny_rows")
def test_bench_measures_rows_and_shows_them(tmp_path: Path) -> None:
    rows = ["grpo-full", "ppo-natural", "sft", "dpo"]
    out = tmp_path / "bench.json"
    table = command.bench(
        "1m", rows, ["float32"], 1, data="fairlead:starter/validation", out=out, apart=False, roof=ROOF
    )
    page = json.loads(out.read_text())
    full, natural, packed, pairs = page["rows"]
    assert [row["row"] for row in page["rows"]] == rows
    assert full["mean_response"] == 3.0 and 1 <= natural["mean_response"] <= 6
    assert set(full["phases"]) == {"sampling", "scoring", "training"} and set(packed["phases"]) == {"training"}
    assert set(pairs["phases"]) == {"scoring", "training"}
    for row in page["rows"]:
        assert row["step_seconds"] >= sum(phase["seconds"] for phase in row["phases"].values()) * 0.99
        assert all(phase["share_of_roof"] > 0 for phase in row["phases"].values())
    console = Console(width=200, record=True, file=(tmp_path / "shown").open("w"))
    console.print(table)
    shown = console.export_text()
    assert "ppo-natural" in shown and "GB/s" in shown


@pytest.mark.usefixtures("tiny_rows")
def test_the_supervised_row_learns_the_chosen_side_of_pairs(tmp_path: Path) -> None:
    lengths = []
    for chosen, rejected in (("in the garden", "no"), ("in the garden", "no " * 20), ("in the green garden", "no")):
        pairs, out = tmp_path / "pairs.jsonl", tmp_path / "bench.json"
        pair = {"prompt": "where is the dog", "chosen": chosen, "rejected": rejected}
        pairs.write_text((json.dumps(pair) + "\n") * 40)
        command.bench("1m", ["sft"], ["float32"], 1, data=str(pairs), out=out, apart=False, roof=ROOF)
        lengths.append(json.loads(out.read_text())["rows"][0]["mean_response"])
    assert lengths[0] == lengths[1] < lengths[2]


def test_a_job_needs_a_step_to_warm_up() -> None:
    with pytest.raises(bench.BenchError, match="at least 2 steps"):
        bench.measure(bench.Job({}, 1))


def test_an_unknown_row_is_named() -> None:
    result = CliRunner().invoke(app, ["bench", "--rows", "grpo-ful"])
    assert result.exit_code == 2 and "grpo-full" in result.output
