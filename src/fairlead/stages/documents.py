"""Documents as rows of tokens: conversations and texts, encoded, packed or cut, and counted.

Knows: how records become token ids with a mask of what is learned.
Does not know: models, losses, the loop that learns from the rows.
"""

from __future__ import annotations

from typing import Literal

from fairlead.data import FilterReport, PackedRow, TextCodec, TrainOn, pack, to_conversations
from fairlead.runs import StageRun
from fairlead.stages.base import Sources

__all__ = ["Choose", "Row", "documents", "rows_of"]

Choose = Literal["best", "all"]
"""Of ranked responses to one prompt: the best one, or all of them."""
Document = tuple[list[int], list[bool]]
"""Token ids, and which of them count."""
Row = Document | PackedRow


def documents(
    run: StageRun, codec: TextCodec, sources: Sources, learn: TrainOn = "assistant", choose: Choose = "best"
) -> list[Document]:
    """Every record as token ids; what is left out is counted."""
    records, report = to_conversations([run.read(source) for source in sources], choose=choose)
    run.count(report)
    return [codec.encode_conversation(record, learn) for record in records]


def rows_of(run: StageRun, documents: list[Document], maximum_length: int, packed: bool = True) -> list[Row]:
    """Rows of at most `maximum_length` tokens: several documents in one (packed), or each in its own, cut where it is too long."""
    report = FilterReport()
    rows: list[Row]
    if packed:
        rows = [*pack(documents, maximum_length, report)]
    else:
        rows = [(ids[:maximum_length], mask[:maximum_length]) for ids, mask in documents]
        cut = sum(len(ids) > maximum_length for ids, _ in documents)
        report.kept = len(rows)
        if cut:
            report.change(f"cut to {maximum_length} tokens", count=cut)
    run.count(report)
    return rows
