"""The command line.

Knows: commands, their arguments, exit codes (0 done, 1 something is broken, 2 a mistake in what was asked, 130 interrupted).
Does not know: how anything is done. Rooms are imported inside the commands that need them, so that `--help` is quick.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import fairlead

if TYPE_CHECKING:
    from fairlead.parts import Part

__all__ = ["app"]

RUNS = Path("runs")

app = typer.Typer(
    help="Align language models with human feedback, from one laptop CPU to a Ray cluster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"fairlead {fairlead.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and stop.")
    ] = False,
) -> None:
    pass


# ---------------------------------------------------------------------------------------------------------------------
# Running recipes
# ---------------------------------------------------------------------------------------------------------------------


@app.command()
def run(
    recipe: Annotated[
        str | None, typer.Argument(help="A shipped recipe (see `fairlead recipes`) or a YAML file.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes, such as online.credit.lam=0.9")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; without it a new one below runs/.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the run.")] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Several seeds, such as 0,1,2: one run each, compared at the end.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Continue the run in this directory; alone, without a recipe.")
    ] = None,
    reuse: Annotated[
        Path | None,
        typer.Option(
            help="Take stages that the run in this directory has finished, and that are the same, from there."
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show only the end.")] = False,
) -> None:
    """Run a recipe, or continue a run."""
    if resume is not None:
        if any(option is not None for option in (recipe, out, seed, seeds, reuse)):
            raise _mistake("--resume stands alone: the run directory holds its recipe, its seed and its overrides")
        _run(resume, None, [], quiet)
        return
    if recipe is None:
        raise _mistake("which recipe? See `fairlead recipes`, or continue a run with --resume DIR")
    changes = list(overrides or [])
    if seeds is None:
        _run(out, recipe, changes + ([] if seed is None else [f"seed={seed}"]), quiet, reuse=reuse)
        return
    if seed is not None:
        raise _mistake("give --seed or --seeds, not both")
    if not re.fullmatch(r"\d+(,\d+)*", seeds):
        raise _mistake(f"--seeds is a list of whole numbers such as 0,1,2 (got {seeds!r})")
    directories = []
    for number in dict.fromkeys(seeds.split(",")):
        place, other = (None if path is None else path.with_name(f"{path.name}-s{number}") for path in (out, reuse))
        directories.append(_run(place, recipe, [*changes, f"seed={number}"], quiet, f"-s{number}", other))
    if len(directories) > 1:
        compare(directories)


def _run(
    out: Path | None,
    recipe: str | None,
    changes: list[str],
    quiet: bool,
    suffix: str = "",
    reuse: Path | None = None,
) -> Path:
    """Run `recipe` with `changes` in `out` (or a new directory), or continue what is in `out` when there is no recipe."""
    directory = out
    with _errors():
        from fairlead.recipes.execute import execute, new_directory
        from fairlead.recipes.execute import resume as continue_run
        from fairlead.recipes.load import load_recipe
        from fairlead.report import write_report

        _hush()
        try:
            if recipe is None:
                assert directory is not None
                continue_run(directory, quiet=quiet, report=write_report)
            else:
                resolved = load_recipe(recipe, changes)
                resolved.name += suffix
                directory = directory or new_directory(RUNS, resolved.name)
                execute(resolved, directory, quiet=quiet, report=write_report, reuse=reuse)
        except KeyboardInterrupt:
            if directory is not None:
                _console(stderr=True).print(f"stopped; continue with: fairlead run --resume {directory}", markup=False)
            raise typer.Exit(130) from None
        _headline(directory)
    return directory


def _headline(directory: Path) -> None:
    from fairlead.report import headline

    console = _console()
    figures = headline(directory)
    if figures:
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for label, figure in figures.items():
            table.add_row(escape(label), escape(f"{figure:g}" if isinstance(figure, float) else str(figure)))
        console.print(table)
    console.print(f"report: {directory / 'report.html'}", markup=False, highlight=False)


@app.command()
def recipes() -> None:
    """List the shipped recipes."""
    with _errors():
        from fairlead.recipes.load import read_recipe_file, shipped_recipes

        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for name in shipped_recipes():
            table.add_row(f"[bold]{name}[/bold]", escape(str(read_recipe_file(name).get("about", ""))))
        _console().print(table)


@app.command()
def show(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe or a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes, such as online.credit.lam=0.9")
    ] = None,
) -> None:
    """Show a recipe with every default written out."""
    with _errors():
        from fairlead.recipes.load import dump_recipe, load_recipe

        typer.echo(dump_recipe(load_recipe(recipe, overrides)), nl=False)


# ---------------------------------------------------------------------------------------------------------------------
# Methods
# ---------------------------------------------------------------------------------------------------------------------


@app.command()
def methods(
    name: Annotated[
        str | None, typer.Argument(help="A part, such as gae or credit.gae; without it all are listed.")
    ] = None,
    slot: Annotated[str | None, typer.Option(help="Only this slot.")] = None,
    plugin: Annotated[list[str] | None, typer.Option(help="A module with parts of your own.")] = None,
) -> None:
    """List every method by its slot, or show all about one."""
    with _errors():
        from fairlead import parts
        from fairlead.recipes.load import plug_in  # importing the recipes registers every part

        for module in plugin or []:
            plug_in(module, "--plugin")
        if slot is not None and slot not in parts.slots():
            raise _mistake(f"no slot called {slot!r}; {parts.nearest(slot, parts.slots())}")
        if name is None:
            _list_methods([slot] if slot else list(parts.slots()))
            return
        try:
            found = parts.get_part(name, slot)
        except LookupError as error:
            raise _mistake(str(error.args[0])) from None
        _describe_method(found)


def _list_methods(slots: list[str]) -> None:
    from fairlead.parts import part_info, parts_in_slot

    console = _console()
    for slot in slots:
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
        table.add_column(no_wrap=True, style="bold")
        table.add_column(ratio=1)
        table.add_column(style="dim")
        for name, part in sorted(parts_in_slot(slot).items()):
            info = part_info(part)
            table.add_row(name, escape(info.summary), escape(_paper(info.source)))
        if table.row_count:
            console.print(f"[cyan]{slot}[/cyan]")
            console.print(table)


def _paper(source: str) -> str:
    """The first work that a `Source:` paragraph names."""
    found = re.match(r"[^;]*?\((?:[^()]*)\)", source)
    return found.group(0) if found else source.partition(";")[0].rstrip(".")


def _describe_method(part: type[Part]) -> None:
    from fairlead.parts import part_info
    from fairlead.recipes.load import recipes_by_part

    info = part_info(part)
    console = _console()
    console.print(f"[bold]{info.name}[/bold]  [cyan]{info.slot}[/cyan]  [dim]{info.module}.{part.__name__}[/dim]\n")
    console.print(info.documentation, markup=False, highlight=False)
    if info.fields:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for heading in ("field", "type", "default", "meaning"):
            table.add_column(heading)
        for field in info.fields:
            table.add_row(
                f"[bold]{field.name}[/bold]", *(escape(t) for t in (field.type, field.default, field.description))
            )
        console.print()
        console.print(table)
    users = recipes_by_part().get(f"{info.slot}.{info.name}", [])
    console.print()
    console.print("shipped recipes: " + (", ".join(users) or "none uses it"), markup=False, highlight=False)


# ---------------------------------------------------------------------------------------------------------------------
# Looking at runs
# ---------------------------------------------------------------------------------------------------------------------


@app.command()
def report(directory: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]) -> None:
    """Write the report of a run anew and show its headline figures."""
    with _errors():
        from fairlead.report import write_report

        _check_run(directory)
        write_report(directory)
        _headline(directory)


@app.command()
def compare(
    directories: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")],
    html: Annotated[Path | None, typer.Option(help="Write the comparison, with plots, into this file.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures, with the value of every seed, into this file.")
    ] = None,
) -> None:
    """Put runs side by side; runs that differ only in their seed are averaged."""
    with _errors():
        from fairlead.report import compare_runs, write_comparison
        from fairlead.runs import write_text

        for directory in directories:
            _check_run(directory)
        comparison = compare_runs(directories)
        _console().print(comparison)
        if json_file is not None:
            write_text(json_file, json.dumps(comparison.figures(), indent=1, ensure_ascii=False) + "\n")
            _console().print(f"figures: {json_file}", markup=False, highlight=False)
        if html is not None:
            write_comparison(directories, html)
            _console().print(f"comparison: {html}", markup=False, highlight=False)


def _check_run(directory: Path) -> None:
    if not (directory / "recipe.yaml").is_file():
        raise _mistake(f"{directory} holds no run (recipe.yaml is missing)")


@app.command()
def chat(
    checkpoint: Annotated[
        str, typer.Argument(help="A run directory (its last model), fairlead:base, or a model's path.")
    ],
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    temperature: Annotated[float, typer.Option(min=0, help="0 always takes the likeliest token.")] = 0.7,
    maximum_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 128,
    seed: Annotated[int, typer.Option(min=0, help="The same seed and the same words give the same answers.")] = 0,
) -> None:
    """Talk to a model; reads one message a line when the input is not a terminal."""
    with _errors():
        from fairlead.chat import converse

        _hush()
        converse(checkpoint, system=system, temperature=temperature, maximum_tokens=maximum_tokens, seed=seed)


# ---------------------------------------------------------------------------------------------------------------------
# The machine
# ---------------------------------------------------------------------------------------------------------------------


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check this machine and installation, and say what to do about what is wrong."""
    with _errors():
        from fairlead.doctor import examine

        findings = examine(RUNS)
    broken = any(finding.state == "broken" for finding in findings)
    if as_json:
        typer.echo(json.dumps({"healthy": not broken, "findings": [vars(finding) for finding in findings]}, indent=1))
    else:
        colours = {"ok": "green", "note": "yellow", "broken": "red"}
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for finding in findings:
            remedy = f"\n[dim]→ {escape(finding.remedy)}[/dim]" if finding.remedy else ""
            colour = colours[finding.state]
            table.add_row(f"[{colour}]{finding.state}[/{colour}]", finding.subject, escape(finding.message) + remedy)
        _console().print(table)
    if broken:
        raise typer.Exit(1)


