"""Fairlead beside TRL: the same steps on the same models, prompts and pairs, in one call.

    python benchmarks/versus_trl.py --data DIR [--rows grpo-full,dpo] [--sizes 4m,30m] [--steps 5] [--threads 2]

Each measurement is a process of its own. Every configuration of TRL in `VARIANTS` is tried for one step first; the fastest
one and TRL's defaults are then measured, in turns with Fairlead in both precisions. The method is in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean, quantiles
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from peers.install import install, peer_python, ppo_path

from fairlead.bench import (
    ROWS,
    Job,
    ModelCost,
    Roof,
    Row,
    Work,
    demands,
    machine,
    measure_apart,
    measure_roof,
    write_model,
    write_prompts,
    write_scalar_model,
)
from fairlead.data import DataError, DataSource, SeededSampler, TextCodec, read, to_pairs
from fairlead.models import ModelSpec, load_tokenizer
from fairlead.runs import Run
from fairlead.runtime.machine import hardware_precisions

HERE = Path(__file__).resolve().parent
SEED = 0
LEARNING_RATE = 1e-6
HERE_FAST = {{"float32": "fp32", "bfloat16": "bf16"}[name]: name for name in hardware_precisions()}
"""What is measured: bfloat16 that is emulated takes both sides many times longer, and nobody would use it."""
DPO_BETA = 0.1

ALLOCATOR = {
    "MALLOC_TRIM_THRESHOLD_": "2147483647",
    "MALLOC_MMAP_MAX_": "0",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
"""No page is given back, and large ones are asked for. Fairlead sets the first two itself; TRL is given all of them."""


@dataclass(frozen=True)
class Variant:
    """One configuration of a side."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    """TRL: training arguments, and `micro`, the rows of a micro-batch. Fairlead: fields of `Work`."""
    environment: dict[str, str] = field(default_factory=dict)
    precision: str = "float32"
    autocast: bool = False
    """TRL: an autocast context around the whole of `train`, for passes that the trainer leaves in float32."""


def trl_variants(row: Row) -> list[Variant]:
    """TRL as it comes (first; in float32 where bfloat16 would be emulated), and what may make it faster here without changing the work."""
    half = "bf16" in HERE_FAST
    default = Variant(
        "default", {"micro": 8} | ({} if half else {"bf16": False}), precision="bfloat16" if half else "float32"
    )
    accelerate = {"ACCELERATE_MIXED_PRECISION": "bf16"}  # its PPO trainer reads the precision from there alone
    if row.kind == "ppo" and half:
        default = replace(default, environment=accelerate)
    variants = [default]
    for short, precision in HERE_FAST.items():
        half = precision == "bfloat16"
        base = {"bf16": half, "gradient_checkpointing": False}
        environment = ALLOCATOR | (accelerate if half and row.kind == "ppo" else {})

        def add(name: str, extra: dict[str, Any], autocast: bool = False, p: str = precision) -> None:
            variants.append(Variant(name, base | extra, environment, p, autocast))  # noqa: B023

        add(short, {})
        add(f"{short}-micro", {"micro": 16 if row.online else 8})
        if row.kind == "grpo":
            add(f"{short}-static", {"cache_implementation": "static"})
            # Left to itself on a CPU its cache takes half of the machine's memory.
            paged = {"max_memory_percent": 0.05}
            add(
                f"{short}-paged",
                {"use_transformers_continuous_batching": True, "transformers_continuous_batching_config": paged},
            )
        if row.kind == "ppo" and half:
            add("bf16-all", {"micro": 16}, autocast=True)
        if not row.online:
            add(f"{short}-length", {"train_sampling_strategy": "group_by_length"})
            add(f"{short}-length-micro", {"train_sampling_strategy": "group_by_length", "micro": 8})
        if row.kind == "sft":
            add(f"{short}-packed", {"packing": True})
    return variants


def fairlead_variants(row: Row) -> list[Variant]:
    """The precisions of the hardware; supervised rows packed and not."""
    found = []
    for short, precision in HERE_FAST.items():
        found.append(Variant(short, precision=precision))
        if row.kind == "sft":
            found.append(Variant(f"{short}-packed", {"packed": True}, precision=precision))
    return found


# ---------------------------------------------------------------------------------------------------------------------
# The work
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Task:
    """A row at a size, with everything that both sides read."""

    row: Row
    size: str
    work: Work
    steps: int
    ids_file: str = ""
    expected_tokens: list[int] = field(default_factory=list)
    """Tokens of all sequences of each step, where the data decides them."""
    response: float = 0.0
    sequence: float = 0.0
    packed_rows: int = 0


def prepare(row: Row, size: str, folder: Path, steps: int, data: Path | None) -> Task:
    """Write models and data of a row. Raises DataError where its data is not there."""
    name = "text" if not row.online else "never" if row.mean_length is None else f"mean-{row.mean_length:g}"
    model, scalar = folder / f"{size}-{name}", folder / f"{size}-scalar"
    if not model.exists():
        write_model(model, size, row.mean_length, "words" if row.online else "text")
    if row.kind == "ppo" and not scalar.exists():
        write_scalar_model(scalar, size)
    if not row.online:
        return prepare_examples(row, size, str(model), folder, steps, data)
    prompts = folder / f"prompts-{row.name}.jsonl"
    write_prompts(prompts, str(model), row.prompt_tokens, row.prompts * steps)
    return Task(row, size, Work(str(model), str(prompts), str(scalar)), steps)


def prepare_examples(row: Row, size: str, model: str, folder: Path, steps: int, data: Path | None) -> Task:
    """Real pairs: text for Fairlead, and for TRL the ids of the same examples in the order in which Fairlead draws them."""
    codec = TextCodec(load_tokenizer(ModelSpec(path=model)))
    pairs = fitting_pairs(codec, data, row.maximum_length, row.prompts * steps)
    part = {"dpo": "preference", "reward": "reward", "sft": "sft"}[row.kind]
    with tempfile.TemporaryDirectory() as place:  # the stage's seed is the run's to say
        run = Run(Path(place), seed=SEED, quiet=True)
        sampler = SeededSampler(len(pairs), row.prompts, run.stage("bench", part).seed)
        run.close()
    order = [index for _ in range(steps) for index in sampler.next()]
    text_file, ids_file = folder / f"{row.name}.jsonl", folder / f"{row.name}-{size}-ids.jsonl"
    ids, responses = [], []
    with text_file.open("w", encoding="utf-8") as file:
        for pair in pairs:
            record: dict[str, Any] = {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
            if row.kind == "sft":
                record = {"messages": [*pair.prompt, {"role": "assistant", "content": pair.chosen}]}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            prompt = codec.encode_prompt(pair.prompt)
            chosen, rejected = (codec.encode_response(text, pair.prompt) for text in (pair.chosen, pair.rejected))
            responses += [len(chosen)] if row.kind == "sft" else [len(chosen), len(rejected)]
            if row.kind == "dpo":
                ids.append({"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected})
            elif row.kind == "reward":
                ids.append({"chosen_ids": prompt + chosen, "rejected_ids": prompt + rejected})
            else:
                ids.append({"input_ids": prompt + chosen, "labels": [-100] * len(prompt) + chosen})
    ids_file.write_text("".join(json.dumps(ids[index]) + "\n" for index in order), encoding="utf-8")
    totals = [sequence_tokens(ids[index]) for index in order]
    sequence = sum(totals) / len(totals) / (row.sequences / row.prompts)
    return Task(
        row,
        size,
        Work(model, str(text_file)),
        steps,
        str(ids_file),
        [sum(totals[i : i + row.prompts]) for i in range(0, len(totals), row.prompts)],
        fmean(responses),
        sequence,
        max(1, round(row.prompts * sequence / row.maximum_length)),
    )


def sequence_tokens(example: dict[str, list[int]]) -> int:
    """Tokens of the sequences of one example."""
    if "input_ids" in example:
        return len(example["input_ids"])
    prompt = 2 * len(example.get("prompt_ids", []))
    return prompt + len(example["chosen_ids"]) + len(example["rejected_ids"])


def fitting_pairs(codec: TextCodec, data: Path | None, maximum: int, count: int) -> list[Any]:
    """`count` pairs of at most `maximum` tokens a side, drawn from every file of pairs in `data`."""
    files = sorted(data.glob("*.train.jsonl*")) if data is not None else []
    if not files:
        raise DataError("no data: give a folder with files NAME.train.jsonl.gz of preference pairs as --data")
    pairs = []
    for file in files:
        try:
            pairs += to_pairs([read(DataSource(path=str(file)), None)])[0]
        except DataError as reason:
            print(f"left out: {str(reason).splitlines()[0][:150]}", file=sys.stderr)
    random.Random(SEED).shuffle(pairs)
    found = []
    for pair in pairs:
        if not isinstance(pair.prompt, str):
            prompt = len(codec.encode_prompt(pair.prompt))
            longest = max(len(codec.encode_response(text, pair.prompt)) for text in (pair.chosen, pair.rejected))
            if prompt + longest <= maximum:
                found.append(pair)
        if len(found) == count:
            return found
    raise DataError(f"{data} holds {len(found)} pairs of at most {maximum} tokens, and {count} are needed")


# ---------------------------------------------------------------------------------------------------------------------
# One measurement of each side
# ---------------------------------------------------------------------------------------------------------------------


def environment(threads: int, extra: dict[str, str]) -> dict[str, str]:
    """The environment of a measurement: the same for both sides but for what a variant adds."""
    return os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"} | extra


def run_fairlead(task: Task, variant: Variant, steps: int, threads: int) -> dict[str, Any]:
    """Steps of the real stage; the first has no time of its own, so there is one more of them."""
    packed = task.packed_rows if variant.arguments.get("packed") else None
    stage = replace(task.work, packed_rows=packed).stage(task.row, steps + 1)
    job = Job(stage, steps + 1, variant.precision, threads, SEED)
    found = measure_apart(job, environment(threads, variant.environment))
    row_tokens = found.tokens
    if task.row.online:
        row_tokens = [tokens + task.row.sequences * task.row.prompt_tokens for tokens in found.tokens]
    elif not packed:
        row_tokens = [float(tokens) for tokens in task.expected_tokens[1 : steps + 1]]
    return {
        "seconds": found.seconds,
        "row_tokens": row_tokens,
        "response": [t / task.row.sequences for t in found.tokens] if task.row.online else [task.response],
        "phases": found.phases,
        "peak_mib": found.peak_mib,
        "imported_mib": found.imported_mib,
        "loss": [line.get("policy/loss") for line in found.metrics],
        "versions": found.versions,
    }


def run_trl(task: Task, variant: Variant, steps: int, threads: int) -> dict[str, Any]:
    """The same steps by TRL's trainer, in its environment; the first warms up and is left out."""
    row, work = task.row, task.work
    rows = task.packed_rows if variant.arguments.get("packing") else row.prompts
    with tempfile.TemporaryDirectory() as place:
        spec = {
            "kind": row.kind,
            "model": work.model,
            "scalar_model": work.scalar_model,
            "prompt_file": work.data,
            "ids_file": task.ids_file,
            "prompts": row.prompts,
            "samples": row.samples,
            "rows": rows,
            "maximum_tokens": row.maximum_tokens,
            "maximum_length": row.maximum_length,
            "kl": row.kl,
            "beta": DPO_BETA,
            "epochs": row.epochs,
            "steps": steps + 1,
            "learning_rate": LEARNING_RATE,
            "seed": SEED,
            "threads": threads,
            "scratch": str(Path(place) / "scratch"),
            "variant": {"arguments": variant.arguments, "autocast": variant.autocast},
        }
        job, result = Path(place) / "job.json", Path(place) / "result.json"
        job.write_text(json.dumps(spec), encoding="utf-8")
        extra = variant.environment | ({"PYTHONPATH": str(ppo_path())} if row.kind == "ppo" else {"PYTHONPATH": ""})
        command = [str(peer_python()), str(HERE / "peers" / "trl_side.py"), str(job), str(result)]
        done = subprocess.run(command, env=environment(threads, extra), capture_output=True, text=True)
        if done.returncode or not result.exists():
            raise RuntimeError("\n".join(done.stderr.strip().splitlines()[-8:]))
        found = json.loads(result.read_text(encoding="utf-8"))
    grouped = variant.arguments.get("train_sampling_strategy") == "group_by_length"
    if task.expected_tokens and not grouped and not variant.arguments.get("packing"):
        # The proof that both sides are given the same examples in the same order.
        assert found["row_tokens"] == task.expected_tokens[: steps + 1], "TRL saw other tokens than Fairlead"
    names = dict.fromkeys(name for step in found["phases"] for name in step)
    return {
        "seconds": found["seconds"][1:],
        "row_tokens": found["row_tokens"][1:],
        "response": [t / row.sequences for t in found["response_tokens"][1:]] if row.online else [task.response],
        "longest": found["longest"][1:],
        "phases": {name: [step.get(name, 0.0) for step in found["phases"][1:]] for name in names},
        "peak_mib": found["peak_mib"],
        "imported_mib": found["imported_mib"],
        "loss": [line.get("loss") for line in found["logged"]],
        "versions": found["versions"],
        "settings": found["settings"],
    }


