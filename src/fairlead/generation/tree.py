"""The trees of a batch: where they branch, which branches are cut off, when they are grown.

Knows: probabilities of next tokens, what each branch has written, the rows that a tree may fill.
Does not know: models, caches, how tokens are drawn or written down (the engine does).

Each group of rows is one tree, and a row is a *place* for one branch. A tree begins with one branch, its first, in the group's first
place. A branch that branches goes on itself with the likeliest token; its child begins as a copy with another token, in a
free place. A tree looks at its own rows only, so what it becomes does not depend on the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import TensorDict
from torch import Tensor

from fairlead import functional
from fairlead.generation.sampling import Tree

__all__ = ["Forest", "Growth"]

_ENOUGH = 0.98
_SALT_BRANCH, _SALT_PRUNE = 1, 2
_COUNTED = ("tokens", "branched", "suppressed", "compared", "removed", "steps", "empty")


@dataclass(frozen=True)
class Growth:
    """What a step does to n rows of the engine; c children are born."""

    forced: Tensor
    """[n] bool: the row takes its likeliest token, nothing is drawn."""
    likeliest: Tensor
    """[n] int64"""
    parents: Tensor
    """[c] int64: the row of the engine that a child copies."""
    tokens: Tensor
    """[c] int64: the child's own token."""
    children: Tensor
    """[c] int64: the child's place."""


