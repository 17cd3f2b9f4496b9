"""Recipes: names, files, overrides, plug-ins, and what is said about mistakes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from counting_stage import write_recipe
from fairlead.credit import GAE, LeaveOneOut
from fairlead.recipes import Recipe, RecipeError, dump_recipe, load_recipe, shipped_recipes
from fairlead.recipes.load import recipes_by_part

MINIMAL = "stages:\n  sft: {model: some/model, data: data.jsonl}\n"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(MINIMAL, encoding="utf-8")
    return path


def complaint(name: str | Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(name), list(overrides))
    assert str(caught.value).startswith(f"{name}:\n")
    return str(caught.value)


# -- what is there ------------------------------------------------------------------------------------------------------


def test_shipped_recipes_are_found_by_name() -> None:
    assert {"quickstart", "pretrain-base"} <= set(shipped_recipes())


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_shipped_recipes_are_valid_named_like_their_file_and_say_what_they_show(name: str) -> None:
    loaded = load_recipe(name)
    assert loaded.name == name
    assert loaded.about


def test_which_recipes_a_part_stands_in() -> None:
    users = recipes_by_part()
    assert "quickstart" in users["credit.gae"] and "quickstart" in users["rollout.sample"]


def test_a_file_gives_its_name_and_part_follows_from_the_identifier(recipe: Path) -> None:
    loaded = load_recipe(str(recipe))
    assert loaded.name == "mine"
    assert loaded.stages["sft"].part_name == "sft"


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_a_dumped_recipe_loads_again_as_it_was(name: str, tmp_path: Path) -> None:
    text = dump_recipe(load_recipe(name))
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    assert dump_recipe(load_recipe(str(path))) == text


# -- extending another recipe -----------------------------------------------------------------------------------------


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_what_is_written_over_an_extended_recipe_and_what_stays(tmp_path: Path) -> None:
    write(
        tmp_path / "base.yaml",
        """
about: not inherited
seed: 4
stages:
  sft: {model: some/model, data: [a.jsonl, b.jsonl], steps: 3}
  gone: {part: sft, model: some/model, data: a.jsonl}
  online:
    model: stage:sft
    prompts: a.jsonl
    rewards: {length: length}
    credit: {part: gae, lam: 0.9}
    objective: ppo-clip
    shaping: [normalise]
""",
    )
    mine = write(
        tmp_path / "mine.yaml",
        """
extends: base.yaml
stages:
  sft: {model: {dtype: bfloat16}, data: c.jsonl}
  gone: null
  last: {part: sft, model: stage:online, data: a.jsonl}
  online:
    credit: {part: reinforce}
    objective: {clip_high: 0.1}
    shaping: []
