"""When a stage goes back to where all was well.

Knows: which alarms ask for it, and how often it may happen.
Does not know: checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Rollback"]


class Rollback(BaseModel):
    """An alarm takes the stage back to its last good checkpoint, and on from there with a smaller step and other prompts.

    Restoring an earlier checkpoint and going on with other data is how PaLM's training got past spikes of its loss (Chowdhery et
    al. 2022, arXiv 2204.02311, section 5.1).
    """

    model_config = ConfigDict(extra="forbid")

    on: list[str] = Field(
        default_factory=lambda: ["entropy-collapse", "kl-blow-up"],
        min_length=1,
        description="names of the detectors whose alarm asks for it",
    )
    factor: float = Field(0.5, gt=0, le=1, description="the learning rates become this share of what they were")
    margin: int = Field(
        10, ge=1, description="steps without such an alarm that must follow a checkpoint before it is called good"
    )
    most: int = Field(3, ge=1, description="rollbacks at most; afterwards the stage goes on and only warns")

    def wanted(self, alarms: Iterable[str], before: int) -> bool:
        """Whether alarms of these names ask for a rollback, after `before` of them."""
        return before < self.most and any(name in self.on for name in alarms)
