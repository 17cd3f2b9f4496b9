"""One row of the comparison, on TRL's side; runs in the peer's own environment.

    benchmarks/.peers/trl/bin/python benchmarks/peers/trl_side.py SPEC.json RESULT.json

Knows: TRL's public trainers and their options, how to time a step, peak memory.
Does not know: Fairlead. The work (model directories, texts, token ids, sizes) comes in the specification, and the trainers
are used as they are: where a method is overridden here, it calls the trainer's own and reads a clock or counts tokens.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import warnings
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ |= {"TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
warnings.filterwarnings("ignore")

import torch  # noqa: E402 - the environment is set first
import transformers  # noqa: E402
from datasets import Dataset  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


class Record(TrainerCallback):
    """When each step ended, and what was counted and logged in it."""

    def __init__(self) -> None:
        self.begun = 0.0
        self.ends: list[float] = []
        self.response_tokens: list[int] = []
        self.row_tokens: list[int] = []
        self.longest: list[int] = []
        self.logged: list[dict[str, float]] = []
        self.phases: list[dict[str, float]] = []
        self._counted = [0, 0, 0]
        self._phase: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.begun = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ends.append(time.perf_counter())
        self.response_tokens.append(self._counted[0])
        self.row_tokens.append(self._counted[1])
        self.longest.append(self._counted[2])
        self.phases.append(self._phase)
        self._counted, self._phase = [0, 0, 0], {}

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "train_runtime" not in logs:
            self.logged.append({k: v for k, v in logs.items() if isinstance(v, int | float)})

    def count(self, response_tokens: int, row_tokens: int, longest: int = 0) -> None:
        self._counted[0] += int(response_tokens)
        self._counted[1] += int(row_tokens)
        self._counted[2] = max(self._counted[2], int(longest))

    def spend(self, phase: str, seconds: float) -> None:
        self._phase[phase] = self._phase.get(phase, 0.0) + seconds

    def seconds(self) -> list[float]:
        return [end - start for start, end in zip([self.begun, *self.ends], self.ends, strict=False)]


def arguments(spec: dict[str, Any], rows: int) -> dict[str, Any]:
    """The training arguments that all trainers share; the variant's own come last."""
    variant = dict(spec["variant"]["arguments"])
    micro = int(variant.pop("micro", rows))
    return {
        "output_dir": spec["scratch"],
        "use_cpu": not torch.cuda.is_available(),
        "max_steps": spec["steps"],
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": rows // micro,
        "learning_rate": spec["learning_rate"],
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": spec["seed"],
        "dataloader_pin_memory": False,
        **variant,
    }


def read_lines(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def tokenizer_of(directory: str) -> Any:
    return AutoTokenizer.from_pretrained(directory, padding_side="left")


def repeated_words(completions: list[str], **columns: Any) -> list[float]:
    """Minus the share of words that the response has already used, as in the other side's reward `repetition` of n = 1."""
    rewards = []
    for text in completions:
        words = text.lower().split()
        rewards.append(len(set(words)) / len(words) - 1 if words else 0.0)
    return rewards


def grpo(spec: dict[str, Any], record: Record) -> Any:
    from trl import GRPOConfig, GRPOTrainer

    class Timed(GRPOTrainer):
        def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            found = super()._generate_single_turn(*args, **kwargs)
            record.spend("sampling", time.perf_counter() - start)
            return found

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            start = time.perf_counter()
            found = super()._generate_and_score_completions(inputs)
            sampling = record._phase.get("sampling", 0.0)
            record.spend("scoring", time.perf_counter() - start - sampling)
            lengths = found["completion_mask"].sum(1)
            record.count(lengths.sum(), lengths.sum() + found["prompt_mask"].sum(), lengths.max())
            return found

    rows = spec["prompts"] * spec["samples"]
    settings = arguments(spec, rows)
    settings["max_steps"] = spec["steps"]
    config = GRPOConfig(
        **settings,
        num_generations=spec["samples"],
        max_completion_length=spec["maximum_tokens"],
        temperature=1.0,
        beta=spec["kl"],
        loss_type="dapo",
        scale_rewards="group",
        epsilon=0.2,
        num_iterations=1,
        shuffle_dataset=False,
        adam_beta1=0.9,
        adam_beta2=0.95,
    )
    return Timed(
        model=spec["model"],
        reward_funcs=repeated_words,
        args=config,
        train_dataset=Dataset.from_list(read_lines(spec["prompt_file"])),
        processing_class=tokenizer_of(spec["model"]),
        callbacks=[record],
    )


def ppo(spec: dict[str, Any], record: Record) -> Any:
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    tokenizer = tokenizer_of(spec["model"])
    plain = ppo_trainer.batch_generation

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        whole, scores = plain(*args, **kwargs)
        record.spend("sampling", time.perf_counter() - start)
        responses = whole[:, args[1].shape[1] :]
        ended = (responses == tokenizer.eos_token_id).int()
        lengths = torch.where(ended.any(1), ended.argmax(1) + 1, responses.shape[1])
        tokens = int(lengths.sum())
        record.count(tokens, tokens + args[1].numel(), int(lengths.max()))
        return whole, scores

    ppo_trainer.batch_generation = timed
    rows = spec["prompts"]
    settings = arguments(spec, rows)
    del settings["max_steps"]
    dtype = getattr(torch, settings.pop("dtype", "float32"))
    settings.pop("model_init_kwargs", None)
    config = PPOConfig(
        **settings,
        total_episodes=rows * spec["steps"],
        num_sample_generations=0,
        response_length=spec["maximum_tokens"],
        stop_token="eos",
        temperature=1.0,
        num_ppo_epochs=spec["epochs"],
        num_mini_batches=1,
        local_rollout_forward_batch_size=rows,
        kl_coef=spec["kl"],
        gamma=1.0,
        lam=0.95,
        adam_beta1=0.9,
        adam_beta2=0.95,
    )
    ids = [tokenizer(row["prompt"])["input_ids"] for row in read_lines(spec["prompt_file"])]

    def scalar() -> Any:
        return AutoModelForSequenceClassification.from_pretrained(spec["scalar_model"], num_labels=1, dtype=dtype)

    return PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=AutoModelForCausalLM.from_pretrained(spec["model"], dtype=dtype),
        ref_model=AutoModelForCausalLM.from_pretrained(spec["model"], dtype=dtype),
        reward_model=scalar(),
        value_model=scalar(),
        train_dataset=Dataset.from_dict({"input_ids": ids}),
        eval_dataset=Dataset.from_dict({"input_ids": ids[:rows]}),
        callbacks=[record],
    )


