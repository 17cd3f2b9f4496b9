"""`fairlead bench`: the rows on the user's own model and machine, as a table.

Knows: which models and data the rows need, and how figures are shown.
Does not know: how a step is carried out, other frameworks.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rich.console import Group
from rich.table import Table
from rich.text import Text

from fairlead.bench.measure import BenchError, Job, Measurement, machine, measure, measure_apart
from fairlead.bench.models import SIZES, write_model, write_scalar_model
from fairlead.bench.roof import Demand, ModelCost, Roof, demands, measure_roof
from fairlead.bench.rows import ROWS, Row, Work, write_prompts
from fairlead.data import DataSource, TextCodec, read, to_conversations, to_pairs
from fairlead.models import ModelSpec, load_tokenizer
from fairlead.parts import nearest
from fairlead.runs import write_json
from fairlead.runtime.machine import hardware_precisions

__all__ = ["DATA", "bench", "set_up"]

DATA = "fairlead:starter/train"
_SPARE = 2  # prompts for that many more steps than are taken, so that none comes twice


def bench(
    model: str = "4m",
    rows: Sequence[str] = tuple(ROWS),
    precisions: Sequence[str] | None = None,
    steps: int = 3,
    threads: int | None = None,
    data: str = DATA,
    out: Path | None = None,
    apart: bool = True,
    roof: Roof | None = None,
    tell: Callable[[str], Any] = lambda message: None,
) -> Group:
    """Measure `rows` on a model directory, or on random weights of a size of `SIZES`, and return a table to print.

    `precisions` are those that the machine has in hardware, unless given. `steps` are measured behind two that warm up. `data` holds the pairs of the rows without sampling. `apart` measures in
    processes of their own, without which peak memory is that of all rows before too. Raises BenchError for an unknown row.
    """
    for name in rows:
        if name not in ROWS:
            raise BenchError(f"no row called {name!r}; {nearest(name, ROWS)}")
    if threads is not None:
        torch.set_num_threads(threads)
    tell("the machine's peaks")
    found_roof = roof or measure_roof()
    figures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="fairlead-bench-") as folder:
        for name in rows:
            work = set_up(ROWS[name], model, data, steps, Path(folder))
            cost = ModelCost.of(work.model)
            for precision in precisions or hardware_precisions():
                tell(f"{name}, {precision}")
                job = Job(work.stage(ROWS[name], steps + 2), steps + 2, precision, threads)
                taken = measure_apart(job) if apart else measure(job)
                figures.append(_figures(ROWS[name], precision, taken, cost, found_roof, work))
    page = {
        "model": model,
        "machine": machine() | {"threads": torch.get_num_threads()},
        "roof": asdict(found_roof),
        "rows": figures,
    }
    if out is not None:
        write_json(out, page)
    return _show(page)


def set_up(row: Row, model: str, data: str, steps: int, folder: Path) -> Work:
    """Models and data of a row; random ones are written once and used again."""
    if model not in SIZES:
        prompts = folder / f"prompts-{row.prompt_tokens}.jsonl"
        if row.online and not prompts.exists():
            write_prompts(prompts, model, row.prompt_tokens, row.prompts * (steps + _SPARE))
        return _packed(row, Work(model, str(prompts) if row.online else data))
    kind = "text" if not row.online else "never" if row.mean_length is None else f"mean-{row.mean_length:g}"
    path, scalar = folder / kind, folder / "scalar"
    if not path.exists():
        write_model(path, model, row.mean_length, "words" if row.online else "text")
    if row.kind == "ppo" and not scalar.exists():
        write_scalar_model(scalar, model)
    if not row.online:
        return _packed(row, Work(str(path), data))
    prompts = folder / f"prompts-{row.prompt_tokens}.jsonl"
    write_prompts(prompts, str(path), row.prompt_tokens, row.prompts * (steps + _SPARE))
    return Work(str(path), str(prompts), str(scalar))


def _packed(row: Row, work: Work) -> Work:
    """Supervised work in packed rows, as many as hold the row's number of conversations."""
    if row.kind != "sft":
        return work
    first = next(iter(read(DataSource(path=work.data), None).records), {})
    work = replace(work, chosen="chosen" in first and not {"response", "completion", "messages"} & first.keys())
    lengths = [min(length, row.maximum_length) for length in _lengths(work)]
    return replace(work, packed_rows=max(1, round(row.prompts * fmean(lengths) / row.maximum_length)))


