"""Merging the weights of several models into one.

Knows: which tensors of checkpoints belong together, and what must be equal before they can be merged.
Does not know: the formulas, which are those of a merger.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from fairlead.merging import Linear, Merger
from fairlead.models import Checkpoint, ModelError, ModelSpec, load_tokenizer, write_checkpoint
from fairlead.runs import StageRun, write_json
from fairlead.runs.files import atomic_folder
from fairlead.stages.base import Model, Stage

__all__ = ["Merge"]


class Merge(Stage, name="merge"):
    """Merge the weights of models that began from one base: averages, arcs, and sums of what each has learned.

    Goes from tensor to tensor in single precision and writes an ordinary checkpoint, with a record of its parents in `merge.json`.

    Source: Wortsman et al. 2022, "Model soups" (arXiv 2203.05482); the mergers name theirs.
    """

    models: dict[str, Model] = Field(
        min_length=1, description="the models to merge, each by a name; the first one's tokenizer stays"
    )
    base: Model | None = Field(None, description="the model that all began from, for mergers of what was learned since")
    merger: Merger = Field(default_factory=Linear, description="how tensors are merged")
    exceptions: dict[str, Merger] = Field(
        default_factory=dict,
        description="regular expression → merger of the tensors in whose name it is found; the first that fits counts",
    )
    token_rows_of: str | None = Field(
        None,
        description="model whose rows of special tokens are copied into the embeddings instead of merged: halved with rows that were "
        "never trained, markers of turns and ends lose their meaning. null: merged as all others",
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="precision of the checkpoint; null: that of each tensor in the first model"
    )
    shard_size: int = Field(5_000_000_000, ge=1, description="bytes of a file before the next one begins")

    @model_validator(mode="after")
    def _fits_together(self) -> Merge:
        for merger in (self.merger, *self.exceptions.values()):
            merger.check(self.models)
            if merger.needs_base and self.base is None:
                raise ValueError(
                    f"merger {merger.part_name} adds to a base: set `base` to the model that all began from"
                )
        if self.base is not None and not any(m.needs_base for m in (self.merger, *self.exceptions.values())):
            raise ValueError(
                f"merger {self.merger.part_name} has no use for `base`: name it among the models, or take it out"
            )
        if self.token_rows_of is not None and self.token_rows_of not in self.models:
            raise ValueError(f"token_rows_of names {self.token_rows_of!r}; the models are {', '.join(self.models)}")
        for name, model in {"the base": self.base, **self.models}.items():
            if model is not None and (model.lora is not None or model.initialise is not None):
                raise ValueError(f"{name}: checkpoints are merged as they are; take out `lora` and `initialise`")
        for pattern in self.exceptions:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"exceptions: {pattern!r} is no regular expression: {error}") from None
        return self

    def run(self, run: StageRun) -> dict[str, Any]:
        with ExitStack() as stack:
            models = {name: stack.enter_context(Checkpoint(run.resolve(spec))) for name, spec in self.models.items()}
            base = None if self.base is None else stack.enter_context(Checkpoint(run.resolve(self.base)))
            everyone = models if base is None else models | {"the base": base}
            first = next(iter(models.values()))
            _require_same_tokens({name: model.spec for name, model in everyone.items()})
            _require_same_tensors(everyone)
            for pattern in self.exceptions:
                if not any(re.search(pattern, name) for name in first.names):
                    raise ModelError(f"exceptions: {pattern!r} is found in no name; the first is {first.names[0]}")
            record = {
                "parents": {name: {"path": one.spec.path, "sha256": one.digest()} for name, one in everyone.items()},
                "settings": self.model_dump(mode="json"),
                "tensors": len(first.names),
            }
            with atomic_folder(run.directory / "model") as folder:
                write_checkpoint(folder, self._merged(models, base), first, self.dtype, self.shard_size)
                write_json(folder / "merge.json", record)
        return run.finish({**record, "model": f"stages/{run.id}/model"})

    def _merged(self, models: dict[str, Checkpoint], base: Checkpoint | None) -> Iterator[tuple[str, Tensor]]:
        """Name and merged tensor, one after another, in the precision in which they are written."""
        first = next(iter(models.values()))
        rows = {} if self.token_rows_of is None else dict.fromkeys(first.embeddings, _special_ids(first.spec))
        for name in first.names:
            tensors = {model: checkpoint[name] for model, checkpoint in models.items()}
            own = next(iter(tensors.values()))
            ground = None if base is None else base[name]
            if not own.is_floating_point():
                others = [*tensors.values(), *([] if ground is None else [ground])]
                if not all(torch.equal(own, other) for other in others):
                    raise ModelError(
                        f"{name} holds {own.dtype}, which cannot be merged, and differs between the models"
                    )
                yield name, own
                continue
            merger = next((m for p, m in self.exceptions.items() if re.search(p, name)), self.merger)
            merged = merger(tensors, ground, name).to(own.dtype if self.dtype is None else getattr(torch, self.dtype))
            if self.token_rows_of is not None and name in rows:
                merged[rows[name]] = tensors[self.token_rows_of][rows[name]].to(merged.dtype)
            yield name, merged


def _require_same_tokens(models: dict[str, ModelSpec]) -> None:
    """A row of an embedding must stand for one token in all models."""
    (first, expected), *others = ((name, load_tokenizer(spec).get_vocab()) for name, spec in models.items())
    for name, vocabulary in others:
        if vocabulary != expected:
            token = min(t for t in expected.keys() | vocabulary.keys() if expected.get(t) != vocabulary.get(t))
            raise ModelError(
                f"the models have different tokenizers: {token!r} is {expected.get(token)} in {first} and {vocabulary.get(token)} in "
                f"{name}; only models that began from one base can be merged"
            )


def _require_same_tensors(models: dict[str, Checkpoint]) -> None:
    """Same names and shapes; precisions may differ."""
    (first, expected), *others = ((name, model.shapes()) for name, model in models.items())
    for name, shapes in others:
        for tensor in sorted(expected.keys() | shapes.keys()):
            forms = expected.get(tensor, "missing"), shapes.get(tensor, "missing")
            if forms[0] != forms[1]:
                raise ModelError(
                    f"the models have different weights: {tensor} is {forms[0]} in {first} and {forms[1]} in {name}; only models that "
                    "began from one base can be merged"
                )


def _special_ids(spec: ModelSpec) -> list[int]:
    """The tokens that stand for turns, ends and padding and not for text."""
    tokenizer = load_tokenizer(spec)
    added = (number for number, token in tokenizer.added_tokens_decoder.items() if token.special)
    return sorted({*tokenizer.all_special_ids, *added})
