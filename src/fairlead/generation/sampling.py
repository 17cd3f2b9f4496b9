"""How to sample: the settings of a request.

Knows: temperature, filters, stops, limits.
Does not know: models, caches.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Sampling"]


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