# ---------------------------------------------------------------------------------------------------------------------
# Figures
# ---------------------------------------------------------------------------------------------------------------------


def summary(runs: list[dict[str, Any]], variant: Variant, task: Task, roof: Roof) -> dict[str, Any]:
    """Medians and quartiles over the steps of all runs of one variant."""
    seconds = [s for run in runs for s in run["seconds"]]
    tokens = [t for run in runs for t in run["row_tokens"]]
    per_token = [1e6 * s / t for s, t in zip(seconds, tokens, strict=True)]
    response = fmean(r for run in runs for r in run["response"])
    sequence = task.sequence or response + task.row.prompt_tokens
    asked = demands(
        task.row, ModelCost.of(task.work.model), variant.precision, response, sequence, task.row.maximum_tokens
    )
    least = sum(roof.seconds(demand, variant.precision) for demand in asked.values())
    least *= fmean(tokens) / (task.row.sequences * sequence)
    phases = {name: [s for run in runs for s in run["phases"][name]] for name in runs[0]["phases"]}
    return {
        "variant": asdict(variant),
        "steps": len(seconds),
        "seconds": spread(seconds),
        "microseconds_per_token": spread(per_token),
        "tokens_per_step": fmean(tokens),
        "mean_response": response,
        "phases": {name: spread(values)["median"] for name, values in phases.items()},
        "share_of_roof": least / spread(seconds)["median"],
        "peak_mib": max(run["peak_mib"] for run in runs),
        "imported_mib": max(run["imported_mib"] for run in runs),
        "all_seconds": seconds,
        "versions": runs[0]["versions"],
    }


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    if len(values) < 2:
        return {"median": values[0], "lower": values[0], "upper": values[0]}
    lower, middle, upper = quantiles(values, n=4, method="inclusive")
    return {"median": middle, "lower": lower, "upper": upper}