class Forest:
    """The trees of all B rows of a request, one for each group.

    Source: LATR (arXiv 2510.24302). It ends all trees of a batch at once; here each ends for itself.
    """

    def __init__(self, tree: Tree, group: Tensor, seeds: Tensor, maximum_tokens: int, embeddings: Tensor) -> None:
        """group, seeds: [B] int64; embeddings: [V, D] of the tokens, for the rule that compares by them."""
        self.tree, self.seeds, self.maximum, self.embeddings = tree, seeds, maximum_tokens, embeddings
        device, rows = group.device, len(group)
        self.root = torch.unique(group, return_inverse=True)[1]
        """[B]: which tree a place belongs to."""
        self.width = torch.bincount(self.root)
        """[trees]: places."""
        self._by_tree = self.root.argsort(stable=True)
        self.first = self._by_tree[self.width.cumsum(0) - self.width]
        """[trees]: the place of the first branch."""
        self.used = torch.zeros(rows, dtype=torch.bool, device=device)
        """[B]: places that hold a branch."""
        self.parent = torch.arange(rows, device=device)
        """[B]: the place of the parent; a first branch is its own."""
        self.birth = torch.zeros(rows, dtype=torch.int64, device=device)
        """[B]: at which token a branch left its parent."""
        self.growing = torch.zeros(len(self.width), dtype=torch.bool, device=device)
        """[trees]"""
        self.counts = {name: torch.zeros(len(self.width), device=device) for name in _COUNTED}

    def plant(self, places: Tensor) -> Tensor:
        """[t]: the places of the first branches of the trees that these places belong to, which grow from now on."""
        trees = self.root[places].unique()
        self.growing[trees] = True
        self.used[self.first[trees]] = True
        return self.first[trees]

    # -- branching ---------------------------------------------------------------------------------------------------

    def branch(self, places: Tensor, alive: Tensor, probabilities: Tensor, step: int) -> Growth:
        """Who branches at token `step`, given the probabilities [n, V] of the next token of the rows in these places [n].

        Further tokens are served in the order (rank of the token, age of the branch) while their tree has places. Rows must
        come in the order in which their branches were born.
        """
        root = self.root[places]
        growing = alive & self.growing[root]
        values, tokens = probabilities.topk(min(self.tree.candidates, probabilities.shape[-1]), -1)
        wanted = self._wanted(values, probabilities, places, step) & growing[:, None]
        rank, parents = wanted.T.nonzero(as_tuple=True)
        free = self.width - torch.bincount(self.root[self.used], minlength=len(self.width))
        turn = _turn(root[parents])
        served = turn < free[root[parents]]
        self._count("suppressed", root[parents[~served]])
        rank, parents, turn = rank[served], parents[served], turn[served]
        children = self._free_place(root[parents], turn)
        self.used[children] = True
        self.parent[children] = places[parents]
        self.birth[children] = step
        self._count("branched", root[parents])
        self._count("tokens", root[growing])
        self._count("tokens", root[parents])
        return Growth(
            forced=growing & ~self._drawn(root, parents, free),
            likeliest=tokens[:, 0],
            parents=parents,
            tokens=tokens[parents, rank + 1],
            children=children,
        )

    def _wanted(self, values: Tensor, probabilities: Tensor, places: Tensor, step: int) -> Tensor:
        """[n, candidates − 1] bool: which further tokens are likely enough to branch."""
        further = values[:, 1:]
        if self.tree.least_entropy is not None:
            entropy = torch.special.entr(probabilities).sum(-1, keepdim=True)
            return (entropy > self.tree.least_entropy) & (further > 0)
        if self.tree.random_branching is None:
            return (further > self.tree.least_probability) & (values[:, :1] - further < self.tree.largest_gap)
        chance = functional.uniform(functional.mix_seeds(self.seeds[places], _SALT_BRANCH), step)
        return (chance < self.tree.random_branching)[:, None].expand_as(further)

    def _free_place(self, root: Tensor, turn: Tensor) -> Tensor:
        """[c]: the free place number `turn` of each tree."""
        free = self._by_tree[~self.used[self._by_tree]]
        return free[torch.searchsorted(self.root[free], root) + turn]

    def _drawn(self, root: Tensor, parents: Tensor, free: Tensor) -> Tensor:
        """[n] bool: rows whose token is drawn although their tree grows."""
        drawn = torch.full_like(root, self.tree.sample != "none", dtype=torch.bool)
        drawn[parents] = False
        if self.tree.sample == "full":
            drawn &= (free == torch.bincount(root[parents], minlength=len(free)))[root]
        return drawn

    # -- pruning -----------------------------------------------------------------------------------------------------

    def prune(self, places: Tensor, alive: Tensor, written: Tensor, step: int) -> Tensor:
        """[B] bool: branches that are cut off, because they write what their parent writes or hang on one that does.

        A branch is compared at the ages `lookahead`, if neither it nor its parent has ended. written: [B, maximum_tokens].
        """
        removed = torch.zeros_like(self.used)
        running = torch.zeros_like(self.used)
        running[places[alive]] = True
        children = running & running[self.parent] & self.growing[self.root]
        children[self.first] = False
        for length in sorted(set(self.tree.lookahead)):
            due = (children & (step + 1 - self.birth == length)).nonzero().squeeze(1)
            if due.numel():
                window = slice(step + 1 - length, step + 1)
                alike = self._alike(written[due, window], written[self.parent[due], window], due, step)
                removed[due] = alike
                self._count("compared", self.root[due])
                self._count("removed", self.root[due[alike]])
        if bool(removed.any()):
            while bool((more := self.used & removed[self.parent] & ~removed).any()):
                removed |= more
            self.used &= ~removed
        return removed

    def _alike(self, child: Tensor, parent: Tensor, places: Tensor, step: int) -> Tensor:
        """[N] bool: whether what a branch wrote [N, r] is too close to what its parent wrote."""
        if self.tree.random_pruning is not None:
            chance = functional.uniform(functional.mix_seeds(self.seeds[places], _SALT_PRUNE), step)
            return chance < self.tree.random_pruning
        alike = torch.zeros(len(child), dtype=torch.bool, device=child.device)
        if self.tree.edit is not None:
            alike |= functional.edit_distance(child, parent) < self.tree.edit
        if self.tree.suffix is not None:
            alike |= functional.suffix_overlap(child, parent) > self.tree.suffix
        if self.tree.rouge is not None:
            alike |= functional.rouge_l(child, parent) > self.tree.rouge
        if self.tree.embedding is not None:
            alike |= functional.embedding_similarity(child, parent, self.embeddings) > self.tree.embedding
        return alike

    # -- the end of a tree -------------------------------------------------------------------------------------------

    def stop(self, places: Tensor, alive: Tensor, step: int) -> Tensor:
        """[B] bool: the free places of trees that end at token `step`, which are for the engine to fill from now on.

        A tree ends when it has enough branches and none of those that run can still be cut off, when all have ended, or when it
        is long enough.
        """
        trees, reached = len(self.width), step + 1
        running = places[alive]
        some = torch.bincount(self.root[running], minlength=trees) > 0
        youngest = torch.zeros_like(self.width).scatter_reduce(0, self.root[running], self.birth[running], "amax")
        found = torch.bincount(self.root[self.used], minlength=trees)
        enough = (self.width * (_ENOUGH - self.tree.decay * step / self.maximum)).round()
        settled = (found >= enough) & (reached - youngest > max(self.tree.lookahead))
        ended = self.growing & (settled | ~some) if reached < min(self.tree.longest, self.maximum) else self.growing
        self.growing = self.growing & ~ended
        self.counts["steps"][ended] = float(reached)
        free = ~self.used & ended[self.root]
        self._count("empty", self.root[free])
        self.used |= free
        return free

    def figures(self) -> TensorDict:
        """What was counted of each tree, [B] each, the same in all its places."""
        return TensorDict({name: counts[self.root] for name, counts in self.counts.items()}, [len(self.root)])

    def _count(self, name: str, trees: Tensor) -> None:
        self.counts[name] += torch.bincount(trees, minlength=len(self.width))


def _turn(labels: Tensor) -> Tensor:
    """[c] int64: how many equal labels stand before each."""
    order = labels.argsort(stable=True)
    ordered = labels[order]
    turn = torch.empty_like(order)
    turn[order] = torch.arange(len(labels), device=labels.device) - torch.searchsorted(ordered, ordered)
    return turn
