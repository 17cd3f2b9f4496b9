"""Opening and writing Hugging Face checkpoints: causal language models and models with scalar heads.

Knows: model directories and hub names, random initialisation, precision, attention implementation, LoRA through peft.
Does not know: batches, optimisers, where the model will live.
"""

from __future__ import annotations

import copy
import importlib.resources
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.core_model_loading import revert_weight_conversion
from transformers.utils import logging

from fairlead.models.attention import ATTENTION
from fairlead.models.heads import PessimisticHead, SoftMinimumHead

__all__ = [
    "LoraSpec",
    "ModelError",
    "ModelKind",
    "ModelSpec",
    "PessimisticHead",
    "adapter_off",
    "backbone",
    "checkpoint_weights",
    "copy_tokenizer",
    "export_model",
    "head_of",
    "load_model",
    "load_tokenizer",
    "merged_weights",
    "plain_model",
    "resolve_path",
]

ModelKind = Literal["causal", "scalar"]
_ASSETS = "fairlead:"
_VALUE_HEAD = "value_head"
_DROPOUT_KEYS = (
    "attention_dropout",
    "attn_pdrop",
    "embd_pdrop",
    "resid_pdrop",
    "hidden_dropout",
    "dropout",
    "classifier_dropout",
)


class ModelError(ValueError):
    """A model cannot be opened; the message says what to write instead."""


class LoraSpec(BaseModel):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) trained in place of the model's own weights."""

    model_config = ConfigDict(extra="forbid")

    rank: int = Field(16, ge=1, description="rank of the update of each weight matrix")
    alpha: float = Field(32.0, gt=0, description="the update is scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the adapter's input while training")
    targets: str | list[str] = Field("all-linear", description="names of the modules to adapt, or 'all-linear'")


