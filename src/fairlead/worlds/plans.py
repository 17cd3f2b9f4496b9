"""Plans: a language in which a few tokens decide what is written, others are only ways to say it, and most are settled.

Knows: a hand-made Hugging Face model whose next token depends on the last one alone, the plan of a text, its exact probability.
Does not know: how policies are sampled or trained.

A response is a row of questions, each followed by a segment. The first token of a segment decides which of two variants of it is
written, and so the answer to the question; one response has one *plan*, the row of its answers. In the middle of a segment stands a
token with two spellings that mean the same.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from fairlead.batch import Experience, Samples, row_table
from fairlead.diagnostics import Diagnostic
from fairlead.rewards import Reward
from fairlead.runtime import ModelGroup
from fairlead.worlds.models import word_tokenizer

__all__ = ["PlanProbability", "PlanReward", "PlanWorld", "plan_of"]

_START, _END = "start", "<end>"
_FIRST = re.compile(r"(?:^| )\d+\.(\d)\.0'?(?= |$)")
_SETTLED, _SPELLINGS, _RARE = 0.95, 0.51, 0.01
_NEVER = -20.0  # the log-probability of what the language does not have


class PlanWorld:
    """A language of so many questions and segments of so many tokens."""

    def __init__(self, decisions: int = 3, segment: int = 6, likely: float = 0.6) -> None:
        """`likely`: probability of the first variant of each segment; that of the other is 0.98 less it."""
        self.decisions, self.segment, self.likely = decisions, segment, likely
        self.length = decisions * (segment + 1) + 1
        """Tokens of every response, the end token included."""
        places = (
            (d, v, i, mark) for d in range(decisions) for v in (0, 1) for i in range(segment) for mark in ("", "'")
        )
        words = [
            _END,
            _START,
            *(f"q{d}" for d in range(decisions)),
            *(f"{d}.{v}.{i}{mark}" for d, v, i, mark in places),
        ]
        self.vocabulary = {word: number for number, word in enumerate(words)}

    def following(self, word: str) -> dict[str, float]:
        """Probability of each word that may follow."""
        if word == _START:
            return {"q0": 1.0}
        if word.startswith("q"):
            number = word[1:]
            sure = {f"{number}.0.0": self.likely, f"{number}.1.0": 1 - 2 * _RARE - self.likely}
            return sure | {f"{number}.{v}.0'": _RARE for v in (0, 1)}
        if word == _END:
            return {_END: 1.0}
        decision, variant, place = map(int, word.rstrip("'").split("."))
        if place + 1 == self.segment:
            return {f"q{decision + 1}" if decision + 1 < self.decisions else _END: 1.0}
        share = _SPELLINGS if place + 1 == self.segment // 2 else _SETTLED
        following = f"{decision}.{variant}.{place + 1}"
        return {following: share, f"{following}'": 1 - share}

    def save_model(self, directory: Path) -> Path:
        """Write the language as a model: one layer that adds nothing, and the table of log-probabilities as its head.

        Its attention and its hidden layer stay at zero when it is trained, since each of their factors is.
        """
        size = len(self.vocabulary) + len(self.vocabulary) % 2
        config = LlamaConfig(
            vocab_size=size,
            hidden_size=size,
            intermediate_size=2,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_key_value_heads=1,
            head_dim=2,
            max_position_embeddings=self.length + 8,
            tie_word_embeddings=False,
            pad_token_id=0,
            eos_token_id=0,
            bos_token_id=None,
        )
        model = LlamaForCausalLM(config)
        table = torch.full((size, size), _NEVER)
        for word, number in self.vocabulary.items():
            for other, probability in self.following(word).items():
                table[self.vocabulary[other], number] = math.log(probability)
        layer = model.model.layers[0]
        with torch.no_grad():
            for zero in (layer.self_attn.v_proj, layer.self_attn.o_proj, layer.mlp.up_proj, layer.mlp.down_proj):
                zero.weight.zero_()
            model.model.embed_tokens.weight.copy_(torch.eye(size))
            model.lm_head.weight.copy_(table / math.sqrt(size))  # the norm makes the root of `size` of a one
        model.save_pretrained(directory)
        word_tokenizer(list(self.vocabulary)).save_pretrained(directory)
        return directory

    def save_prompts(self, path: Path) -> Path:
        """Write the one prompt as JSONL."""
        path.write_text(f'{{"prompt": "{_START}"}}\n', encoding="utf-8")
        return path

    def answers(self, policy: ModelGroup) -> Tensor:
        """[decisions, 2] float64: exact probability of each variant, however its first word is spelt."""
        texts = [self._text(variant, mark) for variant in (0, 1) for mark in ("", "'")]
        tokens = torch.tensor([[self.vocabulary[word] for word in text] for text in texts])
        rows, zeros = len(texts), torch.zeros(len(texts), dtype=torch.int64)
        batch = Samples(
            prompt_ids=torch.full((rows, 1), self.vocabulary[_START]),
            prompt_mask=torch.ones(rows, 1, dtype=torch.bool),
            tokens=tokens,
            mask=torch.ones(tokens.shape, dtype=torch.bool),
            group=zeros,
            seed=zeros,
            logprobs=torch.zeros(tokens.shape),
            sampling_logprobs=torch.zeros(tokens.shape),
            truncated=torch.zeros(rows, dtype=torch.bool),
            rows=row_table([{}] * rows),
            batch_size=[rows],
        )
        firsts = policy.token_logprobs(batch).double().exp()[:, 1 :: self.segment + 1]  # behind each question
        return firsts[:, : self.decisions].reshape(2, 2, -1).sum(1).T

    def _text(self, variant: int, mark: str) -> list[str]:
        """A response that always answers alike, with this spelling of each first word."""
        segments = ([f"q{d}", *(f"{d}.{variant}.{i}" for i in range(self.segment))] for d in range(self.decisions))
        return [word + mark if word.endswith(".0") else word for segment in segments for word in segment]


def plan_of(text: str) -> tuple[int, ...]:
    """The answers that a response gives, in order."""
    return tuple(int(variant) for variant in _FIRST.findall(text))


class PlanReward(Reward, name="plan"):
    """1 for a response with the wanted plan, 0 for any other.

    Source: the project's own world of known truth.
    """

    target: list[int] = Field(description="the wanted answers")

    def __call__(self, samples: Samples) -> Tensor:
        return torch.tensor([float(plan_of(row["response"]) == tuple(self.target)) for row in samples.rows])


class PlanProbability(Diagnostic, name="plan"):
    """The exact probability that a policy's response has a plan.

    Source: the project's own world of known truth.
    """

    target: list[int] = Field(description="the plan")
    segment: int = Field(6, ge=2, description="tokens of a segment of the world")

    def __call__(self, policy: ModelGroup, experience: Experience) -> dict[str, float]:
        answers = PlanWorld(len(self.target), self.segment).answers(policy)
        return {"probability": float(answers.gather(1, torch.tensor(self.target)[:, None]).prod())}