@app.command()
def bench(
    model: Annotated[
        str, typer.Argument(help="A model directory, or random weights of a size: 1m, 4m, 30m, 100m.")
    ] = "4m",
    rows: Annotated[
        str | None, typer.Option(help="Rows of the table, such as grpo-full,dpo; without it all of them.")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="Precisions to measure, such as float32,bfloat16; without it those that the hardware has."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps to measure in each row, behind two that warm up.")] = 3,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; without it torch's choice.")] = None,
    data: Annotated[str, typer.Option(help="Pairs for the rows without sampling.")] = "fairlead:starter/train",
    out: Annotated[Path | None, typer.Option(help="Write the figures into this JSON file.")] = None,
) -> None:
    """Measure how fast steps are on this machine, and how far from what it can do."""
    with _errors():
        from fairlead.bench import ROWS
        from fairlead.bench import bench as run_bench

        _hush()
        table = run_bench(
            model,
            rows.split(",") if rows else list(ROWS),
            precision.split(",") if precision else None,
            steps,
            threads,
            data,
            out,
            tell=lambda message: _console(stderr=True).print(f"[dim]{message} …[/dim]"),
        )
    _console().print(table)


# ---------------------------------------------------------------------------------------------------------------------
# Evidence
# ---------------------------------------------------------------------------------------------------------------------


