"""What a person sees while a run goes on.

Knows: rich, and whether anyone is looking.
Does not know: what is being trained.
"""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

__all__ = ["RunConsole"]

_SECONDS_BETWEEN_LINES = 10.0


class RunConsole:
    """A live progress bar with the stage's headline metrics on a terminal, a line now and then elsewhere."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(quiet=quiet)
        self._live: Live | None = None
        self._progress: Progress | None = None
        self._task: Any = None
        self._stage = ""
        self._total = 0
        self._last_line = 0.0
        self._latest: dict[str, float] = {}

    def print(self, *what: Any) -> None:
        """Print above the live part."""
        self.console.print(*what)

    def note(self, text: str) -> None:
        """A remark in a line of its own."""
        self.console.print(f"  {text}", style="dim", markup=False, highlight=False, soft_wrap=True)

    def warn(self, where: str, title: str, what: str, remedy: str) -> None:
        """Something that a person should know now, and what to do about it."""
        self.console.print(f"! {where}: {title}", style="bold yellow", markup=False, highlight=False, soft_wrap=True)
        self.console.print(f"  {what}", markup=False, highlight=False, soft_wrap=True)
        self.console.print(f"  What to do: {remedy}", style="dim", markup=False, highlight=False, soft_wrap=True)

    def begin(self, stage: str, total: int, done: int = 0) -> None:
        """Show a new stage of `total` steps."""
        self.end()
        self._stage, self._total, self._last_line, self._latest = stage, total, 0.0, {}
        if self.console.is_terminal:
            self._progress = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self.console,
            )
            self._task = self._progress.add_task(stage, total=total, completed=done)
            self._live = Live(self._picture(), console=self.console, refresh_per_second=4)
            self._live.start()

    def step(self, step: int, headline: dict[str, float]) -> None:
        """Show that a step is done."""
        self._latest = headline
        if self._live is not None and self._progress is not None:
            self._progress.update(self._task, completed=step)
            self._live.update(self._picture())
        elif time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES or step == self._total:
            self._last_line = time.monotonic()
            numbers = "  ".join(f"{name} {value:.4g}" for name, value in headline.items())
            self.console.print(f"{self._stage} {step}/{self._total}  {numbers}", highlight=False, soft_wrap=True)

    def end(self) -> None:
        """Take the live part away."""
        if self._live is not None:
            self._live.stop()
        self._live = self._progress = None

    def _picture(self) -> Table:
        grid = Table.grid(padding=(0, 0))
        assert self._progress is not None
        grid.add_row(self._progress)
        if self._latest:
            numbers = "   ".join(f"[dim]{name}[/dim] {value:.4g}" for name, value in self._latest.items())
            grid.add_row("  " + numbers)
        return grid