class ModelSpec(BaseModel):
    """Which model to open and how. A bare string in a recipe is the path."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(
        "fairlead:base", description="model directory, hub name, `fairlead:base`, or `stage:ID` for what a stage made"
    )
    tokenizer: str | None = Field(None, description="where the tokenizer lies when not beside the model")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="precision in which weights are kept"
    )
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = Field(
        "auto",
        description="attention implementation of transformers; auto takes the fastest that model and device support",
    )
    dropout: float | None = Field(
        0.0, ge=0, lt=1, description="overrides every dropout rate of the model; null keeps the checkpoint's own"
    )
    gradient_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass: less memory, more time"
    )
    lora: LoraSpec | None = Field(
        None, description="train low-rank adapters; the reference is then the model with adapters off"
    )
    head: PessimisticHead | None = Field(
        None, description="of a critic: several small heads in place of one linear head; null: the linear one"
    )
    initialise: dict[str, Any] | None = Field(
        None, description="start from random weights with this transformers configuration (`model_type` and its fields)"
    )

    @classmethod
    def coerce(cls, value: Any) -> Any:
        """A bare path as a mapping; for use in `BeforeValidator`."""
        return {"path": value} if isinstance(value, str) else value


def resolve_path(path: str) -> str:
    """The directory behind `fairlead:NAME` (shipped with the package); any other path or hub name unchanged."""
    if not path.startswith(_ASSETS):
        return path
    folder = Path(str(importlib.resources.files("fairlead"))) / "assets" / path.removeprefix(_ASSETS)
    if not folder.is_dir():
        raise ModelError(f"{path!r} is not shipped with this installation (looked in {folder})")
    return str(folder)


def load_tokenizer(spec: ModelSpec) -> PreTrainedTokenizerBase:
    """The tokenizer of a model; one without padding token pads with its end token."""
    path = resolve_path(spec.tokenizer or spec.path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"no tokenizer at {path!r}: {_first_line(error)}") from error
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_config(spec: ModelSpec) -> Any:
    """The configuration of a model, without its weights. Raises ModelError when nothing can be opened at the path."""
    if spec.initialise is not None:
        fields = dict(spec.initialise)
        if "model_type" not in fields:
            raise ModelError("initialise: `model_type` is missing (llama, qwen2, gpt2, …)")
        return AutoConfig.for_model(fields.pop("model_type"), **fields)
    path = resolve_path(spec.path)
    try:
        return AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"no model at {path!r}: {_first_line(error)} — write a directory that holds config.json and safetensors, "
            "a hub name, or fairlead:base"
        ) from error


def context_of(config: Any) -> int | None:
    """How many positions the context of a model holds; None where its configuration does not say."""
    limit: int | None = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    return limit


def load_model(
    spec: ModelSpec, kind: ModelKind = "causal", labels: int = 1, value_head: bool = False
) -> PreTrainedModel:
    """The model that `spec` describes, in evaluation mode.

    `kind="scalar"` puts a linear head of `labels` outputs on the backbone (`AutoModelForSequenceClassification`); a head that
    the checkpoint does not have starts at zero, so that a new value or reward function starts flat and needs no seed.
    `value_head` puts one such output beside the logits of a causal model. It is no part of the model's weights or checkpoints.
    Raises ModelError when nothing can be opened at the path.
    """
    dtype = getattr(torch, spec.dtype)
    if spec.head is not None and (kind == "causal" or labels != 1):
        raise ModelError("`head` is for critics, which give one number a token: leave it out here")
    auto: Any = AutoModelForCausalLM if kind == "causal" else AutoModelForSequenceClassification
    # Not every model has every implementation: Gemma-2 caps its attention logits, which sdpa cannot.
    attention = None if spec.attention == "auto" else spec.attention
    config = load_config(spec)
    _configure(config, spec, kind, labels)
    if spec.initialise is not None:
        model = auto.from_config(config, dtype=dtype, attn_implementation=attention)
        new_head = True
    else:
        path = resolve_path(spec.path)
        try:
            with _quiet():
                model, report = auto.from_pretrained(
                    path, config=config, dtype=dtype, attn_implementation=attention, output_loading_info=True
                )
        except (OSError, ValueError) as error:
            raise ModelError(f"the model at {path!r} cannot be opened: {_first_line(error)}") from error
        new_head = any("score" in name for name in report["missing_keys"])
    if kind == "scalar":
        if not isinstance(getattr(model, "score", None), nn.Linear):
            raise ModelError(f"{type(model).__name__} has no linear `score` head; choose a decoder model")
        if spec.head is not None:
            model.score = SoftMinimumHead(model.score.in_features, spec.head).to(dtype)
        elif new_head:
            nn.init.zeros_(model.score.weight)
    if spec.attention == "auto" and model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(ATTENTION)  # which is sdpa wherever that is faster
    if spec.lora is not None:
        model = _add_adapters(model, spec.lora, kind)
    if spec.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if spec.lora is not None:
            model.enable_input_require_grads()
    if value_head:  # behind the adapters, which would freeze it
        _add_value_head(plain_model(model))
    return model.eval()  # type: ignore[no-any-return]


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no table of the head that a new scalar model lacks: both are expected here."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _configure(config: Any, spec: ModelSpec, kind: ModelKind, labels: int) -> None:
    if spec.dropout is not None:
        for key in _DROPOUT_KEYS:
            if getattr(config, key, None) is not None:
                setattr(config, key, spec.dropout)
    if kind == "scalar":
        config.num_labels = labels
        if config.pad_token_id is None:
            end = config.eos_token_id
            config.pad_token_id = end[0] if isinstance(end, list) else (0 if end is None else end)


def _add_adapters(model: PreTrainedModel, lora: LoraSpec, kind: ModelKind) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
        task_type="CAUSAL_LM" if kind == "causal" else "SEQ_CLS",
    )
    return get_peft_model(model, config)


def _add_value_head(model: PreTrainedModel) -> None:
    output = model.get_output_embeddings()
    head = nn.Linear(output.weight.shape[1], 1, bias=False, device=output.weight.device, dtype=output.weight.dtype)
    nn.init.zeros_(head.weight)
    setattr(model, _VALUE_HEAD, head)


def head_of(model: Any) -> nn.Module:
    """What makes values or scores of hidden states: the head of a scalar model, or the value head of a causal one."""
    plain = plain_model(model)
    return getattr(plain, _VALUE_HEAD) if hasattr(plain, _VALUE_HEAD) else plain.score  # type: ignore[return-value]


def plain_model(model: Any) -> PreTrainedModel:
    """The transformers model inside an adapter wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[no-any-return]