""",
    )
    loaded = load_recipe(str(mine), ["sft.steps=5"])
    assert (loaded.name, loaded.about, loaded.seed) == ("mine", "", 4)
    assert list(loaded.stages) == ["sft", "online", "last"]
    sft, online = (loaded.stages[name].model_dump() for name in ("sft", "online"))
    assert (sft["model"]["path"], sft["model"]["dtype"], sft["steps"]) == ("some/model", "bfloat16", 5)
    assert [source["path"] for source in sft["data"]] == ["c.jsonl"]
    assert online["credit"]["part"] == "reinforce" and "lam" not in online["credit"]
    assert (online["objective"]["part"], online["objective"]["clip_high"], online["shaping"]) == ("ppo-clip", 0.1, [])
    assert "length" in online["rewards"]


def test_a_shipped_recipe_is_extended_by_name(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine.yaml", "extends: ppo\nstages: {online: {part: online, steps: 7}}\n")
    loaded, ppo = load_recipe(str(mine)), load_recipe("ppo")
    assert loaded.stages["online"].model_dump() == ppo.stages["online"].model_dump() | {"steps": 7}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("extends: ppoo\n", "extends: 'ppoo' is no shipped recipe and no file beside"),
        ("extends: 3\n", "extends: 3 is no shipped recipe"),
        ("extends: mine.yaml\n", "extends: 'mine.yaml' is extended by itself"),
    ],
)
def test_a_recipe_that_cannot_be_extended(tmp_path: Path, text: str, said: str) -> None:
    assert said in complaint(write(tmp_path / "mine.yaml", text))


# -- overrides ----------------------------------------------------------------------------------------------------------


def test_overrides_of_the_recipe_and_of_a_stage() -> None:
    loaded = load_recipe(
        "quickstart",
        ["seed=7", "runtime.threads=2", "online.steps=3", "stages.sft.epochs=1", "online.optimiser.learning_rate=1e-4"],
    )
    assert (loaded.seed, loaded.runtime.threads) == (7, 2)
    assert loaded.stages["online"].steps == 3  # type: ignore[attr-defined]
    assert loaded.stages["sft"].epochs == 1.0  # type: ignore[attr-defined]
    assert loaded.stages["online"].optimiser.learning_rate == 1e-4  # type: ignore[attr-defined]


def test_an_override_below_a_part_given_by_its_name_alone() -> None:
    changes = ["online.credit=gae", "online.credit.gamma=0.5", "online.shaping.0.momentum=0.5"]
    try:
        credit = load_recipe("quickstart", changes[:2]).stages["online"].credit  # type: ignore[attr-defined]
    except RecipeError as error:
        pytest.fail(str(error))
    assert isinstance(credit, GAE) and credit.gamma == 0.5
    # `normalise` stands in the list as a bare name; a wrong field of it is looked for in that part.
    assert "stages.online.shaping.0.momentun" in complaint("quickstart", "online.shaping.0.momentun=0.5")


def test_another_part_and_a_default_part() -> None:
    loaded = load_recipe("quickstart", ["online.credit=rloo", "online.rollout.n=2"])
    assert isinstance(loaded.stages["online"].credit, LeaveOneOut)  # type: ignore[attr-defined]
    clipped = load_recipe("quickstart", ["online.objective={part: ppo-clip}"])
    assert clipped.stages["online"].objective.part_name == "ppo-clip"  # type: ignore[attr-defined]


def test_overrides_into_lists(recipe: Path) -> None:
    recipe.write_text("stages:\n  sft:\n    model: m\n    data: [a.jsonl, {path: b.jsonl}]\n", encoding="utf-8")
    data = load_recipe(str(recipe), ["sft.data.0.limit=3", "sft.data.1.path=c.jsonl"]).stages["sft"].data  # type: ignore[attr-defined]
    assert [(source.path, source.limit) for source in data] == [("a.jsonl", 3), ("c.jsonl", None)]
    assert load_recipe(str(recipe), ["sft.data.1=d.jsonl"]).stages["sft"].data[1].path == "d.jsonl"  # type: ignore[attr-defined]
    for index in ("2", "-1", "x"):
        assert "is a list of 2" in complaint(recipe, f"sft.data.{index}.limit=3")
        assert "is a list of 2" in complaint(recipe, f"sft.data.{index}=x")


def test_bare_paths_take_overrides(recipe: Path) -> None:
    stage = load_recipe(str(recipe), ["sft.model.dtype=bfloat16", "sft.data.limit=2"]).stages["sft"]
    assert (stage.model.path, stage.model.dtype) == ("some/model", "bfloat16")  # type: ignore[attr-defined]
    assert (stage.data[0].path, stage.data[0].limit) == ("data.jsonl", 2)  # type: ignore[attr-defined]
    models = load_recipe("quickstart", ["evaluate.models.before.dtype=bfloat16"]).stages["evaluate"].models  # type: ignore[attr-defined]
    assert (models["before"].path, models["before"].dtype) == ("stage:sft", "bfloat16")


def test_an_override_of_one_use_of_an_anchor_leaves_the_others(recipe: Path) -> None:
    recipe.write_text(
        "stages:\n"
        "  one: {part: sft, model: m, data: &d [{path: a}], optimiser: &o {learning_rate: 1.0}}\n"
        "  two: {part: sft, model: m, data: *d, optimiser: {<<: *o, learning_rate: 2.0}}\n",
        encoding="utf-8",
    )
    loaded = load_recipe(str(recipe), ["one.data.0.limit=3"])
    assert loaded.stages["one"].data[0].limit == 3  # type: ignore[attr-defined]
    assert loaded.stages["two"].data[0].limit is None  # type: ignore[attr-defined]
    assert loaded.stages["two"].optimiser.learning_rate == 2.0  # type: ignore[attr-defined]


def test_values_are_yaml(recipe: Path) -> None:
    stage = load_recipe(str(recipe), ["sft.steps=null", "sft.packed=false", "name=x=y"])
    assert stage.stages["sft"].packed is False  # type: ignore[attr-defined]
    assert stage.name == "x=y"


# -- mistakes -----------------------------------------------------------------------------------------------------------


def test_an_unknown_recipe() -> None:
    assert "did you mean 'quickstart'?" in complaint("quickstar")
    assert "no such file" in complaint("nowhere/else.yaml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stages: [", ["mine.yaml:1", "not valid YAML"]),
        ("stages:\n  a: 1\n  b: }\n", ["mine.yaml:3", "not valid YAML"]),
        ("name: a\nname: b\n", ["mine.yaml:2", "the key 'name' stands twice"]),
        ("- a\n", ["a recipe is a mapping"]),
        ("", ["stages: this key is required"]),
        ("stages: {}\n", ["stages: "]),
        ("stages: [sft]\n", ["stages: "]),
        ("stages:\n  sfd: {}\n", ["stages.sfd: unknown stage part 'sfd'", "did you mean 'sft'?"]),
        ("stages:\n  sft: {data: x}\n", ["stages.sft.model: this key is required"]),
        (
            "stages:\n  sft: {model: m, data: d, epoch: 2}\n",
            ["stages.sft.epoch: unknown key", "did you mean 'epochs'?"],
        ),
        ("stages:\n  sft: {model: m, data: d, batch_size: 0}\n", ["stages.sft.batch_size: ", "(got 0)"]),
        ("stages:\n  sft: {model: {pth: m}, data: d}\n", ["stages.sft.model.pth: unknown key", "'path'"]),
        (
            "stages:\n  sft: {model: m, data: d, optimiser: {learning_rte: 1}}\n",
            ["stages.sft.optimiser.learning_rte: ", "did you mean 'learning_rate'?"],
        ),
        ("stages:\n  sft: {model: m, data: d, objective: nil}\n", ["stages.sft.objective: unknown"]),
        ("seeds: 3\n" + MINIMAL, ["seeds: unknown key 'seeds'; did you mean 'seed'?"]),
        ("seed: -1\n" + MINIMAL, ["seed: ", "(got -1)"]),
        ("runtime: {backend: slurm}\n" + MINIMAL, ["runtime.backend: ", "'local' or 'ray'", "(got 'slurm')"]),
        ("plugins: numpy\n" + MINIMAL, ["plugins: ", "valid list"]),
        ("plugins: [no_such_module]\n" + MINIMAL, ["plugins: cannot import 'no_such_module'"]),
        ("stages:\n  'a b': {part: sft, model: m, data: d}\n", ["identifier 'a b' must be made of letters"]),
        ("stages:\n  ../up: {part: sft, model: m, data: d}\n", ["identifier '../up' must be made of letters"]),
    ],
)
def test_mistakes_are_told_with_their_place(recipe: Path, text: str, words: list[str]) -> None:
    recipe.write_text(text, encoding="utf-8")
    told = complaint(recipe)
    for word in words:
        assert word in told


def test_bytes_that_are_no_text(recipe: Path) -> None:
    recipe.write_bytes(b"name: \xff\n")
    assert "not UTF-8" in complaint(recipe)


def test_several_mistakes_are_told_at_once(recipe: Path) -> None:
    recipe.write_text("sed: 1\nstages:\n  sft: {model: m, data: d, epoch: 2, batch_size: 0}\n", encoding="utf-8")
    assert len(complaint(recipe).splitlines()) == 4


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("online.steps", "path.to.key=value"),
        ("=3", "path.to.key=value"),
        ("onlin.steps=3", "did you mean 'online'?"),
        ("online.step=3", "did you mean 'steps'"),
        ("online.credit.lm=3", "did you mean 'lam'?"),
        ("online.steps.more=3", "stages.online.steps: is the value 45; there is nothing below it to set"),
        ("online.credit=gea", "did you mean 'gae'?"),
        ("online.rollout.sampling.temprature=1", "did you mean 'temperature'?"),
        ("online.rewards.reward.scal=1", "did you mean 'scale'?"),
    ],
)
def test_mistakes_in_overrides(override: str, words: str) -> None:
    assert words in complaint("quickstart", override)


def test_a_stage_that_a_part_cannot_serve_says_how_to_mend_it() -> None:
    told = complaint("quickstart", "online.credit=rloo")
    assert "set rollout.n" in told and len(told) < 250


# -- plug-ins -----------------------------------------------------------------------------------------------------------


def test_a_plugin_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_credit_plugin.py").write_text(
        "from fairlead.credit import Credit\n"
        "class Flat(Credit, name='flat-for-test'):\n"
        '    """Flat.\n\n    Source: none."""\n'
        "    height: float = 1.0\n"
        "    def __call__(self, experience):\n"
        "        return experience\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    loaded = load_recipe("quickstart", ["plugins=[my_credit_plugin]", "online.credit={part: flat-for-test, height: 2}"])
    assert loaded.stages["online"].credit.height == 2.0  # type: ignore[attr-defined]


def test_a_stage_of_a_plugin(tmp_path: Path) -> None:
    loaded = load_recipe(str(write_recipe(tmp_path, steps=3)))
    assert isinstance(loaded, Recipe)
    assert [stage.part_name for stage in loaded.stages.values()] == ["counting", "counting"]
