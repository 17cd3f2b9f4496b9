"""Write the reference pages that follow from the code: `python docs/make.py`, before `mkdocs build`.

One page a slot with all its parts, one page with the keys that stages share, and a page for each module that a part needs to
know. They go to docs/reference/, which git ignores.
"""

from __future__ import annotations

import inspect
import shutil
import sys
from pathlib import Path

from pydantic import BaseModel
from pygments.formatters import HtmlFormatter

from fairlead.data import DataSource
from fairlead.detectors import Rollback
from fairlead.evidence.ledger import experiments
from fairlead.generation import Sampling, Tree, VllmSpec
from fairlead.models import LoraSpec, ModelSpec, PessimisticHead
from fairlead.objectives import Mismatch
from fairlead.parts import FieldInfo, Part, PartInfo, fields_of, part_info, parts_in_slot, slots
from fairlead.recipes import Recipe
from fairlead.recipes.load import recipes_by_part
from fairlead.recipes.schema import DataSpec
from fairlead.regularisers import AdaptiveTarget, EntropyGate, RewardVelocity, TrainingPhase
from fairlead.rollouts import Sampler
from fairlead.runtime import OptimiserSpec, RuntimeSpec
from fairlead.stages.critics import Trunk

REFERENCE = Path(__file__).parent / "reference"

KEYS: dict[str, tuple[type[BaseModel], str]] = {
    "Recipe": (Recipe, "The recipe itself."),
    "`data`": (DataSpec, "The recipe's key `data`."),
    "`runtime`": (RuntimeSpec, "The recipe's key `runtime`."),
    "`vllm` of `runtime`": (VllmSpec, "How vLLM is set up, where `runtime.sampler` is `vllm`."),
    "A model": (ModelSpec, "Wherever a stage or part asks for a model. A bare string is `path`."),
    "`lora` of a model": (LoraSpec, "Low-rank adapters."),
    "`head` of a model": (PessimisticHead, "A critic of several heads."),
    "A source of data": (DataSource, "Wherever a stage asks for data or prompts. A bare string is `path`."),
    "`critic` on the policy's trunk": (Trunk, "In place of a model, in the key `critic` of the stage online."),
    "An optimiser": (OptimiserSpec, "The keys `optimiser` and `critic_optimiser` of stages."),
    "`sampling` of a rollout": (Sampling, "How tokens are drawn."),
    "`tree` of the rollout lookahead-tree": (Tree, "Where it branches and what is cut off."),
    "One of the `samplers` of the rollout several-samplers": (Sampler, "Who answers a prompt, how often and how."),
    "`mismatch` of an objective": (Mismatch, "Importance weights against a sampler that differs from the trainer."),
    "`adaptive` of the regulariser kl": (AdaptiveTarget, "A coefficient that moves towards a target."),
    "`rollback` of the stage online": (Rollback, "Going back to the last good checkpoint when a detector asks."),
    "`gate` of the regulariser threshold-kl": (EntropyGate, "How low entropy makes the penalty stronger."),
    "`velocity` of the regulariser threshold-kl": (RewardVelocity, "How the reward's rise moves the threshold."),
    "`phase` of the regulariser threshold-kl": (TrainingPhase, "Which phase of training scales the threshold."),
}

MODULES: dict[str, tuple[str, tuple[str, ...]]] = {
    "batch": ("Batches", ("fairlead.batch",)),
    "functional": (
        "Functions",
        (
            "fairlead.functional.advantages",
            "fairlead.functional.policy_losses",
            "fairlead.functional.preference_losses",
            "fairlead.functional.preference_games",
            "fairlead.functional.best_of_n",
            "fairlead.functional.kl",
            "fairlead.functional.divergence",
            "fairlead.functional.logprobs",
            "fairlead.functional.confidence",
            "fairlead.functional.constraints",
            "fairlead.functional.filtration",
            "fairlead.functional.macro",
            "fairlead.functional.control",
            "fairlead.functional.dynamics",
            "fairlead.functional.masks",
            "fairlead.functional.merging",
            "fairlead.functional.monitoring",
            "fairlead.functional.shaping",
            "fairlead.functional.statistics",
            "fairlead.functional.random",
            "fairlead.functional.turns",
        ),
    ),
    "model-groups": ("Model groups", ("fairlead.runtime.group", "fairlead.runtime.forward")),
    "data": (
        "Data",
        (
            "fairlead.data.source",
            "fairlead.data.forms",
            "fairlead.data.records",
            "fairlead.data.chat",
            "fairlead.data.collate",
            "fairlead.data.comparisons",
            "fairlead.data.sampling",
        ),
    ),
    "generation": (
        "Generation",
        (
            "fairlead.generation.engine",
            "fairlead.generation.mixing",
            "fairlead.generation.sampling",
            "fairlead.generation.vllm",
        ),
    ),
    "checks": (
        "Checks of texts, and the sandbox",
        (
            "fairlead.checks.texts",
            "fairlead.checks.maths",
            "fairlead.checks.quantities",
            "fairlead.checks.calculator",
            "fairlead.checks.judging",
            "fairlead.checks.programs",
            "fairlead.checks.sandbox",
        ),
    ),
    "parts": ("Parts and slots", ("fairlead.parts",)),
}


