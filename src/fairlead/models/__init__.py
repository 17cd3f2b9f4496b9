"""Models: loading, saving, heads and adapters of Hugging Face checkpoints."""

from fairlead.models.checkpoints import Checkpoint, write_checkpoint
from fairlead.models.load import (
    LoraSpec,
    ModelError,
    ModelKind,
    ModelSpec,
    PessimisticHead,
    adapter_off,
    backbone,
    checkpoint_weights,
    context_of,
    export_model,
    head_of,
    load_config,
    load_model,
    load_tokenizer,
    merged_weights,
    plain_model,
    resolve_path,
)

__all__ = [
    "Checkpoint",
    "LoraSpec",
    "ModelError",
    "ModelKind",
    "ModelSpec",
    "PessimisticHead",
    "adapter_off",
    "backbone",
    "checkpoint_weights",
    "context_of",
    "export_model",
    "head_of",
    "load_config",
    "load_model",
    "load_tokenizer",
    "merged_weights",
    "plain_model",
    "resolve_path",
    "write_checkpoint",
]
