"""Every shipped recipe runs: two steps of each stage, on a tiny random model and a handful of its own records."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fairlead.data import DataError, DataSource, read
from fairlead.models import ModelError, resolve_path
from fairlead.recipes import Recipe, load_recipe, shipped_recipes
from fairlead.recipes.execute import execute
from tiny_models import save_tiny_model

MOST = {
    "steps": 2,
    "batch_size": 2,
    "rounds": 2,
    "prompts_per_round": 2,
    "epochs": 1,
    "minibatches": 1,
    "critic_warmup": 1,
    "limit": 12,
    "maximum_prompts": 3,
    "maximum_prompt": 200,
    "maximum_response": 100,
    "maximum_tokens": 6,
    "maximum_length": 256,
    "n": 2,
    "workers": 1,
    "validate_every": 2,
    "monitor_every": 1,
}
"""No such number of a recipe is larger than this; null becomes this, too."""
SMALL_NETWORK = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model whose context holds real prompts, a byte a token."""
    return str(save_tiny_model(tmp_path_factory.mktemp("model"), max_position_embeddings=8192))


def shrink(value: Any, tiny: str, key: str = "") -> Any:
    """The recipe's tree with small numbers, and `tiny` wherever a model of its own is named."""
    if isinstance(value, list):
        return [shrink(item, tiny, key) for item in value]
    if isinstance(value, dict):
        if key == "initialise":
            return value | {name: size for name, size in SMALL_NETWORK.items() if name in value}
        made = {name: shrink(item, tiny, name) for name, item in value.items()}
        if "lora" in value and not str(value.get("path")).startswith("stage:"):  # only a model has adapters
            made["path"] = tiny
        if value.get("gather"):  # it may find nothing to pair up in a handful of records
            made["limit"] = min(value["limit"] or 100, 100)
        return made
    if key == "backend":
        return "local"
    if key in MOST and not isinstance(value, str) and (value is None or value > MOST[key]):
        return MOST[key]
    return value


def sources(value: Any) -> Iterator[dict[str, Any]]:
    """Every data source in a recipe's tree."""
    if isinstance(value, dict):
        if "path" in value and "split" in value:
            yield value
        for item in value.values():
            yield from sources(item)
    elif isinstance(value, list):
        for item in value:
            yield from sources(item)


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_runs(name: str, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "code" and sys.platform != "linux":
        pytest.skip("isolation is Linux's")
    recipe = load_recipe(name)
    tree = recipe.model_dump(mode="json")
    for source in sources(tree):
        try:
            read(DataSource(path=source["path"], split=source["split"], limit=1), recipe.data.root)
        except DataError as error:
            pytest.skip(f"its data is not here: {str(error)[:100]}")
    small = Recipe.model_validate(shrink(tree, tiny) | {"trackers": [], "runtime": {"threads": 1}})
    run = execute(small, tmp_path / "run", quiet=True)
    assert list(run.results) == list(recipe.stages)


def test_the_paths_of_models_exist_or_are_stages() -> None:
    """A shipped recipe begins with the shipped model, a stage, or a tokenizer that it learns itself."""
    for name in shipped_recipes():
        tree = load_recipe(name).model_dump(mode="json")
        stages = list(tree["stages"])
        for path in models(tree):
            if path.startswith("stage:"):
                assert path.removeprefix("stage:") in stages, (name, path)
            else:
                try:
                    resolve_path(path)
                except ModelError:
                    assert path == "fairlead:base", (name, path)  # a checkout may lack the weights


def models(value: Any) -> Iterator[str]:
    """The path of every model in a recipe's tree."""
    if isinstance(value, dict):
        if "lora" in value and "path" in value:
            yield value["path"]
        for item in value.values():
            yield from models(item)
    elif isinstance(value, list):
        for item in value:
            yield from models(item)
