"""The report of a run: one HTML file that needs nothing else.

Knows: what goes on the page and in which order.
Does not know: which numbers matter (summary, findings) or how charts look (figures, charts, style).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from fairlead.evaluation import plain_text
from fairlead.report.domains import domains
from fairlead.report.figures import glance, stage_figures
from fairlead.report.findings import findings, trained_channels
from fairlead.report.numbers import format_number, format_percent, format_seconds
from fairlead.report.read import RunData, StageData, number, read_run
from fairlead.report.summary import cards
from fairlead.runs import write_text

__all__ = ["asset", "environment", "write_report"]

LARGEST = 2_900_000  # bytes; a page that opens at once, also from an e-mail
_LONGEST_TEXT, _LONGEST_RECIPE = 4_000, 100_000
_SAMPLE_STEPS, _SAMPLES_PER_STEP = 6, 3


def write_report(run_directory: Path) -> Path:
    """Write RUN/report.html from whatever the run directory holds, and return its path.

    Raises RunError when there is no such directory or the disk is full.
    """
    run = read_run(run_directory)
    page = ""
    # Many stages or long texts: fewer points in each curve and shorter texts, rather than a page nobody can open.
    for points, longest in ((240, _LONGEST_TEXT), (120, 2_000), (60, 800), (30, 300), (12, 100)):
        page = render(run, points, longest)
        if len(page.encode()) <= LARGEST:
            break
    path = run_directory / "report.html"
    write_text(path, page)
    return path


def render(run: RunData, points: int = 240, longest: int = _LONGEST_TEXT) -> str:
    """The page as text."""
    trained = trained_channels(run)
    groups = [stage_figures(stage, trained, points) for stage in run.stages]
    stages = [
        {
            "anchor": f"stage-{index}",
            "stage": stage,
            "groups": groups[index],
            "evaluation": _evaluation(stage, longest),
            "samples": _samples(stage, longest),
            "facts": _facts(stage),
        }
        for index, stage in enumerate(run.stages)
    ]
    return (
        environment()
        .get_template("report.html")
        .render(
            run=run,
            cards=cards(run),
            findings=findings(run),
            glance=glance(groups),
            domains=domains(run),
            stages=stages,
            about=str(run.recipe.get("about") or ""),
            machine=_machine(run),
            recipe=run.recipe_text[:_LONGEST_RECIPE],
            style=asset("style.css"),
            script=asset("script.js"),
        )
    )


@cache
def environment() -> Environment:
    """Templates beside this file; everything is escaped unless it is Markup that we made."""
    from jinja2 import PackageLoader

    made = Environment(
        loader=PackageLoader("fairlead.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "code": _code,
        "figure": format_number,
        "percent": _percent,
        "seconds": format_seconds,
        "number": number,
        "text": plain_text,
    }
    return made


def asset(name: str) -> Markup:
    """A file beside this one, as it stands."""
    return Markup((Path(__file__).parent / name).read_text(encoding="utf-8"))


def _percent(value: Any, digits: int = 0) -> str:
    return format_percent(number(value), digits)


def _code(text: str) -> Markup:
    """Text between backticks as code."""
    pieces = text.split("`")
    return Markup("").join(Markup("<code>{}</code>").format(p) if index % 2 else p for index, p in enumerate(pieces))


def _when(value: object) -> str:
    """2026-01-05T10:14:31+0000 as 2026-01-05 10:14."""
    text = str(value)
    return f"{text[:10]} {text[11:16]}" if len(text) >= 16 and text[10] == "T" else text


def _machine(run: RunData) -> list[tuple[str, str]]:
    """Versions, machine, seed, times: what somebody needs to run it again."""
    names = {
        "seed": "seed", "started": "started", "finished": "finished", "device": "device", "cpu_count": "CPU cores",
        "fairlead": "Fairlead", "python": "Python", "torch": "PyTorch", "transformers": "Transformers",
    }  # fmt: skip
    found = [(label, _when(run.about[key])) for key, label in names.items() if run.about.get(key) is not None]
    runtime = run.about.get("runtime")
    if isinstance(runtime, dict):
        found.append(
            ("runtime", ", ".join(f"{key} {value}" for key, value in runtime.items() if value not in (None, [], {})))
        )
    return found


def _facts(stage: StageData) -> list[tuple[str, str]]:
    """The choices of a stage that say the most: parts by slot, and how much was done."""
    facts = []
    result = stage.result or {}
    steps = number(result.get("steps")) or (float(len(stage.rows)) if stage.rows else None)
    if steps:
        facts.append(("steps", format_number(steps)))
    for key, value in stage.settings.items():
        if key == "model" and isinstance(value, dict | str):
            facts.append(("model", str(value.get("path") if isinstance(value, dict) else value)))
        elif isinstance(value, dict) and "part" in value:
            facts.append((key.replace("_", " "), str(value["part"])))
        elif key in ("rewards", "judges", "monitors", "models") and isinstance(value, dict) and value:
            facts.append((key, ", ".join(map(str, value))))
        elif key in ("batch_size", "epochs", "minibatches") and value is not None:
            facts.append((key.replace("_", " "), str(value)))
    if stage.seconds is not None:
        facts.append(("time", format_seconds(stage.seconds)))
    return facts


# -- evaluation -------------------------------------------------------------------------------------------------------


def _evaluation(stage: StageData, longest: int) -> dict[str, Any] | None:
    """Tables and texts of a stage that compared models."""
    result, channels, models = stage.result or {}, stage.channels, stage.models
    if not channels:
        return None
    names = list(dict.fromkeys(name for model in models for name in channels.get(model) or {}))
    kinds = result.get("kinds")
    return {
        "models": models,
        "names": names,
        "judge": result.get("judge"),
        "prompts": result.get("prompts"),
        "channels": channels,
        "versus": result.get("versus") if isinstance(result.get("versus"), dict) else None,
        "style": _style(models, result),
        "kinds": kinds if isinstance(kinds, dict) else {},
        "texts": _texts(result, models, longest),
    }


_STYLE = (
    ("mean_words", "words per response", "figure"),
    ("vocabulary", "different words", "figure"),
    ("distinct_1", "distinct words", "percent"),
    ("distinct_2", "distinct two-word phrases", "percent"),
    ("self_repetition", "repeated three-word phrases", "percent"),
    ("ends_properly", "ending in a full sentence", "percent"),
    ("empty", "empty responses", "percent"),
)
_DISTANCES = (
    ("kl_k1", "KL from the first model (nats)", "figure"),
    ("truncated", "cut by the length limit", "percent"),
    ("tokens", "tokens per response", "figure"),
)


def _style(models: list[str], result: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Rows of the style table: label, one cell a model."""
    rows = []
    for source, entries in (("style", _STYLE), ("distances", _DISTANCES)):
        table = result.get(source)
        if not isinstance(table, dict):
            continue
        for key, label, form in entries:
            values = [number((table.get(model) or {}).get(key)) for model in models]
            if any(value is not None for value in values):
                rows.append((label, [_percent(v, 1) if form == "percent" else format_number(v) for v in values]))
    return rows


