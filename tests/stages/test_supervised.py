"""Supervised fine-tuning: what is learned, packing, validation, what is written."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer

from tiny_runs import exported, logged, run_stages, write_records


def sft(shelf: Path, **fields: Any) -> dict[str, Any]:
    stage = {"model": str(shelf / "tiny"), "data": str(shelf / "chats.jsonl"), "batch_size": 5, "steps": 1}
    return {"sft": stage | {"maximum_length": 64, "optimiser": {"learning_rate": 3e-3}} | fields}


def first_loss(directory: Path, stages: dict[str, Any]) -> float:
    run_stages(directory, stages)
    return float(logged(directory, "sft")[0]["policy/loss"])


def by_hand(shelf: Path, documents: list[list[tuple[str, bool]]]) -> float:
    """Mean negative log-likelihood of the pieces marked true, by transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(shelf / "tiny")
    model = AutoModelForCausalLM.from_pretrained(shelf / "tiny")
    losses = []
    for pieces in documents:
        ids: list[int] = []
        learned: list[bool] = []
        for text, counts in pieces:
            new = tokenizer(text, add_special_tokens=False)["input_ids"]
            ids += new
            learned += [counts] * len(new)
        with torch.no_grad():
            logprobs = torch.log_softmax(model(torch.tensor([ids])).logits[0].float(), -1)
        losses += [-logprobs[i - 1, ids[i]] for i in range(1, len(ids)) if learned[i]]
    return float(torch.stack(losses).mean())


TALK = [("user", "hi"), ("assistant", "yes"), ("user", "so"), ("assistant", "no")]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("learn", ["assistant", "last", "all"])
def test_which_tokens_count(shelf: Path, tmp_path: Path, learn: str, packed: bool) -> None:
    messages = [{"role": role, "content": text} for role, text in TALK]
    data = write_records(tmp_path / "talk.jsonl", [{"messages": messages}, {"messages": messages[:2]}])
    pieces: list[tuple[str, bool]] = []
    for index, (role, text) in enumerate(TALK):
        final = {"assistant": role == "assistant", "last": index == 3, "all": True}[learn]
        pieces += [(f"<|im_start|>{role}\n", learn == "all"), (f"{text}<|im_end|>", final), ("\n", learn == "all")]
    short = [*pieces[:4], (pieces[4][0], True)]
    expected = by_hand(shelf, [pieces[:-1], short])
    stages = sft(shelf, data=data, learn=learn, packed=packed, maximum_length=128, batch_size=1 if packed else 2)
    assert first_loss(tmp_path / "run", stages) == pytest.approx(expected, abs=1e-4)


def test_completions_and_texts(shelf: Path, tmp_path: Path) -> None:
    """Of a prompt with a response only the response counts, of a text everything."""
    data = write_records(tmp_path / "a.jsonl", [{"prompt": "ab", "response": "cd"}, {"text": "hello"}])
    expected = by_hand(shelf, [[("ab", False), ("cd<|im_end|>", True)], [("hello<|im_end|>", True)]])
    assert first_loss(tmp_path / "run", sft(shelf, data=data, batch_size=1)) == pytest.approx(expected, abs=1e-4)


def test_packed_and_unpacked_train_alike(shelf: Path, tmp_path: Path) -> None:
    """All records in one step: two packed rows have the loss and, but for rounding, the gradient of five."""
    one = first_loss(tmp_path / "one", sft(shelf, packed=False))
    two = first_loss(tmp_path / "two", sft(shelf, packed=True, maximum_length=128, batch_size=2))
    assert one == pytest.approx(two, abs=1e-5)
    norms = [logged(tmp_path / name, "sft")[0]["policy/gradient_norm"] for name in ("one", "two")]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


def test_it_learns_validates_and_writes_a_model(shelf: Path, tmp_path: Path) -> None:
    held_out = str(shelf / "chats.jsonl")
    stages = sft(shelf, steps=12, validation=held_out, validate_every=4, optimiser={"learning_rate": 1e-2})
    run = run_stages(tmp_path / "run", stages)
    rows = logged(run.directory, "sft")
    assert rows[-1]["policy/loss"] < 0.6 * rows[0]["policy/loss"]
    assert [row["step"] for row in rows if "validation/loss" in row] == [4, 8, 12]
    validation = run.results["sft"]["validation"]
    assert validation["perplexity"] == pytest.approx(math.exp(validation["loss"]))
    assert validation["loss"] == rows[-1]["validation/loss"] < rows[3]["validation/loss"]
    # One token a byte, plus an end token for each of the five answers that stands for no byte.
    size = validation["tokens"] - 5
    assert validation["bits_per_byte"] == pytest.approx(validation["loss"] * validation["tokens"] / size / math.log(2))
    folder = run.directory / "stages" / "sft" / "model"
    assert AutoTokenizer.from_pretrained(folder).chat_template
    AutoModelForCausalLM.from_pretrained(folder)
    assert not (run.directory / "stages" / "sft" / "checkpoints").exists()


def test_epochs_batches_and_long_documents(shelf: Path, tmp_path: Path) -> None:
    stages = sft(shelf, steps=None, epochs=2, batch_size=2, packed=False, export_dtype="bfloat16", maximum_length=40)
    run = run_stages(tmp_path / "run", stages)
    rows = logged(run.directory, "sft")
    assert len(rows) == run.results["sft"]["steps"] == 5  # five records twice, two at a time
    assert rows[-1]["epoch"] == 2.0
    assert next(iter(exported(run.directory, "sft").values())).dtype == torch.bfloat16


def test_best_or_all_of_ranked_responses(shelf: Path, tmp_path: Path) -> None:
    record = {
        "prompt": "q",
        "responses": [{"id": "a", "text": "good"}, {"id": "b", "text": "bad"}],
        "choices": [{"annotator": "x", "ranking": [["a"], ["b"]]}],
    }
    data = write_records(tmp_path / "ranked.jsonl", [record])
    for choose, count in (("best", 1), ("all", 2)):
        run = run_stages(tmp_path / choose, sft(shelf, data=data, choose=choose, packed=False, batch_size=1))
        assert run.results["sft"]["rows"] == count


def test_lora_leaves_the_base_alone_and_exports_merged(shelf: Path, tmp_path: Path) -> None:
    model = {"path": str(shelf / "tiny"), "lora": {"rank": 2, "targets": ["q_proj"]}}
    run = run_stages(tmp_path / "run", sft(shelf, model=model, steps=3))
    before = AutoModelForCausalLM.from_pretrained(shelf / "tiny").state_dict()
    after = exported(run.directory, "sft")
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed and all("q_proj" in name for name in changed)


def test_initialise_and_a_stage_that_does_not_exist(shelf: Path, tmp_path: Path) -> None:
    config = {"model_type": "llama", "vocab_size": 260, "hidden_size": 16, "intermediate_size": 16}
    config |= {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0}
    model = {"path": str(shelf / "tiny"), "initialise": config}
    assert first_loss(tmp_path / "run", sft(shelf, model=model)) == pytest.approx(math.log(260), abs=0.5)
    with pytest.raises(ValidationError, match="'stage:sfx' names no earlier stage"):
        run_stages(tmp_path / "other", sft(shelf, model="stage:sfx"))
