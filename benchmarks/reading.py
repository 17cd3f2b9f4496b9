"""What the fast ways of reading and sampling gain over transformers' own, on the shipped model: `python benchmarks/reading.py`.

Three comparisons, each in float32, and in bfloat16 where the hardware has it: attention forwards and backwards by matrix products, and by those with compiled loops (which rotate, too), against torch's kernel; a
training step on rows without padding, by the model's own `forward`, by its parts, and by compiled loops, against padded ones; tokens per second of the fast decoder
against the plain one, with and without compiled loops, and of prompts that samples share against copies of them. The sides take
turns; figures are medians. Results go to benchmarks/results/reading.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch.nn import functional as F

from fairlead import loops
from fairlead.batch import Experience, Prompts, row_table
from fairlead.data import TextCodec
from fairlead.generation import Sampling, generate, shared
from fairlead.models import ModelSpec, load_model, load_tokenizer
from fairlead.models import attention as ours
from fairlead.objectives import PPOClip
from fairlead.runtime import GroupSpec, Lesson, OptimiserSpec, ragged
from fairlead.runtime.machine import hardware_precisions, processor
from fairlead.runtime.worker import ModelWorker

MODEL = "fairlead:base"
PRECISIONS = hardware_precisions()
# rows, tokens of a row
ATTENTION = ((64, 60), (32, 128), (16, 256), (8, 512))
# prompts, tokens of a prompt
PROMPTS = ((8, 32), (16, 128))
# name → prompt tokens, longest response, samples of a prompt
STEPS = {"64 different prompts, 20 + 40": (20, 40, 1), "8 prompts x 8 samples, 128 + 128": (128, 128, 8)}


def medians(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Seconds of each side, taken in turn after one round to warm up."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, side in sides.items():
            started = time.perf_counter()
            side()
            if number:
                found[name].append(time.perf_counter() - started)
    return {name: median(values) for name, values in found.items()}


def attention(rows: int, tokens: int, precision: str, rounds: int) -> dict[str, float]:
    """Four heads over two of keys, width 64, causal, as in the shipped model."""
    dtype = getattr(torch, precision)
    query, key, value = (torch.randn(rows, heads, tokens, 64, dtype=dtype, requires_grad=True) for heads in (4, 2, 2))

    def kernel() -> None:
        keys, values = (x.repeat_interleave(2, 1) for x in (key, value))
        mixed = F.scaled_dot_product_attention(query, keys, values, is_causal=True)
        mixed.float().square().sum().backward()  # type: ignore[no-untyped-call]

    def products() -> None:
        with patch.dict(ours._LONGEST, {dtype: tokens}):
            mixed, _ = ours.attention(None, query, key, value, None)
        mixed.float().square().sum().backward()  # type: ignore[no-untyped-call]

    sides = {"kernel": kernel, "products": products}
    if loops.available():
        from fairlead.loops.attention import attended

        flat = [torch.randn(rows * tokens, heads, 64, dtype=dtype, requires_grad=True) for heads in (4, 2, 2)]
        spans = [(row * tokens, tokens) for row in range(rows)]
        layout = ours.Ragged([(span, (span,)) for span in spans], torch.device("cpu")).layout(rows * tokens)
        still = torch.ones(rows * tokens, 64), torch.zeros(rows * tokens, 64)

        def compiled() -> None:
            mixed = attended(flat[0], flat[1], flat[2], (still, still), layout, 0.125, None)
            mixed.float().square().sum().backward()  # type: ignore[no-untyped-call]

        sides["compiled"] = compiled
    return medians(sides, rounds)


def training(shape: tuple[int, int, int], precision: str, rounds: int) -> dict[str, float]:
    """One step of clipped policy gradient on 64 responses, from a quarter to all of the longest length."""
    prompt, longest, samples = shape
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 4000, (64 // samples, prompt), generator=generator).repeat_interleave(samples, 0)
    tokens = torch.randint(5, 4000, (64, longest), generator=generator)
    lengths = torch.randint(longest // 4, longest + 1, (64,), generator=generator)
    batch = Experience(
        prompt_ids=ids,
        prompt_mask=torch.ones_like(ids, dtype=torch.bool),
        tokens=tokens,
        mask=torch.arange(longest)[None] < lengths[:, None],
        group=torch.arange(64) // samples,
        truncated=torch.zeros(64, dtype=torch.bool),
        logprobs=torch.full((64, longest), -8.0),
        behaviour_logprobs=torch.zeros(64, longest),
        channels={},
        rows=row_table([{}] * 64),
        advantages=torch.randn(64, longest, generator=generator),
        weight=torch.ones(64),
        batch_size=[64],
    )
    objective = PPOClip()
    batch = objective.prepare(batch)
    sides: dict[str, Callable[[], Any]] = {}
    for name, way in (
        ("padded", by_torch),
        ("ragged, by the model's forward", by_forward),
        ("ragged, torch alone", by_torch),
        ("ragged", nullcontext),
    ):
        implementation = "sdpa" if name == "padded" else "auto"
        model = ModelSpec(path=MODEL, attention=implementation)  # type: ignore[arg-type]
        optimiser = OptimiserSpec(tokens_per_microbatch=4096)
        worker = ModelWorker(GroupSpec(role="policy", model=model, precision=precision, optimiser=optimiser))  # type: ignore[arg-type]
        step = partial(worker.step, [Lesson(batch, objective)])
        sides[name] = partial(within, way, step)
    return medians(sides, rounds)


def within(way: Callable[[], Any], step: Callable[[], Any]) -> None:
    """The step, done that way."""
    with way():
        step()


def by_torch() -> Any:
    """Without compiled loops."""
    return patch.object(loops, "available", lambda: False)


@contextmanager
def by_forward() -> Iterator[None]:
    """Without loops, and with models that are not known by their parts."""
    with by_torch(), patch.object(ragged, "anatomy", return_value=None):
        yield


def sampling(distinct: int, length: int, precision: str, rounds: int) -> dict[str, float]:
    """Tokens per second: 8 samples of 64 tokens for each prompt; the fast decoder as it is, with a copy of the prompt for each sample, and without compiled loops."""
    spec = ModelSpec(path=MODEL)
    model, codec = load_model(spec), TextCodec(load_tokenizer(spec))
    rows = 8 * distinct
    ids = torch.randint(5, 4000, (distinct, length), generator=torch.Generator().manual_seed(0)).repeat_interleave(8, 0)
    prompts = Prompts(
        prompt_ids=ids,
        prompt_mask=torch.ones_like(ids, dtype=torch.bool),
        group=torch.arange(rows) // 8,
        seed=torch.arange(rows),
        rows=row_table([{"prompt": ""}] * rows),
        batch_size=[rows],
    )
    wanted = Sampling(maximum_tokens=64, minimum_tokens=64)

    def side(fast: bool, saved: int = shared.SAVED, compiled: bool = True) -> None:
        autocast = torch.autocast("cpu", torch.bfloat16) if precision == "bfloat16" else nullcontext()
        with autocast, nullcontext() if compiled else by_torch(), patch.object(shared, "SAVED", saved):
            generate(model, codec, prompts, wanted, fast=fast)

    sides: dict[str, Callable[[], Any]] = {
        "plain": partial(side, False),
        "fast, torch alone": partial(side, True, compiled=False),
        "fast, copied prompts": partial(side, True, 1 << 60),
        "fast": partial(side, True),
    }
    return {name: 64 * rows / seconds for name, seconds in medians(sides, rounds).items()}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "reading.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    found: dict[str, Any] = {
        "processor": processor(),
        "threads": arguments.threads,
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "attention, seconds": {},
        "training step, seconds": {},
        "sampling, tokens per second": {},
    }
    for precision in PRECISIONS:
        for rows, tokens in ATTENTION:
            name = f"{precision}, {rows} rows of {tokens}"
            found["attention, seconds"][name] = attention(rows, tokens, precision, arguments.rounds)
        for name, shape in STEPS.items():
            found["training step, seconds"][f"{precision}, {name}"] = training(shape, precision, arguments.rounds)
        for distinct, length in PROMPTS:
            name = f"{precision}, {distinct} prompts of {length} tokens"
            found["sampling, tokens per second"][name] = sampling(distinct, length, precision, arguments.rounds)
    text = json.dumps(found, indent=1)
    print(text)
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
