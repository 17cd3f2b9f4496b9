"""Tokens per second of the sampling engine beside transformers' `generate`, on random weights.

    python benchmarks/generation.py [--rows 64] [--prompt 32] [--response 64] [--hidden 256] [--layers 8] [--vocabulary 4096]

Four cases: equal prompt lengths, mixed lengths (left padding), eight samples of each prompt (shared prefill), and
responses that end at random (rows that finish leave the cache). The two sides take turns, and figures are medians of `--repeats`
runs: of tokens a second of wall time, and of processor time, which another process on the same core does not change.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fairlead.batch import Prompts, left_pad, row_table
from fairlead.generation import Sampling, generate


@dataclass
class NoText:
    """A codec for token ids that stand for nothing."""

    end_ids: tuple[int, ...] = ()
    padding_id: int = 0

    def decode(self, ids: list[int]) -> str:
        return ""


def make_prompts(arguments: argparse.Namespace, lengths: list[int], copies: int = 1) -> Prompts:
    generator = torch.Generator().manual_seed(0)
    distinct = [torch.randint(1, arguments.vocabulary, (n,), generator=generator).tolist() for n in lengths[::copies]]
    ids, mask = left_pad([prompt for prompt in distinct for _ in range(copies)], 0)
    index = torch.arange(len(lengths))
    rows = row_table([{"prompt": ""} for _ in lengths])
    return Prompts(
        prompt_ids=ids, prompt_mask=mask, group=index // copies, seed=index, rows=rows, batch_size=[len(lengths)]
    )


def rates(sides: list[Callable[[], int]], repeats: int) -> list[tuple[float, float]]:
    """For each side its median tokens per second of wall and of processor time, after one run to warm up; a side returns its tokens.

    The sides take turns, so that what else the machine does falls on both alike.
    """
    found: list[list[tuple[float, float]]] = [[] for _ in sides]
    for number in range(repeats + 1):
        for side, rounds in zip(sides, found, strict=True):
            wall, processor = time.perf_counter(), time.process_time()
            tokens = side()
            if number:
                rounds.append((tokens / (time.perf_counter() - wall), tokens / (time.process_time() - processor)))
    return [(median(x for x, _ in rounds), median(x for _, x in rounds)) for rounds in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {
        "rows": 64,
        "prompt": 32,
        "response": 64,
        "hidden": 256,
        "layers": 8,
        "vocabulary": 4096,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=arguments.vocabulary,
        hidden_size=arguments.hidden,
        intermediate_size=2 * arguments.hidden,
        num_hidden_layers=arguments.layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        max_position_embeddings=arguments.prompt + arguments.response,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config).eval()
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}M parameters, {torch.get_num_threads()} threads")
    rows, width = arguments.rows, arguments.prompt
    equal, mixed = [width] * rows, [max(1, width - row * width // (2 * rows)) for row in range(rows)]
    mixed[0] = width
    some = tuple(range(1, 1 + arguments.vocabulary // 32))  # a token in 32 ends a response
    cases: dict[str, tuple[Prompts, tuple[int, ...]]] = {
        "equal lengths": (make_prompts(arguments, equal), ()),
        "mixed lengths": (make_prompts(arguments, mixed), ()),
        "8 samples a prompt": (make_prompts(arguments, equal, 8), ()),
        "random ends": (make_prompts(arguments, equal), some),
    }
    sampling = Sampling(maximum_tokens=arguments.response)
    print(f"{'tokens/s':20}{'engine':>12}{'transformers':>14}{'ratio':>8}{'ratio of processor time':>25}")
    for name, (prompts, ends) in cases.items():

        def engine(prompts: Prompts = prompts, ends: tuple[int, ...] = ends) -> int:
            return int(generate(model, NoText(ends), prompts, sampling).mask.sum())

        def transformers(prompts: Prompts = prompts, ends: tuple[int, ...] = ends) -> int:
            with torch.no_grad():
                whole = model.generate(
                    input_ids=prompts.prompt_ids,
                    attention_mask=prompts.prompt_mask.long(),
                    max_new_tokens=arguments.response,
                    do_sample=True,
                    top_k=0,
                    eos_token_id=list(ends) or None,
                )
            return int((whole[:, width:] != 0).sum()) if ends else whole[:, width:].numel()

        ours, theirs = rates([engine, transformers], arguments.repeats)
        wall, processor = (own / other for own, other in zip(ours, theirs, strict=True))
        print(f"{name:20}{ours[0]:12.0f}{theirs[0]:14.0f}{wall:8.2f}{processor:25.2f}", flush=True)


if __name__ == "__main__":
    main()
