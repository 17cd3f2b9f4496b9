"""Shipped tasks for small programs: their file, their card, and that every demonstration passes its tests."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from fairlead.worlds.small_programs import save_tasks, tasks

SHIPPED = Path(str(resources.files("fairlead"))) / "assets" / "programs"


def test_what_is_shipped_is_what_is_generated(tmp_path: Path) -> None:
    save_tasks(tmp_path)
    for split, records in zip(("train", "validation"), tasks(), strict=True):
        assert (tmp_path / f"{split}.jsonl").read_bytes() == (SHIPPED / f"{split}.jsonl").read_bytes()
        card = (SHIPPED / "README.md").read_text().replace(" records", "")
        assert f"`fairlead:programs/{split}` ({len(records)})" in card


def test_no_task_stands_in_both_sets() -> None:
    train, validation = ({record["prompt"][0]["content"] for record in records} for records in tasks())
    assert len(train) == 140 and len(validation) == 20 and not train & validation


def test_every_demonstration_passes_and_another_task_s_fails_somewhere() -> None:
    records = [record for split in tasks() for record in split]
    for record, other in zip(records, [*records[1:], records[0]], strict=True):
        assert all(_holds(record["response"], test) for test in record["tests"])
        if other["response"] != record["response"]:
            assert not all(_holds(other["response"], test) for test in record["tests"])


def _holds(response: str, test: str) -> bool:
    """Demonstrations are the project's own: they run here, without a sandbox."""
    names: dict[str, object] = {}
    exec(response.removeprefix("```python\n").removesuffix("```"), names)
    try:
        exec(test, names)
    except (AssertionError, TypeError):
        return False
    return True
