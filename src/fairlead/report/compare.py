"""Runs side by side: a table for the terminal, and a page with overlaid curves.

Knows: which runs repeat one recipe with another seed, and which of several values is the best.
Does not know: how a single run is reported.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from fairlead.recipes.load import RecipeError, load_recipe
from fairlead.report.charts import Line, line_chart, smooth
from fairlead.report.figures import LEARNING, SPECS, Figure, Group, frontier_chart, frontier_lines
from fairlead.report.numbers import format_number, format_seconds
from fairlead.report.page import LARGEST, asset, environment
from fairlead.report.read import Curve, RunData, StageData, read_run
from fairlead.report.summary import measures
from fairlead.runs import write_text

__all__ = ["Cell", "Comparison", "Row", "compare_runs", "write_comparison"]

_SEED_KEYS = ("seed", "name")
_MACHINE = ("device", "cpu_count", "runtime", "python", "torch", "transformers", "fairlead")


@dataclass(frozen=True)
class Cell:
    """One figure of one column: the mean over seeds, its standard deviation, and the value of each seed."""

    mean: float
    sd: float | None = None
    values: tuple[float, ...] = ()


@dataclass(frozen=True)
class Row:
    """One figure of every column; `best` are the columns with the best mean."""

    stage: str
    name: str
    cells: tuple[Cell | None, ...]
    best: tuple[int, ...] = ()
    percent: bool = False

    def text(self, column: int) -> str:
        """A cell in words."""
        cell = self.cells[column]
        if cell is None:
            return "—"
        if self.name == "seconds":
            return format_seconds(cell.mean)
        if self.percent:
            spread = f" ± {cell.sd * 100:.1f}" if cell.sd is not None else ""
            return f"{cell.mean * 100:.1f}{spread} %"
        spread = f" ± {format_number(cell.sd, 2)}" if cell.sd is not None else ""
        return f"{format_number(cell.mean)}{spread}"


@dataclass
class Comparison:
    """Runs in columns, figures in rows."""

    columns: list[str]
    rows: list[Row]
    groups: list[list[RunData]] = field(repr=False)

    def table(self) -> Table:
        """For a terminal: the best of each row in green, seeds of one recipe as mean ± standard deviation."""
        table = Table(title="Runs side by side", title_justify="left", header_style="bold")
        table.add_column("stage", style="dim")
        table.add_column("figure")
        for column in self.columns:
            table.add_column(Text(column), justify="right")
        previous = ""
        for row in self.rows:
            cells = [
                Text(("★ " if index in row.best else "") + row.text(index), style="green" if index in row.best else "")
                for index in range(len(self.columns))
            ]
            if previous and row.stage != previous:
                table.add_section()
            table.add_row(Text(row.stage if row.stage != previous else ""), Text(row.name), *cells)
            previous = row.stage
        return table

    def figures(self) -> dict[str, Any]:
        """Everything in the table as plain data, with the value of each seed, and where it was measured."""
        columns = []
        for index, (label, group) in enumerate(zip(self.columns, self.groups, strict=True)):
            figures: dict[str, dict[str, Any]] = {}
            for row in self.rows:
                cell = row.cells[index]
                if cell is not None:
                    entry = {"mean": cell.mean, "sd": cell.sd, "values": list(cell.values)}
                    figures.setdefault(row.stage, {})[row.name] = entry
            machine = {key: group[0].about.get(key) for key in _MACHINE if key in group[0].about}
            seeds = [run.recipe.get("seed") for run in group]
            columns.append({"name": label, "seeds": seeds, "machine": machine, "figures": figures})
        return {"runs": columns}

    def __rich__(self) -> Table:
        return self.table()


def compare_runs(directories: Sequence[Path]) -> Comparison:
    """The headline figures of several runs. Runs that differ in nothing but seed and name are one column.

    Raises: RunError when a directory does not exist, ValueError when none is given.
    """
    if not directories:
        raise ValueError("there is no run to compare")
    groups: dict[str, list[RunData]] = {}
    for directory in directories:
        run = read_run(Path(directory))
        groups.setdefault(_recipe_key(run), []).append(run)
    runs = list(groups.values())
    found = [[measures(run) for run in group] for group in runs]
    keys = dict.fromkeys((m.stage, m.name) for group in found for one in group for m in one)
    stages = list(dict.fromkeys(stage for stage, _ in keys))
    rows = []
    for stage, name in sorted(keys, key=lambda key: stages.index(key[0])):
        values = [[m for one in group for m in one if (m.stage, m.name) == (stage, name)] for group in found]
        sample = next(m for column in values for m in column)
        cells = tuple(_cell([m.value for m in column]) for column in values)
        rows.append(Row(stage, name, cells, _best(cells, sample.better), sample.percent))
    return Comparison(_labels(runs), rows, runs)


def write_comparison(directories: Sequence[Path], path: Path) -> Path:
    """Write an HTML page with the table and overlaid curves: one colour a recipe, its seeds thin, their mean bold."""
    comparison = compare_runs(directories)
    page = ""
    for points in (240, 120, 60, 30):
        page = (
            environment()
            .get_template("comparison.html")
            .render(
                comparison=comparison,
                figures=_figures(comparison, points),
                style=asset("style.css"),
                script=asset("script.js"),
                missing=[(run.name, run.missing) for group in comparison.groups for run in group if run.missing],
            )
        )
        if len(page.encode()) <= LARGEST:
            break
    write_text(path, page)
    return path


def _recipe_key(run: RunData) -> str:
    """Equal for runs of one recipe, also where a later version knows fields that an earlier one did not; a run whose recipe is
    lost stands alone."""
    if not run.recipe:
        return str(run.directory.resolve())
    try:
        whole = load_recipe(str(run.directory / "recipe.yaml")).model_dump(mode="json")
    except RecipeError:  # a plug-in that is not here, a field that is no more
        whole = run.recipe
    return json.dumps({k: v for k, v in whole.items() if k not in _SEED_KEYS}, sort_keys=True, default=str)


def _labels(groups: list[list[RunData]]) -> list[str]:
    """A name for each column; the directory is added where names repeat."""
    names = [group[0].name for group in groups]
    labels = []
    for group, name in zip(groups, names, strict=True):
        label = name if names.count(name) == 1 else f"{name} ({group[0].directory.name})"
        labels.append(label if len(group) == 1 else f"{label} ×{len(group)}")
    return labels


def _cell(values: list[float]) -> Cell | None:
    if not values:
        return None
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Cell(float(np.mean(values)), deviation, tuple(values))


def _best(cells: Sequence[Cell | None], better: int) -> tuple[int, ...]:
    known = [cell.mean for cell in cells if cell is not None]
    if better == 0 or len(known) < 2 or max(known) == min(known):
        return ()
    best = max(known) if better > 0 else min(known)
    return tuple(
        index for index, cell in enumerate(cells) if cell is not None and math.isclose(cell.mean, best, rel_tol=1e-9)
    )


# -- curves -----------------------------------------------------------------------------------------------------------


def _figures(comparison: Comparison, points: int) -> list[Group]:
    """Overlaid curves by stage."""
    groups = []
    stages = dict.fromkeys(stage.id for group in comparison.groups for run in group for stage in run.stages)
    for stage in stages:
        figures: list[Figure] = []
        for metric, title, unit, percent in _metrics(comparison, stage):
            lines = _overlay(comparison, stage, metric)
            if lines:
                drawing = line_chart(
                    lines, title=f"{title}, stage {stage}", y_label=unit, percent=percent, points=points
                )
                figures.append(Figure(title, drawing, ""))
        frontier = _frontier(comparison, stage, points)
        if frontier is not None:
            figures.append(frontier)
        if figures:
            groups.append(Group(stage, figures))
    return groups


def _stages(comparison: Comparison, stage: str) -> list[StageData]:
    """The stages of this name, of every run."""
    return [item for group in comparison.groups for run in group for item in run.stages if item.id == stage]


def _metrics(comparison: Comparison, stage: str) -> list[tuple[str, str, str, bool]]:
    """Metric, title, unit, whether it is a share."""
    here = _stages(comparison, stage)
    logged = dict.fromkeys(name for item in here for name in item.names())
    found = [("score", "Score", "mean score", False)] if "score" in logged else []
    found += [
        (name, f"Judge: {name.removeprefix('monitor/')}", "mean verdict", False)
        for name in logged
        if name.startswith("monitor/")
    ]
    online = any(item.part == "online" for item in here)
    for spec in SPECS:
        if not spec.headline or (online and spec.title == "Loss"):
            continue
        for name, label in spec.metrics[:2] if spec.group == LEARNING else spec.metrics[:1]:
            if name in logged:
                title = spec.title if len(spec.metrics) == 1 else f"{spec.title}, {label}"
                found.append((name, title, spec.unit, spec.percent))
    return found


def _overlay(comparison: Comparison, stage: str, metric: str) -> list[Line]:
    lines: list[Line] = []
    for column, (label, group) in enumerate(zip(comparison.columns, comparison.groups, strict=True)):
        curves = [item.curve(metric) for run in group for item in run.stages if item.id == stage]
        curves = [curve for curve in curves if curve]
        colour = 1 + column % 6
        dashed = column >= 6
        if len(curves) > 1:
            lines += [
                Line(label, c.steps, smooth(c.values), colour, dashed, smoothed=False, faint=True) for c in curves
            ]
        if curves:
            mean = _mean_curve(curves)
            lines.append(Line(label, mean.steps, mean.values, colour, dashed))
    return lines


def _mean_curve(curves: list[Curve]) -> Curve:
    """The mean over seeds at the steps that every seed has reached."""
    if len(curves) == 1:
        return curves[0]
    steps = sorted(set.intersection(*(set(curve.steps.tolist()) for curve in curves)))
    if not steps:
        return curves[0]
    values = [[dict(zip(c.steps.tolist(), c.values.tolist(), strict=True))[s] for s in steps] for c in curves]
    return Curve(np.array(steps), np.mean(values, axis=0))


def _frontier(comparison: Comparison, stage: str, points: int) -> Figure | None:
    """Judges over KL, or the trained reward where there is no judge."""
    lines = []
    judged = any(item.names("monitor/") for item in _stages(comparison, stage))
    for column, (label, group) in enumerate(zip(comparison.columns, comparison.groups, strict=True)):
        for index, run in enumerate(group):
            for item in run.stages:
                for line in frontier_lines(item) if item.id == stage else []:
                    if (line.name == "trained reward") == judged:
                        continue
                    lines.append(
                        Line(label, line.x, line.y, 1 + column % 6, column >= 6, faint=index > 0, labels=line.labels)
                    )
    if not lines:
        return None
    title = "Judge over KL" if judged else "Trained reward over KL"
    drawing = frontier_chart(lines, f"{title}, stage {stage}", points)
    return Figure(title, drawing, "Higher at the same distance is better: more was gained for the same change.")
