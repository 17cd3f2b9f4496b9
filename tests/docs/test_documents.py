"""The documents say what is so: parts are documented, links resolve, examples run, figures of the data card are right."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatchcase
from importlib import resources
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from fairlead.data import read, to_completions, to_conversations, to_pairs, to_prompts
from fairlead.parts import describe_problems, part_info, parts_in_slot, slots
from fairlead.recipes import Recipe, load_recipe
from fairlead.recipes.execute import execute
from fairlead.runs import read_json_lines
from tiny_models import save_tiny_model
from tiny_runs import CHATS, PAIRS, PROMPTS, run_stages, write_records

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
STARTER = Path(str(resources.files("fairlead"))) / "assets" / "starter"
TEXTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", STARTER / "README.md", *DOCS.glob("*.md")])
_FENCE = re.compile(r"(?:<!-- (\w+): (\S+) -->\n)?```(\w+)\n(.*?)```", re.DOTALL)


def blocks(page: str, label: str) -> dict[str, str]:
    """Name → text of the code blocks that stand behind a comment such as `<!-- file: my_method.py -->`."""
    found = _FENCE.findall((DOCS / page).read_text(encoding="utf-8"))
    return {name: text for kind, name, _, text in found if kind == label}


def script(name: str) -> ModuleType:
    """A script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def make() -> ModuleType:
    """docs/make.py as a module."""
    return script("make")


def test_figures_are_those_of_the_committed_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert script("figures").main(check=True) == 0, capsys.readouterr().out


@pytest.fixture(scope="module")
def reference(make: ModuleType) -> dict[str, str]:
    """The pages that docs/make.py writes."""
    pages: dict[str, str] = make.pages()
    return pages


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model whose context holds the starter prompts, a byte a token."""
    return str(save_tiny_model(tmp_path_factory.mktemp("model"), max_position_embeddings=2048))


# -- parts --------------------------------------------------------------------------------------------------------------


def test_every_part_says_what_it_does_where_it_comes_from_and_what_its_fields_mean(make: ModuleType) -> None:
    missing = []
    for slot, infos in make.every_part().items():
        for info in infos:
            if not info.summary.endswith("."):
                missing.append(f"{slot}.{info.name}: the first line of the docstring is no sentence")
            if not info.source:
                missing.append(f"{slot}.{info.name}: no `Source:` paragraph")
            missing += [
                f"{slot}.{info.name}.{field.name}: no description" for field in info.fields if not field.description
            ]
    assert not missing


def test_shared_keys_have_descriptions(make: ModuleType) -> None:
    assert not [
        f"{model.__name__}.{name}"
        for model, _ in make.KEYS.values()
        for name, field in model.model_fields.items()
        if not field.description
    ]


def test_the_reference_shows_every_part_with_its_fields_and_recipes(
    make: ModuleType, reference: dict[str, str], tmp_path: Path
) -> None:
    for slot, infos in make.every_part().items():
        for info in infos:
            assert f"## {info.name} " in reference[f"{slot}.md"]
            assert all(f"| `{field.name}` |" in reference[f"{slot}.md"] for field in info.fields)
    assert "Shipped recipes that use it: " in reference["credit.md"] and "`quickstart`" in reference["credit.md"]
    make.write(tmp_path / "reference")
    assert {path.name for path in (tmp_path / "reference").iterdir()} == set(reference)


def test_the_table_in_the_readme_lists_every_slot_and_part(make: ModuleType) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = {cells[1].strip(): cells[3] for line in text.splitlines() if len(cells := line.split("|")) == 5}
    for slot, infos in make.every_part().items():
        if slot != "experiment":
            assert {info.name for info in infos} == set(re.findall(r"`([^`]+)`", rows[slot])) - {"loss"}, slot


def test_design_shows_the_import_contract() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    contract = re.search(r"layers = \[(.*?)\]", text, flags=re.DOTALL)
    assert contract is not None
    floors = [re.findall(r"fairlead\.(\w+)", line) for line in contract.group(1).splitlines() if "fairlead" in line]
    shown = re.findall(r"^\| \d+ \| ([^|]+) \|", (DOCS / "design.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert [re.findall(r"`(\w+)`", line) for line in shown] == floors


# -- links --------------------------------------------------------------------------------------------------------------


def links(text: str) -> Iterator[str]:
    """Targets of links and pictures outside of code."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http://", "https://")):
            yield target


def anchors(text: str) -> set[str]:
    """Identifiers of the headings of a page, as mkdocs makes them."""
    from markdown.extensions.toc import slugify

    found = set()
    for line in re.sub(r"```.*?```", "", text, flags=re.DOTALL).splitlines():
        heading = re.match(r"#+ (.*?)(?: \{ #(\S+) \})?$", line)
        if heading:
            found.add(heading.group(2) or slugify(heading.group(1).replace("`", ""), "-"))
    return found