def offline(spec: dict[str, Any], record: Record) -> Any:
    """SFT, reward model and DPO on token ids that were made beforehand, in the order in which the other side draws them."""
    import trl

    kind, rows = spec["kind"], spec["rows"]
    base = {"sft": trl.SFTTrainer, "reward": trl.RewardTrainer, "dpo": trl.DPOTrainer}[kind]
    settings = arguments(spec, rows)
    strategy = settings.pop("train_sampling_strategy", "sequential")
    packed = settings.get("packing", False)
    examples = read_lines(spec["ids_file"])
    columns = {
        "sft": ("input_ids", "labels"),
        "reward": ("chosen_ids", "rejected_ids"),
        "dpo": ("prompt_ids", "chosen_ids", "rejected_ids"),
    }[kind]

    class Timed(base):  # type: ignore[misc, valid-type]
        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if kind == "dpo":
                record.count(inputs["completion_mask"].sum(), inputs["attention_mask"].sum())
            elif kind == "reward":
                record.count(0, inputs["attention_mask"].sum())
            else:
                mask = inputs.get("attention_mask")
                record.count(
                    (inputs["labels"] != -100).sum(), inputs["input_ids"].numel() if mask is None else mask.sum()
                )
            return super().training_step(model, inputs, *args, **kwargs)

    if kind == "dpo":
        # Its own preparation accepts text only; ids are what both sides are given.
        Timed._prepare_dataset = lambda self, dataset, *args, **kwargs: dataset
    shared = {
        "adam_beta1": 0.9,
        "adam_beta2": 0.95,
        "train_sampling_strategy": strategy,
        "max_length": spec["maximum_length"] if packed else None,
    }
    if strategy == "group_by_length":
        columns = (*columns, "length")
        shared |= {"length_column_name": "length", "remove_unused_columns": False}
    for row in examples:
        row["length"] = max(len(ids) for ids in row.values())
    config = {"sft": trl.SFTConfig, "reward": trl.RewardConfig, "dpo": trl.DPOConfig}[kind](
        **(shared | ({"beta": spec["beta"]} if kind == "dpo" else {}) | settings)
    )
    return Timed(
        model=spec["model"],
        args=config,
        train_dataset=Dataset.from_list([{name: row[name] for name in columns} for row in examples]),
        processing_class=tokenizer_of(spec["model"]),
        callbacks=[record],
    )


def peak_mebibytes() -> float:
    try:  # what `getrusage` says of a new process begins with the peak of the process that started it
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(spec["threads"])
    imported = peak_mebibytes()
    record = Record()
    build = {"grpo": grpo, "ppo": ppo}.get(spec["kind"], offline)
    trainer = build(spec, record)
    everything = spec["variant"].get("autocast", False)
    # The cache of casts would outlive an optimiser step here, since the context is not left between steps.
    precision = torch.autocast("cpu", torch.bfloat16, cache_enabled=False) if everything else nullcontext()
    with precision:
        trainer.train()
    result = {
        "seconds": record.seconds(),
        "response_tokens": record.response_tokens,
        "row_tokens": record.row_tokens,
        "longest": record.longest,
        "phases": record.phases,
        "logged": record.logged,
        "peak_mib": peak_mebibytes(),
        "imported_mib": imported,
        "versions": {name: version(name) for name in ("torch", "transformers", "accelerate", "datasets")}
        | {"trl": sys.modules["trl"].__version__},
        "settings": {k: v for k, v in arguments(spec, 1).items() if k != "output_dir"},
    }
    Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
