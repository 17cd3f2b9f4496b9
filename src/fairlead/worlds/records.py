"""Records of a world, written as the package ships them.

Knows: the files of a data set.
Does not know: what stands in the records.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["save_splits"]


def save_splits(folder: Path, train: list[dict[str, Any]], validation: list[dict[str, Any]]) -> None:
    """Write `train.jsonl` and `validation.jsonl`."""
    for name, records in (("train", train), ("validation", validation)):
        text = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
