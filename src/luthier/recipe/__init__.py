"""One validated description of a run. Each value keeps its origin: given, task, method, machine, default."""

from luthier.recipe.read import read_recipe, read_values
from luthier.recipe.resolved import ResolvedRecipe
from luthier.recipe.schema import json_schema
from luthier.recipe.sections import Recipe

__all__ = ["Recipe", "ResolvedRecipe", "json_schema", "read_recipe", "read_values"]
