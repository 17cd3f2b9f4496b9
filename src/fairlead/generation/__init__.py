"""Generation: the sampling engine, its filters and its settings."""

from fairlead.generation.engine import ContextError, generate
from fairlead.generation.filters import choose, filtered_logits
from fairlead.generation.sampling import Sampling

__all__ = ["ContextError", "Sampling", "choose", "filtered_logits", "generate"]
