"""Does a story hang together for a model? `python evidence/hangs_together.py CHECKPOINT…`.

Two questions to held-out texts of `fairlead:simple`:

order    two sentences of a story that stand side by side are exchanged: how often is the true order likelier? (chance 0.5)
twins    two stories differ in one early fact and in all that follows from it; each is cut in the middle: how often are the two second halves
         likelier behind their own first halves than behind each other's? (chance 0.5)

Writes JSON to standard output: checkpoint → both shares with their standard errors, how many questions, and mean differences of log-probability in nats.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable

import torch

from fairlead.data import DataSource, TextCodec, read
from fairlead.models import ModelSpec, load_model, load_tokenizer

Scorer = Callable[[str, str], float]
"""Log-probability of a text behind another one."""


def sentences(story: str) -> list[str]:
    return re.split(r"(?<=[.!?])\s+|(?<=[.!?]\")\s+", story)


def texts(name: str) -> list[str]:
    return [record["text"] for record in read(DataSource(path=f"fairlead:simple/{name}.validation")).records]


def order(score: Scorer) -> list[float]:
    """Differences in favour of the true order."""
    found = []
    for story in texts("stories"):
        parts = sentences(story)
        for place in range(1, len(parts) - 1):
            before, rest = " ".join(parts[:place]), parts[place + 2 :]
            true, other = (
                " ".join([*pair, *rest]) for pair in (parts[place : place + 2], parts[place : place + 2][::-1])
            )
            found.append(score(before, true) - score(before, other))
    return found


def twins(score: Scorer) -> list[float]:
    """Differences in favour of what follows from each story's own beginning."""
    stories = texts("twins")
    found = []
    for pair in zip(stories[::2], stories[1::2], strict=True):
        halves = []
        for story in pair:
            parts = sentences(story)
            halves.append((" ".join(parts[: len(parts) // 2]), " ".join(parts[len(parts) // 2 :])))
        (first, second), (other_first, other_second) = halves
        own = score(first, second) + score(other_first, other_second)
        found.append(own - score(first, other_second) - score(other_first, second))
    return found


@torch.no_grad()
def hangs_together(checkpoint: str) -> dict[str, dict[str, float]]:
    """Its figures."""
    spec = ModelSpec(path=checkpoint)
    model, codec = load_model(spec), TextCodec(load_tokenizer(spec))

    def score(before: str, text: str) -> float:
        context, ids = codec.encode_prompt(before), codec.encode_prompt(f"{before} {text}")
        logprobs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        return float(logprobs[:-1].gather(1, torch.tensor(ids[1:])[:, None])[len(context) - 1 :].sum())

    figures = {}
    for question in (order, twins):
        differences = torch.tensor(question(score))
        share = float((differences > 0).double().mean())
        figures[question.__name__] = {
            "share": share,
            "standard_error": (share * (1 - share) / len(differences)) ** 0.5,
            "questions": len(differences),
            "difference": float(differences.mean()),
        }
    return figures


if __name__ == "__main__":
    print(json.dumps({checkpoint: hangs_together(checkpoint) for checkpoint in sys.argv[1:]}, indent=1))
