"""What the machine can do at best, and what a row asks of it.

Knows: matrix products, memory traffic, the widths of a transformer.
Does not know: how a step is carried out.

Counted is the work that cannot be avoided: every token through every matrix once for a forward pass and three times for
forward and backward, a head at response tokens only, each distinct prompt once in sampling. Recomputation, padding and
second copies are not counted, so they lower the share.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from fairlead.bench.rows import Row
from fairlead.models import resolve_path
from fairlead.runtime.machine import hardware_precisions

__all__ = ["Demand", "ModelCost", "Roof", "demands", "measure_roof"]


@dataclass(frozen=True)
class Roof:
    """Measured peaks of the device."""

    flops: dict[str, float]
    """`float32`, and `bfloat16` where the hardware has it → floating-point operations a second in a large matrix product."""
    bandwidth: float
    """Bytes a second, read and written, of a copy that no cache holds."""

    def seconds(self, demand: Demand, precision: str) -> float:
        """The least time in which the demand can be met; a precision that is emulated has float32's roof."""
        flops = self.flops.get(precision, self.flops["float32"])
        return max(demand.flops / flops, demand.bytes / self.bandwidth)


@dataclass(frozen=True)
class Demand:
    """What a phase of one step needs."""

    tokens: float
    """Tokens the phase is said to handle: responses in sampling, whole sequences elsewhere."""
    flops: float
    bytes: float = 0.0
    """Memory traffic where that can be the limit (decoding); 0 elsewhere."""


def measure_roof(size: int = 2048, mebibytes: int = 256, seconds: float = 0.5) -> Roof:
    """Measure peaks with `size`³ products and a copy of `mebibytes`, each for about `seconds`."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    flops = {}
    for precision in hardware_precisions():
        left, right = (torch.randn(size, size, device=device).to(getattr(torch, precision)) for _ in range(2))
        out = torch.empty_like(left)
        flops[precision] = 2 * size**3 / _best(partial(torch.mm, left, right, out=out), seconds)
    source = torch.zeros(mebibytes * 2**20 // 4, device=device)
    target = torch.zeros_like(source)
    return Roof(flops, 2 * source.numel() * 4 / _best(partial(target.copy_, source), seconds))


def _best(run: Callable[[], Any], seconds: float) -> float:
    """Seconds of the fastest repetition, after one to warm up."""

    def once() -> float:
        start = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - start

    once()
    end = time.perf_counter() + seconds
    fastest = once()
    while time.perf_counter() < end:
        fastest = min(fastest, once())
    return fastest


@dataclass(frozen=True)
class ModelCost:
    """Sizes of a causal language model that set its cost. Mixtures of experts are counted as if all experts ran."""

    body: int
    """Parameters of the matrices below the head."""
    head: int
    """Parameters of the head."""
    layers: int
    attention_width: int
    """Heads × their width."""
    cache_width: int
    """Key-value heads × their width."""

    @classmethod
    def of(cls, path: str) -> ModelCost:
        """The cost of the model in a directory, from its configuration alone."""
        config = AutoConfig.from_pretrained(resolve_path(path))
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        head = model.get_output_embeddings()
        body = sum(
            module.weight.numel()
            for module in model.modules()
            if isinstance(module, nn.Linear) and module is not head and module.weight is not head.weight
        )
        text = config.get_text_config(decoder=True)
        heads = text.num_attention_heads
        width = getattr(text, "head_dim", None) or text.hidden_size // heads
        key_value = getattr(text, "num_key_value_heads", None) or heads
        return cls(body, head.weight.numel(), text.num_hidden_layers, heads * width, key_value * width)

    def forward(self, tokens: float, scored: float, context: float) -> float:
        """Operations of a forward pass over `tokens` tokens, `scored` of them through the head; `context` is the sum
        over the tokens of how many positions each attends to."""
        return 2 * self.body * tokens + 2 * self.head * scored + 4 * self.layers * self.attention_width * context


def demands(
    row: Row, cost: ModelCost, precision: str, response: float, sequence: float, longest: float
) -> dict[str, Demand]:
    """Phase → what one step of `row` needs, for sequences of mean length `sequence` with `response` scored tokens each.

    `longest` is the number of decoding steps, in each of which the weights are read once.
    """
    rows, width = row.sequences, 2 if precision == "bfloat16" else 4
    tokens, scored = rows * sequence, rows * response
    context = rows * sequence * (sequence + 1) / 2
    whole = cost.forward(tokens, scored, context)
    headless = cost.forward(tokens, 0, context)
    found: dict[str, Demand] = {}
    if row.online:
        prompt = sequence - response
        shared = rows - row.prompts  # sequences whose prompt another one has brought
        before = prompt * (prompt + 1) / 2
        weights = (cost.body + cost.head) * width * longest
        cache = 2 * cost.layers * cost.cache_width * width * (context - rows * before)
        operations = cost.forward(tokens - shared * prompt, scored, context - shared * before)
        found["sampling"] = Demand(scored, operations, weights + cache)
    if row.scoring_passes:
        passes = 2 * whole + 2 * headless if row.kind == "ppo" else row.scoring_passes * whole
        found["scoring"] = Demand(tokens, passes)
    training = headless if row.kind == "reward" else whole + headless if row.kind == "ppo" else whole
    found["training"] = Demand(tokens * row.epochs, 3 * row.epochs * training)
    return found
