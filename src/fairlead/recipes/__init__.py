"""Recipes: a list of stages in YAML."""

from fairlead.recipes.load import RecipeError, dump_recipe, load_recipe, shipped_recipes
from fairlead.recipes.schema import DataSpec, Recipe

__all__ = ["DataSpec", "Recipe", "RecipeError", "dump_recipe", "load_recipe", "shipped_recipes"]