def cost(figures: dict[str, Any]) -> float:
    """What variants are compared by: time a token, which neither the draw of lengths nor the cut of batches moves."""
    return float(figures["microseconds_per_token"]["median"])


def compare(task: Task, arguments: argparse.Namespace, roof: Roof) -> dict[str, Any]:
    """Try TRL's variants, then measure its defaults and its best in turns with Fairlead."""
    threads = arguments.threads
    tried: dict[str, Any] = {}
    candidates = trl_variants(task.row)
    if arguments.variants:
        candidates = [v for v in candidates if v.name in ("default", *arguments.variants.split(","))]
    others = [variant for variant in candidates if variant.name != "default"]
    for variant in others if len(others) > 1 else []:
        try:
            run = run_trl(task, variant, arguments.screening_steps, threads)
        except (RuntimeError, AssertionError) as reason:
            tried[variant.name] = {"failed": str(reason)[-600:]}
        else:
            tried[variant.name] = summary([run], variant, task, roof)
        state = tried[variant.name]
        said = "failed" if "failed" in state else f"{state['seconds']['median']:.2f} s, {cost(state):.0f} µs/token"
        say(f"{task.row.name} {task.size}: TRL {variant.name}: {said}")
    working = [v for v in others if "failed" not in tried.get(v.name, {})]
    best = min(working, key=lambda v: cost(tried[v.name])) if tried else others[0]
    sides = [("trl", candidates[0]), *(("fairlead", v) for v in fairlead_variants(task.row)), ("trl", best)]
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for turn in range(arguments.rounds):
        for side, variant in sides if turn % 2 == 0 else reversed(sides):
            found = (run_trl if side == "trl" else run_fairlead)(task, variant, arguments.steps, threads)
            runs.setdefault((side, variant.name), []).append(found)
            say(f"{task.row.name} {task.size}: {side} {variant.name}: {spread(found['seconds'])['median']:.2f} s")
    figures: dict[str, dict[str, Any]] = {"trl": {}, "fairlead": {}}
    for side, variant in sides:
        figures[side][variant.name] = summary(runs[side, variant.name], variant, task, roof)
    ours = min(figures["fairlead"].values(), key=cost)
    theirs, default = min(figures["trl"].values(), key=cost), figures["trl"]["default"]
    same = {}
    for short, precision in HERE_FAST.items():
        mine = [f for f in figures["fairlead"].values() if f["variant"]["precision"] == precision]
        peers = [f for f in (*figures["trl"].values(), *tried.values()) if "failed" not in f]
        peers = [f for f in peers if f["variant"]["precision"] == precision and f["variant"]["name"] != "default"]
        if mine and peers:
            same[short] = min(map(cost, peers)) / min(map(cost, mine))
    return {
        "row": task.row.name,
        "about": task.row.about,
        "size": task.size,
        "best": {"trl": theirs["variant"]["name"], "fairlead": ours["variant"]["name"]},
        "ratio": {
            "over_best": cost(theirs) / cost(ours),
            "over_default": cost(default) / cost(ours),
            "step_over_best": theirs["seconds"]["median"] / ours["seconds"]["median"],
            "same_precision": same,
            "memory": ours["peak_mib"] / theirs["peak_mib"],
            "memory_of_default": ours["peak_mib"] / default["peak_mib"],
        },
        **figures,
        "tried": tried,
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table."""
    head = (
        "row",
        "size",
        "TRL default, s",
        "TRL best, s",
        "Fairlead, s",
        "ratio to default",
        "ratio to best",
        "fp32 / bf16",
        "memory, MiB",
        "memory ratio",
        "mean length",
        "share of roof",
    )
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        if "skipped" in row:
            reason = row["skipped"].splitlines()[-1].replace("|", "\\|")
            lines.append(f"| {row['row']} | {row['size']} | skipped: {reason} |" + " |" * (len(head) - 3))
            continue
        theirs, ours = row["trl"][row["best"]["trl"]], row["fairlead"][row["best"]["fairlead"]]
        same = row["ratio"]["same_precision"]
        cells = (
            row["row"],
            row["size"],
            shown(row["trl"]["default"]),
            f"{shown(theirs)} {row['best']['trl']}",
            f"{shown(ours)} {row['best']['fairlead']}",
            f"{row['ratio']['over_default']:.2f}",
            f"**{row['ratio']['over_best']:.2f}**",
            " / ".join(f"{same[name]:.2f}" if name in same else "–" for name in ("fp32", "bf16")),
            f"{theirs['peak_mib']:.0f} / {ours['peak_mib']:.0f}",
            f"{row['ratio']['memory']:.2f}",
            f"{theirs['mean_response']:.1f} / {ours['mean_response']:.1f}",
            f"{theirs['share_of_roof']:.1%} / {ours['share_of_roof']:.1%}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def shown(figures: dict[str, Any]) -> str:
    spread = figures["seconds"]
    return f"{spread['median']:.2f} ({spread['lower']:.2f}–{spread['upper']:.2f})"


def say(message: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stderr, flush=True)


def shrunk(row: Row) -> Row:
    """A row small enough to see that both sides work."""
    if not row.online:
        return replace(row, prompts=8)
    short = replace(row, prompt_tokens=16, maximum_tokens=32, mean_length=row.mean_length and 8.0)
    return replace(short, prompts=4 if row.kind == "grpo" else 8, samples=min(row.samples, 4))


def chosen(arguments: argparse.Namespace) -> Iterator[tuple[Row, str]]:
    for size in arguments.sizes.split(","):
        for name in arguments.rows.split(","):
            yield (shrunk(ROWS[name]) if arguments.smoke else ROWS[name]), size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS), help="rows of the table")
    parser.add_argument("--sizes", default="4m,30m", help="models: 1m, 4m, 30m, 100m")
    parser.add_argument("--data", type=Path, help="folder with preference data, NAME.train.jsonl.gz")
    parser.add_argument("--steps", type=int, default=5, help="measured steps of each process, behind one that warms up")
    parser.add_argument("--rounds", type=int, default=1, help="processes of each side, in turns")
    parser.add_argument(
        "--screening-steps", type=int, default=1, help="measured steps to choose TRL's configuration by"
    )
    parser.add_argument("--variants", default="", help="TRL's configurations to try, beside its defaults; all without")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=HERE / "results" / "versus-trl.json")
    parser.add_argument("--smoke", action="store_true", help="tiny rows, to see that everything runs")
    arguments = parser.parse_args()
    install()
    torch.set_num_threads(arguments.threads)
    roof = measure_roof()
    page: dict[str, Any] = {
        "machine": machine(),
        "roof": asdict(roof),
        "steps": arguments.steps,
        "rounds": arguments.rounds,
        "smoke": arguments.smoke,
        "rows": [],
    }
    with tempfile.TemporaryDirectory(prefix="versus-trl-") as folder:
        for row, size in chosen(arguments):
            steps = max(arguments.steps, arguments.screening_steps) + 1
            try:
                task = prepare(row, size, Path(folder), steps, arguments.data)
            except DataError as reason:
                page["rows"].append({"row": row.name, "size": size, "skipped": str(reason)})
                continue
            try:
                page["rows"].append(compare(task, arguments, roof))
            except (RuntimeError, AssertionError) as reason:
                say(f"{row.name} {size} failed: {reason}")
                page["rows"].append({"row": row.name, "size": size, "skipped": str(reason)[-600:]})
            # Written after every row: a long comparison that is stopped keeps what it has.
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps(page, indent=1) + "\n", encoding="utf-8")
    print(markdown(page["rows"]))


if __name__ == "__main__":
    main()
