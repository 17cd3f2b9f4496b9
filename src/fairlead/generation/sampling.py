"""How to sample: the settings of a request.

Knows: temperature, filters, stops, limits; how rows that answer one prompt grow as a tree.
Does not know: models, caches.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["Sampling", "Tree", "TreeSampling"]


class Sampling(BaseModel):
    """Settings of the sampling engine. Filters apply in the order temperature, top-k, top-p, min-p."""

    model_config = ConfigDict(extra="forbid")

    maximum_tokens: int = Field(
        64, ge=1, description="longest response; one that reaches it without an end token is truncated"
    )
    temperature: float = Field(1.0, ge=0, description="logits are divided by it; 0 takes the likeliest token")
    top_k: int = Field(0, ge=0, description="keep the k likeliest tokens; 0 keeps all")
    top_p: float = Field(1.0, gt=0, le=1, description="keep the smallest set of tokens whose probability reaches p")
    min_p: float = Field(0.0, ge=0, lt=1, description="drop tokens less likely than min_p times the likeliest one")
    stop: list[str] = Field(default_factory=list, description="strings that end a response (kept out of its text)")
    stop_tokens: list[int] = Field(
        default_factory=list, description="token ids that end a response besides the model's own"
    )
    minimum_tokens: int = Field(0, ge=0, description="no end token before this many tokens")

    @property
    def filters(self) -> bool:
        """Whether top-k, top-p or min-p may leave tokens out."""
        return self.top_k > 0 or self.top_p < 1.0 or self.min_p > 0.0

    @property
    def plain(self) -> bool:
        """Whether tokens are drawn from the model's own distribution as it is."""
        return self.temperature == 1.0 and not self.filters


class Tree(BaseModel):
    """When a branch of a tree gets a sibling, when it is cut off again, and when the tree is grown. Lengths are in tokens.

    Defaults are those of LATR for Countdown. For mathematics its code has 0.15 and 0.25 in place of 0.25 and 0.15, and prunes by
    `suffix: 0.2` and `rouge: 0.5` in place of `edit`.
    """

    model_config = ConfigDict(extra="forbid")

    candidates: int = Field(2, ge=1, description="likeliest tokens that are looked at; 1 never branches")
    least_probability: float = Field(0.25, ge=0, le=1, description="a further token branches above this probability")
    largest_gap: float = Field(
        0.15, ge=0, le=1, description="and only if the likeliest token is more probable by less than this"
    )
    random_branching: float | None = Field(
        None, ge=0, le=1, description="branch with this probability in place of both thresholds; a control"
    )
    least_entropy: float | None = Field(
        None,
        ge=0,
        description="branch where the next token's entropy is above this, in nats, in place of both thresholds; a rival",
    )
    lookahead: list[Annotated[int, Field(ge=1)]] = Field(
        [20, 30, 50],
        min_length=1,
        description="ages at which a branch is compared with what its parent wrote meanwhile",
    )
    edit: float | None = Field(0.4, description="prune below this edit distance, as a share of the age; null: never")
    suffix: float | None = Field(
        None, description="prune where a suffix of one longer than this share stands in the other; null: never"
    )
    rouge: float | None = Field(None, description="prune above this F1 of ROUGE-L; null: never")
    embedding: float | None = Field(
        None, description="prune above this cosine between the means of the policy's own token embeddings; null: never"
    )
    random_pruning: float | None = Field(
        None, ge=0, le=1, description="prune with this probability in place of all comparisons; a control"
    )
    sample: Literal["none", "full", "always"] = Field(
        "none",
        description="what is drawn rather than taken as the likeliest while the tree grows: `none`; `full`: tokens of branches that do "
        "not branch when the tree has all its branches; `always`: those of all branches that do not branch",
    )
    fill: Literal["copies", "fresh"] = Field(
        "copies",
        description="what takes the places of branches that the tree did not find: copies of its first one, or independent samples",
    )
    decay: float = Field(
        0.05, ge=0, description="how the share of branches that is enough falls, from 0.98, over the longest response"
    )
    longest: int = Field(512, ge=1, description="the tree ends at this length at the latest")

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if self.random_branching is not None and self.least_entropy is not None:
            raise ValueError("random_branching and least_entropy are two rules of branching: leave one of them null")
        return self


class TreeSampling(Sampling):
    """Sampling in which rows of one group begin as the branches of a tree."""

    tree: Tree = Field(default_factory=Tree, description="how it grows")