@pytest.mark.parametrize("page", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_resolve(page: Path, reference: dict[str, str]) -> None:
    for target in links(page.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if path.parent == DOCS / "reference":
            assert path.name in reference, target
            text = reference[path.name]
        elif path.suffix == ".png":  # a test of their own
            continue
        else:
            assert path.exists(), f"{page.name}: {target}"
            text = path.read_text(encoding="utf-8") if path.is_file() else ""
        assert not anchor or anchor in anchors(text), f"{page.name}: {target}"


def test_links_of_the_reference_resolve(reference: dict[str, str]) -> None:
    for text in reference.values():
        for target in links(text):
            name, _, anchor = target.partition("#")
            assert name in reference, target
            assert not anchor or anchor in anchors(reference[name]), target


def test_pictures_are_there() -> None:
    pictures = [
        page.parent / target
        for page in TEXTS
        for target in links(page.read_text(encoding="utf-8"))
        if target.endswith(".png")
    ]
    assert pictures and not [str(path) for path in pictures if not path.is_file()]


# -- examples -----------------------------------------------------------------------------------------------------------


def test_the_method_of_the_guide_runs(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in blocks("your-own-method.md", "file").items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    try:
        changes = ["online.steps=2", "online.batch_size=2", "online.rollout.sampling.maximum_tokens=6"]
        recipe = load_recipe("median.yaml", [f"online.model={tiny}", *changes, "runtime.threads=1"])
        execute(recipe, tmp_path / "run", quiet=True)
        rows = read_json_lines(tmp_path / "run" / "metrics.jsonl")
        assert len(rows) == 2 and all("channel/asks" in row and row["policy/gradient_norm"] >= 0 for row in rows)
        check: dict[str, Any] = {}
        exec((tmp_path / "test_my_method.py").read_text(encoding="utf-8"), check)
        check["test_three_responses_to_one_prompt"]()
        for name in ("median-baseline", "asks-back"):
            slot = "credit" if name == "median-baseline" else "reward"
            assert part_info(parts_in_slot(slot)[name]).source
    finally:
        sys.modules.pop("my_method", None)


@pytest.mark.parametrize(
    ("form", "convert"), [("prompts", to_prompts), ("conversations", to_conversations), ("pairs", to_pairs)]
)
def test_examples_of_forms_are_read(form: str, convert: Any, tmp_path: Path) -> None:
    text = blocks("data-forms.md", "form")[form]
    (tmp_path / "data.jsonl").write_text(text, encoding="utf-8")
    records, report = convert(read(str(tmp_path / "data.jsonl")))
    assert len(records) == len(text.splitlines()) and not report.dropped


def test_the_example_of_ranked_feedback_gives_what_the_page_says(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text(blocks("data-forms.md", "form")["ranked"], encoding="utf-8")
    table = read(str(tmp_path / "data.jsonl"))
    pairs, _ = to_pairs(table)
    assert [(pair.columns["chosen_id"], pair.columns["rejected_id"], pair.margin) for pair in pairs] == [
        ("a", "b", 1.0),
        ("a", "c", 0.5),
        ("c", "b", 1.0),
    ]
    assert [record.response for record in to_completions(table, "best")[0]] == ["An owl."]
    assert len(to_completions(table, "all")[0]) == 3


def test_yaml_of_the_pages_is_yaml_and_whole_recipes_are_valid(tmp_path: Path) -> None:
    whole = 0
    for page in TEXTS:
        for _, name, kind, text in _FENCE.findall(page.read_text(encoding="utf-8")):
            if kind != "yaml" or name == "median.yaml":
                continue
            if re.search(r"^(\w+):.*\n\1:", text, flags=re.MULTILINE):  # one key in several ways
                pieces = [line for line in text.splitlines() if line]
            else:
                pieces = [text]
            for piece in pieces:
                tree = yaml.safe_load(piece)
                if "stages" in tree:
                    (tmp_path / "recipe.yaml").write_text(piece, encoding="utf-8")
                    load_recipe(str(tmp_path / "recipe.yaml"))
                    whole += 1
    assert whole


def test_presets_are_the_recipes_of_the_page() -> None:
    """A shipped `ppo-as-trl` and the page's recipe differ in models, sizes and learning rates only."""
    ours = {"model", "critic", "prompts", "rewards", "steps", "batch_size", "minibatches", "rollout", "save_every"}
    pages = {
        recipe["name"]: Recipe.model_validate(recipe).stages
        for _, _, kind, text in _FENCE.findall((DOCS / "coming-from.md").read_text(encoding="utf-8"))
        if kind == "yaml" and "stages" in (recipe := yaml.safe_load(text))
    }
    assert set(pages) == {"as-trl", "as-verl", "as-openrlhf"}
    for library, stages in pages.items():
        for method, stage in stages.items():
            trees = [
                part.model_dump(mode="json", exclude=ours)
                for part in (stage, load_recipe(f"{method}-{library}").stages["online"])
            ]
            for tree in trees:
                for optimiser in ("optimiser", "critic_optimiser"):
                    (tree[optimiser] or {}).pop("learning_rate", None)
            assert trees[0] == trees[1], (method, library)


def test_the_error_of_the_page_is_the_error_that_is_shown() -> None:
    from pydantic import ValidationError

    online = {"model": "m", "prompts": "p", "rewards": {"a": "length"}, "credit": "gea", "stepz": 1}
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate({"stages": {"online": online}})
    page = (DOCS / "recipes.md").read_text(encoding="utf-8")
    problems = [str(problem) for problem in describe_problems(caught.value, Recipe)]
    assert problems and all(f"  {problem}\n" in page for problem in problems), problems


# -- metrics ------------------------------------------------------------------------------------------------------------


def test_every_metric_that_is_logged_stands_in_the_dictionary(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docs_test_reward.py").write_text("def score(prompt, response):\n    return len(response)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    chats, pairs, prompts = (
        write_records(tmp_path / f"{name}.jsonl", records)
        for name, records in (("chats", CHATS), ("pairs", PAIRS), ("prompts", PROMPTS))
    )
    short = {"steps": 1, "batch_size": 2}
    stages = {
        "sft": {"model": tiny, "data": chats, "validation": chats, **short},
        "reward": {"model": tiny, "data": pairs, "validation": pairs, **short},
        "preference": {"model": tiny, "data": pairs, "validation": pairs, **short},
        "online": {
            "model": tiny,
            "prompts": prompts,
            "rewards": {"r": {"part": "function", "function": "docs_test_reward:score", "workers": 1}},
            "monitors": {"m": "length"},
            "rollout": {"part": "sample", "n": 2, "sampling": {"maximum_tokens": 4}},
            "regulariser": {"part": "kl", "place": "loss", "estimator": "k3"},
            **short,
        },
    }
    run = run_stages(tmp_path / "run", stages)
    page = (DOCS / "runs.md").read_text(encoding="utf-8")
    cells = [cell for line in page.splitlines() if line.startswith("| `") for cell in [line.split("|")[1]]]
    known = [name.replace("NAME", "*").replace("KEY", "*") for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    logged = {name for row in read_json_lines(run.directory / "metrics.jsonl") for name in row}
    assert {"stage", "step", "time"} < logged
    unknown = {name for name in logged - {"stage", "step", "time"} if not any(fnmatchcase(name, k) for k in known)}
    assert not unknown


# -- the data card --------------------------------------------------------------------------------------------------------


def test_figures_of_the_data_card_are_those_of_the_data() -> None:
    card = (STARTER / "README.md").read_text(encoding="utf-8")
    splits = ("train", "judge", "validation")
    items = {split: read_json_lines(STARTER / f"{split}.jsonl") for split in splits}
    everything = [item for split in splits for item in items[split]]
    assert len({item["id"] for item in everything}) == len(everything)

    for kind in sorted({item["kind"] for item in everything}):
        counts = [sum(item["kind"] == kind for item in items[split]) for split in splits]
        row = [
            cell.strip()
            for cell in next(line for line in card.splitlines() if line.startswith(f"| `{kind}`")).split("|")
        ]
        assert row[3:-1] == [str(count) for count in [*counts, sum(counts)]]
    responses = {split: sum(len(item["responses"]) for item in items[split]) for split in splits}
    assert f"{len(everything):,} items with {sum(responses.values()):,} responses" in card
    assert (
        f"{responses['train']:,} in train, {responses['judge']:,} in judge, {responses['validation']:,} in validation"
        in card
    )

    rankings, tied = Counter(), Counter()
    for item in everything:
        for choice in item["choices"]:
            rankings[choice["annotator"]] += 1
            tied[choice["annotator"]] += any(len(group) > 1 for group in choice["ranking"])
    for annotator, count in rankings.items():
        assert re.search(rf"\| `{annotator}` \| [^|]+ \| {count:,} \| {tied[annotator]} \|", card), annotator
    numbers = Counter(len(item["choices"]) for item in everything)
    assert f"Two annotators ranked {numbers[2]} items, three ranked {numbers[3]}." in card
    same, different = agreement(everything)
    flat = " ".join(card.split())
    assert f"they agree on {same:,} and differ on {different:,}" in flat
    assert all(("check" in item) == (item["kind"] == "task") for item in everything)

    lengths = sorted(len(response["text"].split()) for item in everything for response in item["responses"])
    assert f"{lengths[len(lengths) // 2]} words at the median and {lengths[-1]} at most" in flat
    assert f"({sum(len(item['responses']) == 2 for item in everything)} items have 2)" in flat

    example = re.search(r"```json\n(.*?)```", card, flags=re.DOTALL)
    assert example is not None and json.loads(example.group(1)) in everything


def agreement(items: list[dict[str, Any]]) -> tuple[int, int]:
    """How many pairs of responses two annotators see the same way, and how many not."""
    same = different = 0
    for item in items:
        places = [{name: i for i, group in enumerate(c["ranking"]) for name in group} for c in item["choices"]]
        for one, other in combinations(places, 2):
            for a, b in combinations(sorted(one.keys() & other.keys()), 2):
                first = (one[a] > one[b]) - (one[a] < one[b])
                second = (other[a] > other[b]) - (other[a] < other[b])
                same += first == second
                different += first != second
    return same, different


def test_slots_without_parts_are_known_to_the_reference(reference: dict[str, str]) -> None:
    assert {f"{slot}.md" for slot in slots() if not slot.startswith("test")} <= set(reference)
