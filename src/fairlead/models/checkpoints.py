"""Checkpoints as files of named tensors: read one at a time, written in shards.

Knows: safetensors (whole or in shards), the configuration beside them, which weights are copies of others.
Does not know: forward passes, or what is done with the tensors.

safetensors maps a file into memory and reads a tensor when it is asked for, so work that goes tensor by tensor needs the memory of a
few tensors, whatever the size of the models.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, GenerationConfig, PreTrainedModel

from fairlead.models.load import ModelError, ModelSpec, copy_tokenizer, resolve_path

__all__ = ["Checkpoint", "write_checkpoint"]

_INDEX = "model.safetensors.index.json"
_WHOLE = "model.safetensors"


class Checkpoint:
    """The tensors of a model directory (or hub name) by name; a context, inside which they can be read.

    Raises ModelError where there is no configuration or no safetensors, and for quantised weights and bare adapters.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.directory = _directory(spec.path)
        if not (self.directory / "config.json").is_file():
            adapter = (self.directory / "adapter_config.json").is_file()
            what = "adapters alone; merge them into their model first" if adapter else "no config.json"
            raise ModelError(f"{spec.path!r} holds {what}")
        self.config: Any = AutoConfig.from_pretrained(self.directory)
        if getattr(self.config, "quantization_config", None):
            raise ModelError(f"the weights of {spec.path!r} are quantised: write a plain checkpoint of them first")
        self.names: list[str] = []
        """Names of the tensors, without those that loading makes copies of."""
        self._handles: dict[str, Any] = {}
        self._stack = ExitStack()

    @cached_property
    def files(self) -> list[Path]:
        """The files that hold weights, in order."""
        index = self.directory / _INDEX
        if index.is_file():
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        else:
            names = [_WHOLE]
        missing = [name for name in names if not (self.directory / name).is_file()]
        if missing:
            raise ModelError(f"{self.spec.path!r} has no {missing[0]}; only checkpoints of safetensors can be read")
        return [self.directory / name for name in names]

    @cached_property
    def architecture(self) -> type[PreTrainedModel] | None:
        """The transformers class that wrote the checkpoint; None where transformers does not have it."""
        names = self.config.architectures or [""]
        return getattr(transformers, names[0], None)

    @cached_property
    def skeleton(self) -> PreTrainedModel | None:
        """The model without weights: what its parts are called, and which are one."""
        if self.architecture is None:
            return None
        with torch.device("meta"):
            return self.architecture(self.config)

    @property
    def embeddings(self) -> list[str]:
        """Names of the matrices that have a row for every token: the input's, and the output's."""
        if self.skeleton is None:
            raise ModelError(f"transformers has no {self.config.architectures}, so rows of tokens cannot be found")
        both = self.skeleton.get_input_embeddings(), self.skeleton.get_output_embeddings()
        return [
            f"{name}.weight" for name, module in self.skeleton.named_modules() if any(module is one for one in both)
        ]

    def __enter__(self) -> Self:
        for file in self.files:
            handle = self._stack.enter_context(safe_open(file, framework="pt"))
            self._handles |= dict.fromkeys(handle.keys(), handle)
        tied = {} if self.skeleton is None else self.skeleton.all_tied_weights_keys
        self.names = [name for name in self._handles if name not in tied]
        return self

    def __exit__(self, *exception: object) -> None:
        self._handles.clear()
        self._stack.close()

    def __getitem__(self, name: str) -> Tensor:
        return self._handles[name].get_tensor(name)  # type: ignore[no-any-return]

    def shapes(self) -> dict[str, list[int]]:
        """Shape of each tensor, without reading any."""
        return {name: list(self._handles[name].get_slice(name).get_shape()) for name in self.names}

    def digest(self) -> str:
        """SHA-256 of the files with weights, one behind the other."""
        found = hashlib.sha256()
        for file in self.files:
            with file.open("rb") as stream:
                while block := stream.read(2**20):
                    found.update(block)
        return found.hexdigest()


def write_checkpoint(
    directory: Path, tensors: Iterable[tuple[str, Tensor]], like: Checkpoint, dtype: str | None, shard_size: int
) -> None:
    """Write tensors as an ordinary checkpoint with the configuration and tokenizer of `like`.

    They are taken one by one; a shard is written when it has `shard_size` bytes. `dtype` is what the configuration says of them.
    """
    directory.mkdir(parents=True, exist_ok=True)
    shards: list[list[str]] = []
    held: dict[str, Tensor] = {}
    total = 0

    def flush() -> None:
        save_file(held, directory / f"shard-{len(shards)}", metadata={"format": "pt"})
        shards.append(list(held))
        held.clear()

    for name, tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        if held and sum(t.numel() * t.element_size() for t in held.values()) + size > shard_size:
            flush()
        held[name] = tensor.contiguous()
        total += size
    flush()
    files = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    if len(shards) == 1:
        files = [_WHOLE]
    else:
        index = {
            "metadata": {"total_size": total},
            "weight_map": {name: file for names, file in zip(shards, files, strict=True) for name in names},
        }
        (directory / _INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")
    for number, file in enumerate(files):
        (directory / f"shard-{number}").rename(directory / file)
    if dtype is not None:
        like.config.dtype = dtype
    like.config.save_pretrained(directory)
    if (like.directory / "generation_config.json").is_file():
        GenerationConfig.from_pretrained(like.directory).save_pretrained(directory)
    copy_tokenizer(like.spec, directory)


def _directory(path: str) -> Path:
    """The folder behind a path, or the local copy of what a hub name stands for."""
    folder = Path(resolve_path(path))
    if folder.is_dir():
        return folder
    try:
        return Path(snapshot_download(path, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model"]))
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        first = str(error).strip().split("\n", 1)[0]
        raise ModelError(f"no model at {path!r}: {first} — write a model directory, a hub name, or stage:ID") from error