def _figures(row: Row, precision: str, taken: Measurement, cost: ModelCost, roof: Roof, work: Work) -> dict[str, Any]:
    """Medians of one measurement, with what the work would take at the roof."""
    typical = taken.typical(1)
    tokens = typical["tokens"]
    if row.online:
        response = tokens / row.sequences
        sequence = response + row.prompt_tokens
    elif row.kind == "sft":  # the stage counts whole rows; packed ones hold several documents, each its own context
        response = sequence = fmean(_lengths(work))
    else:
        prompt, response = _pair_lengths(work)
        sequence = prompt + response
    longest = row.maximum_tokens
    asked = demands(row, cost, precision, response, sequence, longest)
    if row.kind == "sft":
        scale = tokens / asked["training"].tokens
        asked = {name: Demand(d.tokens * scale, d.flops * scale, d.bytes * scale) for name, d in asked.items()}
    phases = {}
    for name, demand in asked.items():
        seconds = typical.get(name, 0.0)
        if seconds:
            phases[name] = {
                "seconds": seconds,
                "tokens_per_second": demand.tokens / seconds,
                "flops_per_second": demand.flops / seconds,
                "bytes_per_second": demand.bytes / seconds,
                "share_of_roof": roof.seconds(demand, precision) / seconds,
            }
    return {
        "row": row.name,
        "about": row.about,
        "precision": precision,
        "step_seconds": typical["step"],
        "other_seconds": typical["other"],
        "mean_response": response,
        "phases": phases,
        "peak_mib": taken.peak_mib,
        "all_step_seconds": taken.seconds,
        "versions": taken.versions,
    }


def _lengths(work: Work) -> list[int]:
    """Tokens of every conversation of the data."""
    codec = TextCodec(load_tokenizer(ModelSpec(path=work.model)))
    records, _ = to_conversations([read(DataSource(**work.conversations), None)], choose="best")
    return [len(codec.encode_conversation(record, "last")[0]) for record in records]


def _pair_lengths(work: Work) -> tuple[float, float]:
    """Mean tokens of prompts, and of responses of both sides."""
    codec = TextCodec(load_tokenizer(ModelSpec(path=work.model)))
    pairs, _ = to_pairs([read(DataSource(path=work.data), None)])
    some = pairs[:: max(1, len(pairs) // 200)]  # a mean needs no more
    prompts = fmean(len(codec.encode_prompt(pair.prompt)) for pair in some)
    responses = fmean(len(codec.encode_response(t, p.prompt)) for p in some for t in (p.chosen, p.rejected))
    return prompts, responses


# ---------------------------------------------------------------------------------------------------------------------
# Showing
# ---------------------------------------------------------------------------------------------------------------------


def _show(page: dict[str, Any]) -> Group:
    roof, where = page["roof"], page["machine"]
    peaks = ", ".join(f"{value / 1e9:,.0f} GFLOP/s {name}" for name, value in roof["flops"].items())
    head = (
        f"{page['model']} on {where['device'] if where['device'] != 'cpu' else where['processor']}, {where['threads']} "
        f"threads; roof: {peaks}, {roof['bandwidth'] / 1e9:,.1f} GB/s"
    )
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("row", "precision"):
        table.add_column(heading, no_wrap=True)
    for heading in ("s/step", "length", "sampling tok/s", "scoring tok/s", "training tok/s", "other s", "peak MiB"):
        table.add_column(heading, justify="right")
    for row in page["rows"]:
        table.add_row(
            f"[bold]{row['row']}[/bold]",
            row["precision"],
            f"{row['step_seconds']:.2f}",
            f"{row['mean_response']:.0f}",
            *(_cell(row["phases"].get(phase)) for phase in ("sampling", "scoring", "training")),
            f"{row['other_seconds']:.2f}",
            f"{row['peak_mib']:.0f}",
        )
    note = "In brackets: the share of the roof, which for sampling is the nearer of arithmetic and memory."
    return Group(Text(head), table, Text(note, style="dim"))


def _cell(phase: dict[str, float] | None) -> str:
    if phase is None:
        return "–"
    return f"{phase['tokens_per_second']:,.0f} ({phase['share_of_roof']:.0%})"
