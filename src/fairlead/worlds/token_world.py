"""Token world: a language so small that every response can be enumerated, and so every answer is known exactly.

Knows: a tiny Hugging Face model and tokenizer of its own, a reward for every response, the exact optima.
Does not know: how policies are trained; the ordinary stages do that.

The vocabulary has a few symbols and an end token; a response is at most a few tokens long and is either ended or cut. With
reference π_ref, reward r and weight β the policy that maximises E[r] − β KL(π ‖ π_ref) is π* ∝ π_ref · exp(r / β), and the
objective it reaches is β log Σ π_ref exp(r / β).

Dimension letters: X prompts, Y responses, T response tokens, N beginnings of responses (the nodes of a tree), V vocabulary.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from fairlead.batch import Samples, left_pad, right_pad, row_table
from fairlead.generation import Sampling, filtered_logits
from fairlead.runtime import ModelGroup
from fairlead.worlds.models import save_random_llama, word_tokenizer

__all__ = ["TokenWorld"]

_SYMBOLS = "abcdefghijkl"
_END = 0
_LONGEST = 6
_MOST_ROUNDS = 10_000
_COLLAPSED = 1e-9  # share of the reward's spread below which a policy counts as one response


class TokenWorld:
    """A world with its model directory, prompts, responses and rewards; everything follows from the seed."""

    def __init__(
        self,
        symbols: int = 4,
        maximum_tokens: int = 4,
        prompts: int = 3,
        reward_scale: float = 1.0,
        seed: int = 0,
        early: int | None = None,
    ) -> None:
        """`early`: only so many tokens of the beginning bear on the reward; None: all, and where the response ends."""
        if not 1 <= prompts <= symbols <= len(_SYMBOLS) or symbols < 2:
            raise ValueError(
                f"need 1 <= prompts <= symbols and 2 <= symbols <= {len(_SYMBOLS)}, got {prompts}, {symbols}"
            )
        if not 1 <= maximum_tokens <= _LONGEST:
            raise ValueError(f"responses have 1 to {_LONGEST} tokens, got {maximum_tokens}")
        self.symbols = list(_SYMBOLS[:symbols])
        self.maximum_tokens = maximum_tokens
        # Two different symbols a prompt: without them and with rotary positions, attention over equal tokens (`a`, `a a`,
        # `a a a`) gives equal outputs, and a model that cannot tell these apart cannot reach π*.
        self._prompt_symbols = [(x, (x + 1) % symbols) for x in range(prompts)]
        self.prompts = [" ".join(self.symbols[s] for s in pair) for pair in self._prompt_symbols]
        self.reward_scale = reward_scale
        self.seed = seed
        self.early = early

    # -- the language ------------------------------------------------------------------------------------------------

    @cached_property
    def responses(self) -> list[tuple[int, ...]]:
        """Token ids of every possible response: ended within the limit, or cut by it. The empty one is the first."""
        ids = range(1, 1 + len(self.symbols))
        ended = [
            (*body, _END) for length in range(self.maximum_tokens) for body in itertools.product(ids, repeat=length)
        ]
        return ended + list(itertools.product(ids, repeat=self.maximum_tokens))

    @cached_property
    def texts(self) -> list[str]:
        """Text of each response: its symbols with blanks between."""
        return [" ".join(self.symbols[token - 1] for token in tokens if token != _END) for tokens in self.responses]

    @cached_property
    def place(self) -> dict[str, int]:
        """Text → its number in `responses`."""
        return {text: index for index, text in enumerate(self.texts)}

    def prompt_ids(self, prompt: str) -> list[int]:
        """Token ids of a prompt."""
        return [self.symbols.index(symbol) + 1 for symbol in prompt.split()]

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """A word-level tokenizer; it pads with its end token, so that every token of the vocabulary is in the language."""
        return word_tokenizer(("<end>", *self.symbols))

    def save_model(self, directory: Path, hidden: int = 32, layers: int = 2, spread: float = 0.12) -> Path:
        """Write the reference policy, a tiny random Llama, and return its directory.

        `spread` is the standard deviation of its weights: larger ones make its answers more certain.
        """
        words = ("<end>", *self.symbols)
        return save_random_llama(directory, words, hidden=hidden, heads=2, layers=layers, seed=self.seed, spread=spread)

    # -- data --------------------------------------------------------------------------------------------------------

    def save_prompts(self, path: Path, copies: int = 1) -> Path:
        """Write the prompts as JSONL."""
        return _write_rows(path, [{"prompt": prompt} for prompt in self.prompts for _ in range(copies)])

    def save_pairs(
        self, path: Path, log_distribution: Tensor, count: int, seed: int, preference: Tensor | None = None
    ) -> Path:
        """Write `count` preference pairs as JSONL: two different responses drawn from a distribution, and a drawn judgement.

        The judge is Bradley–Terry: y is preferred to y' with probability σ(r(x, y) − r(x, y')), or whatever `preference` says. The
        empty response is never drawn, because readers of preference data rightly drop empty texts.

        log_distribution: [X, Y], as `log_distribution` gives it. preference: [Y, Y], P(row beats column) for every prompt.
        """
        generator = torch.Generator().manual_seed(seed)
        distribution = self.without_empty(log_distribution).exp()
        prompts = torch.randint(len(self.prompts), (count,), generator=generator)
        pairs = torch.multinomial(distribution[prompts], 2, replacement=True, generator=generator)
        while bool((equal := pairs[:, 0] == pairs[:, 1]).any()):
            again = torch.multinomial(distribution[prompts[equal]], 2, replacement=True, generator=generator)
            pairs[equal] = again
        reward = self.rewards[prompts[:, None], pairs]
        wins = torch.sigmoid(reward[:, 0] - reward[:, 1])
        if preference is not None:
            wins = preference[pairs[:, 0], pairs[:, 1]]
        first = torch.rand(count, generator=generator, dtype=torch.float64) < wins
        chosen, rejected = torch.where(first[:, None], pairs, pairs.flip(1)).unbind(1)
        rows = [
            {"prompt": self.prompts[x], "chosen": self.texts[y], "rejected": self.texts[z]}
            for x, y, z in zip(prompts.tolist(), chosen.tolist(), rejected.tolist(), strict=True)
        ]
        return _write_rows(path, rows)

    # -- reward ------------------------------------------------------------------------------------------------------

    @cached_property
    def rewards(self) -> Tensor:
        """[X, Y] float64: reward of each response to each prompt, with mean 0 and standard deviation `reward_scale`.

        A sum over the transitions of a table, from the prompt's last symbol into the first one and on, and a term of its own for
        ending after each symbol: what comes early has consequences later, as it has in language. With `early` the sum is cut there.
        """
        generator = torch.Generator().manual_seed(self.seed)
        count = len(self.symbols)
        transition = torch.randn(count, count, generator=generator, dtype=torch.float64)
        ending = torch.randn(count, generator=generator, dtype=torch.float64)
        raw = torch.zeros(len(self.prompts), len(self.responses), dtype=torch.float64)
        for x in range(len(self.prompts)):
            for y, tokens in enumerate(self.responses):
                path = [self._prompt_symbols[x][-1], *(token - 1 for token in tokens if token != _END)]
                steps = list(itertools.pairwise(path))[: self.early]
                raw[x, y] = sum(float(transition[a, b]) for a, b in steps)
                raw[x, y] += float(ending[path[-1]]) if tokens[-1] == _END and self.early is None else 0.0
        return self.reward_scale * (raw - raw.mean()) / raw.std()

    def reward(self, prompt: str, response: str) -> float:
        """r(x, y) of two texts; KeyError or ValueError for a text that is not in the language."""
        return float(self.rewards[self.prompts.index(prompt), self.place[response]])

    # -- exact distributions -----------------------------------------------------------------------------------------

    @cached_property
    def batch(self) -> Samples:
        """Every response to every prompt, in the order of `rewards` flattened."""
        pairs = [(prompt, tokens) for prompt in self.prompts for tokens in self.responses]
        prompt_ids, prompt_mask = left_pad([self.prompt_ids(prompt) for prompt, _ in pairs], _END)
        tokens, mask = right_pad([tokens for _, tokens in pairs], _END, self.maximum_tokens)
        rows = [{"prompt": prompt, "response": text} for prompt in self.prompts for text in self.texts]
        return Samples(
            prompt_ids=prompt_ids,
            prompt_mask=prompt_mask,
            tokens=tokens,
            mask=mask,
            group=torch.arange(len(self.prompts)).repeat_interleave(len(self.responses)),
            seed=torch.zeros(len(pairs), dtype=torch.int64),
            logprobs=torch.zeros(tokens.shape),
            sampling_logprobs=torch.zeros(tokens.shape),
            truncated=torch.tensor([tokens[-1] != _END for _, tokens in pairs]),
            rows=row_table(rows),
            batch_size=[len(pairs)],
        )

    def log_distribution(self, policy: ModelGroup, reference: bool = False) -> Tensor:
        """[X, Y] float64: log π(y | x); its exponential sums to one over y without being made to."""
        logprobs = policy.token_logprobs(self.batch, reference=reference).double().sum(-1)
        return logprobs.reshape(len(self.prompts), -1)

    def without_empty(self, log_distribution: Tensor) -> Tensor:
        """[X, Y]: the distribution given that the response is not empty.

        Preference pairs never hold the empty response, so what is learned from them says nothing about its probability.
        """
        cut = log_distribution.clone()
        cut[:, 0] = -torch.inf
        return torch.log_softmax(cut, dim=-1)

    # -- the tree of beginnings --------------------------------------------------------------------------------------

    @cached_property
    def _nodes(self) -> dict[tuple[int, ...], int]:
        ids = range(1, 1 + len(self.symbols))
        beginnings = [b for length in range(self.maximum_tokens) for b in itertools.product(ids, repeat=length)]
        return {beginning: index for index, beginning in enumerate(beginnings)}

    @cached_property
    def _node_of(self) -> Tensor:
        """[Y, T]: the node in which each token of each response is chosen (0 outside the mask)."""
        width = range(self.maximum_tokens)
        return torch.tensor([[self._nodes[y[:t]] if t < len(y) else 0 for t in width] for y in self.responses])

    def conditionals(self, policy: ModelGroup) -> Tensor:
        """[X, N, V] float64: log-probability of each next token after each beginning of a response."""
        logprobs = policy.token_logprobs(self.batch).double()
        count, rows = len(self.prompts), len(self.responses)
        table = torch.full((count, len(self._nodes), 1 + len(self.symbols)), torch.nan, dtype=torch.float64)
        tokens, mask = self.batch.tokens[:rows], self.batch.mask[:rows]
        table[:, self._node_of[mask], tokens[mask]] = logprobs.reshape(count, rows, -1)[:, mask]
        return table

    def from_conditionals(self, table: Tensor) -> Tensor:
        """[X, Y]: log-probability of each response, from the table [X, N, V] of next tokens."""
        return self.token_logprobs(table).sum(-1)

    def token_logprobs(self, table: Tensor) -> Tensor:
        """[X, Y, T]: log-probability of each token of each response, from the table [X, N, V]; 0 outside the mask."""
        rows = len(self.responses)
        tokens, mask = self.batch.tokens[:rows], self.batch.mask[:rows]
        return torch.where(mask, table[:, self._node_of, tokens], 0.0)

    def sampling_distribution(self, policy: ModelGroup, sampling: Sampling) -> Tensor:
        """[X, Y] float64: log-probability of each response when the policy is sampled with temperature and filters."""
        cut = filtered_logits(self.conditionals(policy), sampling).double()
        return self.from_conditionals(torch.log_softmax(cut, dim=-1))

    # -- exact optima ------------------------------------------------------------------------------------------------

    def optimum(self, log_reference: Tensor, beta: float | Tensor) -> Tensor:
        """[X, Y] float64: log π* of the KL-regularised problem, π* ∝ π_ref · exp(r / β).

        `beta` may be a tensor [X, 1]: a weight of its own for each prompt.
        """
        return torch.log_softmax(log_reference + self.rewards / beta, dim=-1)

    def greedy_kl_optimum(self, reference: Tensor, beta: float | Tensor) -> Tensor:
        """[X, Y] float64: where a policy comes to rest whose loss holds the KL of each token by itself.

        With the KL in the loss (k2, or k3 times the ratio) a token is charged for its own divergence and not for that of the
        tokens which it brings about; only the reward reaches back. The gradient is zero where in every node
        π(a | s) ∝ π_ref(a | s) · exp(Q(s, a) / β) with Q(s, a) = E_π[r | s, a]: a fixed point without look-ahead in the KL,
        found from the leaves up. For responses of one token it is π*; for longer ones it is another policy (Tang and Munos
        2025, arXiv 2506.09477, on the gradient of the KL).

        reference: [X, N, V], as `conditionals` gives it; `beta` a number or a tensor [X, 1].
        """
        return self.from_conditionals(self._backward(reference, beta))

    def _backward(self, reference: Tensor, beta: float | Tensor) -> Tensor:
        tokens = range(1 + len(self.symbols))
        numbers = {tokens: index for index, tokens in enumerate(self.responses)}
        policy = torch.empty_like(reference)
        value = torch.empty(reference.shape[:2], dtype=torch.float64)
        for beginning, node in reversed(self._nodes.items()):  # children stand behind their parents
            following = [(*beginning, token) for token in tokens]
            q = torch.stack(
                [self.rewards[:, numbers[y]] if y in numbers else value[:, self._nodes[y]] for y in following], dim=1
            )
            policy[:, node] = torch.log_softmax(reference[:, node] + q / beta, dim=-1)
            value[:, node] = (policy[:, node].exp() * q).sum(-1)
        return policy

    def scaled_optimum(self, solve: Callable[[Tensor], Tensor], beta: float) -> Tensor:
        """[X, Y] float64: where the division by the group's standard deviation leads when the KL stands in the loss.

        The reward's gradient of prompt x is divided by the spread σ_x of the rewards of the policy's own answers, and the
        KL's is not, so the weight of the KL is in truth β·σ_x: prompts with alike rewards are pulled less to the reference.
        σ_x is that of the policy itself, so this is a fixed point, found here from the spread of all rewards on. It feeds on
        itself: a surer policy has a smaller σ_x, hence a smaller weight, hence is surer. For small β there is no other
        fixed point than the one answer of greatest reward; what stops a real run short of it is that most of its groups are
        then flat and have no advantage at all. For groups of many samples; small ones estimate 1/σ_x with a bias.

        With the KL in the *reward* the division does no such harm: at π* every return r − β log(π / π_ref) is the same,
        so every advantage is zero whatever divides it, and π* is the fixed point (which noise is then divided at, too).

        `solve`: the optimum for weights [X, 1]. Raises ArithmeticError where only the collapsed fixed point is left.
        """
        deviation = self.rewards.std(1, keepdim=True)
        for _ in range(_MOST_ROUNDS):
            policy = solve(beta * deviation)
            now = self.reward_deviation(policy)
            if torch.allclose(now, deviation, rtol=1e-9, atol=0.0):
                return policy
            if not bool((now > _COLLAPSED * self.reward_scale).all()):
                break
            deviation = (deviation * now).sqrt()  # halfway, so that it cannot swing
        raise ArithmeticError(
            f"with beta {beta:g} the policy collapses onto one response of a prompt; use a larger one"
        )

    def reward_deviation(self, log_policy: Tensor) -> Tensor:
        """[X, 1]: standard deviation of the reward of the policy's responses."""
        policy = log_policy.exp()
        mean = (policy * self.rewards).sum(-1, keepdim=True)
        return (policy * (self.rewards - mean).square()).sum(-1, keepdim=True).sqrt()

    # -- exact figures -----------------------------------------------------------------------------------------------

    def objective(self, log_policy: Tensor, log_reference: Tensor, beta: float) -> float:
        """Mean over prompts of E[r] − β KL(π ‖ π_ref)."""
        reward = (log_policy.exp() * self.rewards).sum(-1)
        return float((reward - beta * self.divergence(log_policy, log_reference)).mean())

    def divergence(self, log_policy: Tensor, log_reference: Tensor) -> Tensor:
        """[X]: KL(π ‖ π_ref), nats; a response that the policy never gives adds 0."""
        policy = log_policy.exp()
        return torch.where(policy > 0, policy * (log_policy - log_reference), 0.0).sum(-1)

    def total_variation(self, log_policy: Tensor, log_other: Tensor) -> float:
        """Mean over prompts of ½ Σ |π − π'|."""
        return float((log_policy.exp() - log_other.exp()).abs().sum(-1).mean() / 2)

    def pair_probabilities(self, log_distribution: Tensor) -> tuple[Tensor, Tensor]:
        """Every ordered pair of different responses, for what holds of pairs exactly.

        Returns how often `save_pairs` compares it, [X, Y, Y] (sums to 1), and the probability that its first response is
        preferred, [X, Y, Y].
        """
        distribution = self.without_empty(log_distribution).exp()
        often = distribution[:, :, None] * distribution[:, None, :]
        often = often * (1 - torch.eye(often.shape[-1], dtype=often.dtype))
        often = often / often.sum((1, 2), keepdim=True) / len(self.prompts)
        return often, torch.sigmoid(self.rewards[:, :, None] - self.rewards[:, None, :])

    def best_accuracy(self, log_distribution: Tensor) -> float:
        """Share of the pairs of `save_pairs` that a judge who knows the reward exactly gets right."""
        often, preferred = self.pair_probabilities(log_distribution)
        return float((often * torch.maximum(preferred, 1 - preferred)).sum())

    def entropy(self, log_policy: Tensor) -> float:
        """Mean over prompts of the entropy of the responses, nats."""
        return float(torch.special.entr(log_policy.exp()).sum(-1).mean())

    @property
    def largest_entropy(self) -> float:
        """Entropy of the uniform distribution over all responses, nats."""
        return math.log(len(self.responses))


def _write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
