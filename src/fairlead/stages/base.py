"""What every stage shares."""

from __future__ import annotations

from abc import abstractmethod
from itertools import accumulate
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from torch import Tensor

from fairlead.batch import Batch
from fairlead.data import DataError, DataSource, FilterReport, TextCodec, drop_overlong
from fairlead.evaluation import plain_text
from fairlead.models import ModelSpec
from fairlead.parts import Part, parts_within
from fairlead.runs import StageRun
from fairlead.runtime import ModelGroup

__all__ = [
    "EvenSources",
    "Model",
    "Sources",
    "Stage",
    "fitting_prompts",
    "open_reference",
    "reference_logprobs",
    "shown_response",
]

Model = Annotated[ModelSpec, BeforeValidator(ModelSpec.coerce)]
"""A model in a recipe: its path, or a mapping."""


def _several(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _even(sources: list[DataSource]) -> list[DataSource]:
    weighted = [source.path for source in sources if source.weight != 1]
    if weighted:
        raise ValueError(
            f"`weight` has no effect here, where every record is used once: take it out of {weighted[0]!r}"
        )
    return sources


Sources = Annotated[list[DataSource], BeforeValidator(_several)]
"""Data in a recipe: one source (its path, or a mapping) or a list of them."""

EvenSources = Annotated[Sources, AfterValidator(_even)]
"""Sources that are read through, so that a weight would mean nothing."""


class Stage(Part, slot="stage"):
    """One stage of a recipe: an ordinary loop over calls on model groups."""

    save_every: int = Field(50, ge=0, description="steps between checkpoints; 0: only when asked to stop")
    retain: int = Field(1, ge=1, description="how many checkpoints to keep")

    def keep_parts(self, run: StageRun) -> None:
        """Make the state of every part of the stage, however deep, part of its checkpoints."""
        for path, part in parts_within(self):
            run.keep(f"parts/{path}", part)

    def check(self, run: StageRun) -> None:
        """Look for what would make the stage refuse its work; called for every stage of a recipe before the first one begins."""

    def at_start(self, codec: TextCodec) -> None:
        """Tell every part of the stage, however deep, how the policy's tokens are read."""
        for _, part in parts_within(self):
            part.at_start(codec)

    def at_step(self, step: int) -> None:
        """Tell every part of the stage, however deep, which step begins."""
        for _, part in parts_within(self):
            part.at_step(step)

    @abstractmethod
    def run(self, run: StageRun) -> dict[str, Any]:
        """Do the work (from the last checkpoint on) and return what `StageRun.finish` wrote."""


def open_reference(run: StageRun, reference: ModelSpec | None, policy: ModelSpec) -> ModelGroup | None:
    """A model of its own, or None when the policy with its adapters off is the reference."""
    if reference is None and policy.lora is not None:
        return None
    return run.open("reference", reference or policy)


def reference_logprobs(
    policy: ModelGroup, reference: ModelGroup | None, batch: Batch, temperature: float = 1.0
) -> Tensor:
    """The log-probabilities of what `open_reference` opened."""
    if reference is None:
        return policy.token_logprobs(batch, temperature, reference=True)
    return reference.token_logprobs(batch, temperature)


def shown_response(row: dict[str, Any]) -> str:
    """The response of a row of samples as people read it; of a dialogue all turns behind the prompt."""
    return plain_text(row.get("response_turns") or row["response"])


def fitting_prompts(
    policy: ModelGroup, records: list[Any], report: FilterReport, response: int, maximum: int | None
) -> tuple[list[Any], FilterReport, int | None]:
    """The prompts that leave the context room for a response, what became of the others, and the length to cut to.

    Looked at before the first step: a prompt that does not fit would end the run whenever it is drawn. With a `maximum` longer
    prompts lose their beginning; without one they are left out.
    """
    room = None if policy.context is None else policy.context - response
    if room is not None and room < 1:
        raise DataError(
            f"the context of {policy.context} tokens has no room for a prompt beside a response of {response}: lower "
            "sampling.maximum_tokens"
        )
    longest = min((limit for limit in (room, maximum) if limit is not None), default=None)
    if longest is None:
        return records, report, None
    if maximum is not None:
        cut = sum(len(policy.codec.encode_prompt(record.prompt)) > longest for record in records)
        if cut:
            report.change(f"prompt cut to its last {longest} tokens", count=cut)
        return records, report, longest
    ends = list(accumulate(report.sizes))
    sources = [records[end - size : end] for end, size in zip(ends, report.sizes, strict=True)]
    kept = [drop_overlong(source, policy.codec, longest) for source in sources]
    if not all(source for source, _ in kept):
        raise DataError(
            f"a source has no prompt of at most {longest} tokens, which is what the context of {policy.context} leaves beside a "
            "response: set maximum_prompt, or lower sampling.maximum_tokens"
        )
    report.kept, report.sizes = 0, [len(source) for source, _ in kept]
    report.add(dropped for _, dropped in kept)
    return [record for source, _ in kept for record in source], report, longest