def every_part() -> dict[str, list[PartInfo]]:
    """Slot → its parts, those of plug-ins and tests left out."""
    experiments()
    return {
        slot: [
            part_info(cls) for _, cls in sorted(parts_in_slot(slot).items()) if cls.__module__.startswith("fairlead.")
        ]
        for slot in slots()
    }


def pages() -> dict[str, str]:
    """Name of the file → its text."""
    parts = every_part()
    users = recipes_by_part()
    found = {f"{slot}.md": _slot_page(slot, infos, users) for slot, infos in parts.items()}
    found["keys.md"] = _keys_page()
    for name, (title, modules) in MODULES.items():
        found[f"{name}.md"] = f"# {title}\n\n" + "\n".join(f"## `{module}`\n\n::: {module}\n" for module in modules)
    found["index.md"] = _index_page(parts)
    found["code.css"] = _style()
    return found


def write(folder: Path = REFERENCE) -> None:
    """Write every page into an empty `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")


# ---------------------------------------------------------------------------------------------------------------------
# Pages
# ---------------------------------------------------------------------------------------------------------------------


def _index_page(parts: dict[str, list[PartInfo]]) -> str:
    lines = ["# Reference", "", "These pages are written from the code.", "", "## Parts by slot", ""]
    for slot, infos in parts.items():
        names = ", ".join(f"[{info.name}]({slot}.md#{_anchor(info.name)})" for info in infos) or "none yet"
        lines.append(f"* [{slot}]({slot}.md): {names}")
    lines += ["", "## Keys", "", "* [Keys that stages share](keys.md)", "", "## Modules", ""]
    lines += [f"* [{title}]({name}.md)" for name, (title, _) in MODULES.items()]
    return "\n".join(lines) + "\n"


def _slot_page(slot: str, infos: list[PartInfo], users: dict[str, list[str]]) -> str:
    opener = slots()[slot]
    lines = [f"# {slot}", "", _summary(opener), ""]
    if not infos:
        lines += ["No part of this slot comes with Fairlead. It is open to plug-ins.", ""]
    for info in infos:
        lines += [f"## {info.name} {{ #{_anchor(info.name)} }}", "", info.documentation, ""]
        lines += _fields_table(info.fields)
        recipes = ", ".join(f"`{name}`" for name in users.get(f"{slot}.{info.name}", ())) or "none"
        lines += [f"Class: `{info.module}.{_class_name(slot, info.name)}`. Shipped recipes that use it: {recipes}.", ""]
    return "\n".join(lines)


def _keys_page() -> str:
    lines = ["# Keys that stages share", "", "The keys of the stages themselves: [stage](stage.md).", ""]
    for title, (model, text) in KEYS.items():
        lines += [f"## {title}", "", text, ""]
        lines += _fields_table(fields_of(model))
    return "\n".join(lines)


def _fields_table(fields: tuple[FieldInfo, ...]) -> list[str]:
    if not fields:
        return ["No fields.", ""]
    lines = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for field in fields:
        cells = f"`{field.name}`", _code(field.type), _code(field.default), _cell(field.description)
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _code(text: str) -> str:
    return f"`{' '.join(text.split())}`" if text else "empty"  # a bar inside of code does not end a cell


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _summary(cls: type[Part]) -> str:
    return inspect.cleandoc(cls.__doc__ or "")


def _class_name(slot: str, name: str) -> str:
    return parts_in_slot(slot)[name].__name__


def _anchor(name: str) -> str:
    return name.replace("+", "p")


def _style() -> str:
    light = HtmlFormatter(style="default").get_style_defs("[data-bs-theme=light] .highlight")
    dark = HtmlFormatter(style="github-dark").get_style_defs("[data-bs-theme=dark] .highlight")
    tables = "td code { white-space: normal; overflow-wrap: anywhere; }\n"
    return f"{light}\n{dark}\n{tables}"


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else REFERENCE)
