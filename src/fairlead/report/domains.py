"""What several models in a row are worth in each domain: where a later stage takes away what an earlier one gave.

Knows: stages that compared three models or more, their judges and kinds of prompts.
Does not know: how the models were made, how tables look.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fairlead import functional
from fairlead.report.read import RunData, StageData, mean_of

__all__ = ["Domain", "domains"]

_FEWEST = 3  # of two models the difference says it all


@dataclass(frozen=True)
class Domain:
    """A row of the table."""

    name: str
    models: tuple[str, ...]
    means: tuple[float, ...]

    @property
    def forgotten(self) -> float:
        """By how much the last model is behind the best one."""
        return functional.forgetting([[mean] for mean in self.means])[0]


def domains(run: RunData) -> list[Domain]:
    """Every domain in which the same three or more models were judged: those of the first stage that did so, and of its like."""
    found = [domain for stage in run.stages if len(stage.models) >= _FEWEST for domain in _of(stage)]
    return [domain for domain in found if domain.models == found[0].models]


def _of(stage: StageData) -> Iterator[Domain]:
    kinds = (stage.result or {}).get("kinds")
    tables: dict[str, Any] = {stage.id: stage.channels}
    if isinstance(kinds, dict) and len(kinds) > 1:
        tables = {f"{stage.id}: {kind}": entry.get("channels") or {} for kind, entry in kinds.items()}
    for name, channels in tables.items():
        for judge in channels.get(stage.models[0]) or {}:
            means = [mean_of((channels.get(model) or {}).get(judge)) for model in stage.models]
            if None not in means:
                yield Domain(f"{name}, {judge}", tuple(stage.models), tuple(mean for mean in means if mean is not None))
