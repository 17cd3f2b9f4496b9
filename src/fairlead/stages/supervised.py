"""Supervised learning from demonstrations and plain text.

Knows: the loop over documents, and what their loss says of held-out ones.
Does not know: where the model runs, what the loss is.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field

from fairlead.batch import Sequences
from fairlead.data import SeededSampler, TextCodec, TrainOn, pack, sequences_batch
from fairlead.objectives import NegativeLogLikelihood, SupervisedObjective
from fairlead.runs import StageRun
from fairlead.runtime import ModelGroup, OptimiserSpec
from fairlead.stages.base import EvenSources, Model, Stage
from fairlead.stages.documents import Choose, documents, rows_of

__all__ = ["Supervised"]


class Supervised(Stage, name="sft"):
    """Supervised fine-tuning on responses, or continued pre-training on whole texts.

    Source: Ouyang et al. 2022 (arXiv 2203.02155), section 3.5; packing with block-diagonal attention as in Krell et al. 2021
    (arXiv 2107.02027).
    """

    model: Model = Field(description="the model to begin with")
    data: EvenSources = Field(description="conversations, prompts with responses, or texts")
    validation: EvenSources = Field(default_factory=list, description="held-out data for the validation loss")
    learn: TrainOn = Field(
        "assistant", description="tokens that count: every assistant turn, the last one, or everything"
    )
    choose: Choose = Field("best", description="of ranked responses to one prompt: the best one, or all of them")
    packed: bool = Field(True, description="several documents in one row, with attention kept apart")
    maximum_length: int = Field(
        512, ge=8, description="tokens of a row; longer documents are split (packed) or cut, and counted"
    )
    objective: SupervisedObjective = Field(default_factory=NegativeLogLikelihood, description="the loss")
    optimiser: OptimiserSpec = Field(
        default_factory=lambda: OptimiserSpec(learning_rate=1e-4), description="how the model is trained"
    )
    batch_size: int = Field(16, ge=1, description="rows in one optimiser step")
    epochs: float = Field(1.0, gt=0, description="passes over the data; used when `steps` is null")
    steps: int | None = Field(None, ge=1, description="optimiser steps")
    validate_every: int = Field(100, ge=1, description="steps between looks at the validation loss")
    export_dtype: Literal["float32", "bfloat16"] | None = Field(
        None, description="precision of the checkpoint that is written"
    )

    def run(self, run: StageRun) -> dict[str, Any]:
        codec = run.codec(self.model)
        rows = self._rows(run, codec)
        held_out, held_out_bytes = self._held_out(run, codec)
        steps = self.steps or max(1, round(self.epochs * len(rows) / self.batch_size))
        model = run.open("policy", self.model, optimiser=self.optimiser, total_steps=steps)
        sampler = SeededSampler(len(rows), self.batch_size, run.seed)
        run.keep("rows", sampler)
        self.keep_parts(run)
        validation: dict[str, float] = {}

        for step in run.steps(steps, self.save_every, self.retain):
            batch = sequences_batch([rows[index] for index in sampler.next()], codec.padding_id)
            with run.phase("update"):
                learned = model.update(batch, self.objective)
            metrics = {f"policy/{name}": value for name, value in learned.items()}
            metrics |= {"tokens": float((batch.segments > 0).sum()), "epoch": step * self.batch_size / len(rows)}
            if held_out and (step % self.validate_every == 0 or step == steps):
                with run.phase("validate"):
                    validation = _validate(model, held_out, held_out_bytes, codec, self.batch_size)
                metrics |= {f"validation/{name}": value for name, value in validation.items()}
            run.log(step, metrics, ("policy/loss", "validation/loss", "policy/learning_rate", "tokens_per_second"))
        if held_out and not validation:  # resumed behind the last step
            validation = _validate(model, held_out, held_out_bytes, codec, self.batch_size)
        return run.finish({"steps": steps, "rows": len(rows), "validation": validation}, model, self.export_dtype)

    def _rows(self, run: StageRun, codec: TextCodec) -> list[Any]:
        return rows_of(run, documents(run, codec, self.data, self.learn, self.choose), self.maximum_length, self.packed)

    def _held_out(self, run: StageRun, codec: TextCodec) -> tuple[list[Any], int]:
        """Packed rows, and the number of UTF-8 bytes that the tokens that count stand for."""
        if not self.validation:
            return [], 0
        encoded = documents(run, codec, self.validation, self.learn, self.choose)
        counted = ([t for t, counts in zip(ids, mask, strict=True) if counts] for ids, mask in encoded)
        size = sum(len(codec.decode(ids).encode()) for ids in counted)
        return pack(encoded, self.maximum_length), size


def _validate(model: ModelGroup, rows: list[Any], size: int, codec: TextCodec, batch_size: int) -> dict[str, float]:
    """Loss in nats a token, perplexity, and bits for each byte of the text that counts."""
    total, count = 0.0, 0
    for start in range(0, len(rows), 4 * batch_size):
        batch: Sequences = sequences_batch(rows[start : start + 4 * batch_size], codec.padding_id)
        logprobs = model.token_logprobs(batch)
        total -= float(logprobs.double().sum())
        count += int(batch.mask.sum())
    loss = total / max(count, 1)
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 50.0)),
        "bits_per_byte": total / math.log(2) / max(size, 1),
        "tokens": float(count),
    }
