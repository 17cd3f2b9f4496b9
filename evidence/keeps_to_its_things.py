"""Does a model keep to what its story is about? `python evidence/keeps_to_its_things.py CHECKPOINT…`.

In each held-out story of `fairlead:simple` the last word is taken that stood in the story before and in few other stories: a name, an animal, a
thing. The model reads the story up to there, and its probability of that word is compared with those of 19 such words of other stories.
Writes JSON to standard output: checkpoint → how often the right word is the likeliest of 20 (chance 0.05), and its mean log-probability
less the best other one's, in nats.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections import Counter

import torch

from fairlead.data import DataSource, TextCodec, read
from fairlead.models import ModelSpec, load_model, load_tokenizer

OTHERS, RARE = 19, 0.15


def questions() -> list[tuple[str, str, list[str]]]:
    """Beginnings of stories, the word that comes next, and other words that might."""
    stories = [record["text"] for record in read(DataSource(path="fairlead:simple/stories.validation")).records]
    spread = Counter(word for story in stories for word in set(re.findall(r"\w+", story)))
    found = []
    for story in stories:
        words = [match for match in re.finditer(r"(?<= )\w{3,}", story) if spread[match[0]] < RARE * len(stories)]
        again = [match for place, match in enumerate(words) if match[0] in {word[0] for word in words[:place]}]
        if again:
            found.append((story[: again[-1].start() - 1], again[-1][0]))
    draw, pool = random.Random(0), sorted({word for _, word in found})
    return [
        (beginning, word, draw.sample([other for other in pool if other not in beginning], OTHERS))
        for beginning, word in found
    ]


@torch.no_grad()
def keeps(checkpoint: str) -> dict[str, float]:
    """Its figures."""
    spec = ModelSpec(path=checkpoint)
    model, codec = load_model(spec), TextCodec(load_tokenizer(spec))
    right, margins = 0, []
    for beginning, word, others in questions():
        context = codec.encode_prompt(beginning)
        scores = []
        for candidate in (word, *others):
            ids = codec.encode_prompt(f"{beginning} {candidate}")
            logprobs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
            scores.append(sum(float(logprobs[place - 1, ids[place]]) for place in range(len(context), len(ids))))
        margins.append(scores[0] - max(scores[1:]))
        right += margins[-1] > 0
    return {"right": right / len(margins), "margin": sum(margins) / len(margins), "stories": len(margins)}


if __name__ == "__main__":
    print(json.dumps({checkpoint: keeps(checkpoint) for checkpoint in sys.argv[1:]}, indent=1))