def _texts(result: dict[str, Any], models: list[str], longest: int) -> list[dict[str, Any]]:
    shown = []
    for example in result.get("texts") or []:
        if not isinstance(example, dict) or not isinstance(example.get("responses"), dict):
            continue
        scores = example.get("scores") or {}
        shown.append(
            {
                "why": str(example.get("why") or "random"),
                "kind": example.get("kind"),
                "gain": number(example.get("gain")),
                "prompt": _cut(plain_text(example.get("prompt")), longest),
                "responses": [
                    {
                        "model": str(model),
                        "last": str(model) == models[-1],
                        "text": _cut(plain_text(text), longest),
                        "scores": [(str(c), number(v)) for c, v in (scores.get(model) or {}).items()],
                    }
                    for model, text in example["responses"].items()
                ],
            }
        )
    return shown


# -- samples ----------------------------------------------------------------------------------------------------------


def _samples(stage: StageData, longest: int) -> list[dict[str, Any]]:
    """A few texts from steps spread over the stage."""
    steps = list(dict.fromkeys(row.get("step") for row in stage.samples))
    if len(steps) > _SAMPLE_STEPS:
        last = len(steps) - 1
        steps = [steps[round(index * last / (_SAMPLE_STEPS - 1))] for index in range(_SAMPLE_STEPS)]
    shown: list[dict[str, Any]] = []
    for step in steps:
        rows = [row for row in stage.samples if row.get("step") == step]
        models = list(dict.fromkeys(row.get("model") for row in rows))
        chosen = [row for model in models for row in [r for r in rows if r.get("model") == model][:_SAMPLES_PER_STEP]]
        shown.append(
            {
                "step": step,
                "rows": [
                    {
                        "model": row.get("model"),
                        "prompt": _cut(plain_text(row.get("prompt")), longest),
                        "response": _cut(plain_text(row.get("response")), longest),
                        "score": number(row.get("score")),
                    }
                    for row in chosen
                ],
            }
        )
    return shown


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]} … (cut, {len(text):,} characters)"