@app.command()
def evidence(
    method: Annotated[str, typer.Argument(help="The method, such as ppo; or `table` for the ledger of all of them.")],
    seeds: Annotated[str, typer.Option(help="Seeds of the repetitions.")] = "0,1,2",
    out: Annotated[Path, typer.Option(help="Folder of the ledger.")] = Path("evidence"),
) -> None:
    """Run a method's experiment over seeds and write its page of the ledger, or show the ledger."""
    if not re.fullmatch(r"\d+(,\d+)*", seeds):
        raise _mistake(f"--seeds is a list of whole numbers such as 0,1,2 (got {seeds!r})")
    with _errors():
        if method == "table":
            typer.echo(_evidence().render_table(out))
        else:
            typer.echo(_evidence().run_evidence(method, [int(number) for number in seeds.split(",")], out))


def _evidence() -> Any:
    if importlib.util.find_spec("fairlead.evidence") is None:
        raise _mistake("this installation has no experiments (fairlead.evidence)")
    return importlib.import_module("fairlead.evidence")


# ---------------------------------------------------------------------------------------------------------------------
# Errors and output
# ---------------------------------------------------------------------------------------------------------------------


@contextmanager
def _errors() -> Iterator[None]:
    """What a person can put right is one clean message and exit 2; a stop is exit 130; the rest keeps its traceback."""
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except Exception as error:
        if isinstance(error, typer.Exit) or not type(error).__module__.startswith("fairlead."):
            raise
        if type(error).__name__ == "Interrupted":
            _console(stderr=True).print(str(error), markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(130) from None
        raise _mistake(str(error)) from None


def _mistake(message: str) -> typer.Exit:
    """Say what is wrong on standard error; to be raised."""
    _console(stderr=True).print(f"[red]error:[/red] {escape(message)}", highlight=False, soft_wrap=True)
    return typer.Exit(2)


def _hush() -> None:
    """Keep the progress bars of other libraries out of the output."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def _console(stderr: bool = False) -> Console:
    """A console as wide as the terminal; for files and pipes one line a thing, however long."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else 1000)
