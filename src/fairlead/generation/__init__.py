"""Generation: the sampling engine, its filters and its settings, and vLLM behind the same interface."""

from fairlead.generation.engine import ContextError, Watcher, generate
from fairlead.generation.filters import choose, filtered_logits
from fairlead.generation.mixing import Mixing
from fairlead.generation.sampling import Sampling, Tree, TreeSampling
from fairlead.generation.vllm import VllmSampler, VllmSpec

__all__ = [
    "ContextError",
    "Mixing",
    "Sampling",
    "Tree",
    "TreeSampling",
    "VllmSampler",
    "VllmSpec",
    "Watcher",
    "choose",
    "filtered_logits",
    "generate",
]