def backbone(model: Any) -> nn.Module:
    """The transformer below the head of a causal or scalar model."""
    inner = plain_model(model)
    return getattr(inner, inner.base_model_prefix)  # type: ignore[no-any-return]


def adapter_off(model: Any) -> Any:
    """A context in which the adapters of `model` are switched off; raises ModelError for a model without adapters."""
    if not hasattr(model, "disable_adapter"):
        raise ModelError("this model has no adapters to switch off: open the reference as a model of its own")
    return model.disable_adapter()


def export_model(model: Any, directory: Path, source: ModelSpec, dtype: str | None = None) -> None:
    """Write an ordinary Hugging Face checkpoint (safetensors, adapters merged in) with its tokenizer into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    merged = _untied_weights(model)
    with torch.no_grad():
        inner = plain_model(model)
        state = {name: tensor.detach().to("cpu") for name, tensor in merged.items()}
        if dtype is not None:
            state = {name: t.to(getattr(torch, dtype)) if t.is_floating_point() else t for name, t in state.items()}
        with _quiet():
            inner.save_pretrained(directory, state_dict=state)
        if dtype is not None:
            # `save_pretrained` writes the precision that the model has in memory; readers with dtype="auto" go by the file.
            config = copy.deepcopy(inner.config)
            config.dtype = dtype
            config.save_pretrained(directory)
    copy_tokenizer(source, directory)


def copy_tokenizer(source: ModelSpec, directory: Path) -> None:
    """Put the tokenizer of a model beside the weights in `directory`."""
    tokenizer_path = Path(resolve_path(source.tokenizer or source.path))
    if tokenizer_path.is_dir():
        for file in tokenizer_path.iterdir():
            if file.name.startswith(
                ("tokenizer", "special_tokens", "chat_template", "vocab", "merges", "added_tokens")
            ):
                shutil.copyfile(file, directory / file.name)
    else:
        load_tokenizer(source).save_pretrained(directory)


def merged_weights(model: Any) -> dict[str, torch.Tensor]:
    """The state dict of the model with its adapters merged in and without a value head, under the names of the plain model."""
    if not hasattr(model, "merge_adapter"):
        return {name: tensor for name, tensor in model.state_dict().items() if _is_own(name)}
    plain = plain_model(model)
    # Merging and unmerging in place rounds twice; the old weights are put back so that reading never changes the model.
    kept = {name: tensor.clone() for name, tensor in plain.state_dict().items() if _is_own(name)}
    model.merge_adapter()
    try:
        state = {
            name.replace(".base_layer", "").replace(".modules_to_save.default", ""): tensor.clone()
            for name, tensor in plain.state_dict().items()
            if _is_own(name)
        }
    finally:
        model.unmerge_adapter()
        with torch.no_grad():
            for name, tensor in plain.state_dict().items():
                if name in kept:
                    tensor.copy_(kept[name])
    return state


def _untied_weights(model: Any) -> dict[str, torch.Tensor]:
    """`merged_weights` without the copies of other tensors, which loading ties again."""
    tied = plain_model(model).all_tied_weights_keys
    return {name: tensor for name, tensor in merged_weights(model).items() if name not in tied}


def checkpoint_weights(model: Any) -> dict[str, torch.Tensor]:
    """The weights under the names and in the shapes of a checkpoint, adapters merged in, on the model's device."""
    weights = {name: tensor.detach() for name, tensor in _untied_weights(model).items()}
    return dict(revert_weight_conversion(plain_model(model), weights))


def _is_own(name: str) -> bool:
    """True for the weights that the plain model has too, merged or not."""
    return ".lora_" not in name and ".original_module" not in name and not name.startswith(f"{_VALUE_HEAD}.")


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0][:300]
