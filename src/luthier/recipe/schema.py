"""The JSON schema of a recipe, for editors and for forms."""

from __future__ import annotations

from typing import Any

from pydantic import create_model

from luthier.methods import METHODS, SHORT_NAMES
from luthier.methods.by_role import FROZEN
from luthier.objectives import OBJECTIVES
from luthier.recipe.sections import Recipe
from luthier.tasks import TASKS
from luthier.types import ROLES


def json_schema() -> dict[str, Any]:
    """JSON schema of a recipe, with a section for each task, method and objective that has options."""
    sections: dict[str, Any] = {}
    for registry in (TASKS, METHODS, OBJECTIVES):
        for name in registry:
            options = registry.load(name).Options
            if options.model_fields:
                sections[name] = (options | None, None)
    model = create_model("Recipe", __base__=Recipe, **sections)
    schema = model.model_json_schema()
    schema["properties"]["model"] = {"anyOf": [{"type": "string"}, schema["properties"]["model"]]}
    schema["properties"]["data"] = {"anyOf": [{"type": "string"}, {"type": "array"}, schema["properties"]["data"]]}
    schema["properties"]["task"] |= {"enum": list(TASKS)}
    names = {"enum": [*METHODS, *SHORT_NAMES]}
    one = {"anyOf": [{"type": "string", **names}, {"type": "object", "minProperties": 1, "maxProperties": 1}]}
    method = {key: value for key, value in schema["properties"]["method"].items() if key != "anyOf"}
    several = {"type": "array", "items": one, "minItems": 1}
    role = {"anyOf": [{"enum": [*METHODS, *SHORT_NAMES, FROZEN]}, {"type": ["object", "array", "null"]}]}
    roles = {"type": "object", "properties": dict.fromkeys(ROLES, role), "additionalProperties": False}
    schema["properties"]["method"] = method | {"anyOf": [*one["anyOf"], several, roles]}
    schema["properties"]["stages"] = {
        "type": "object", "description": "several runs, each with its own keys; `stage:NAME` is what one before left",
        "additionalProperties": {"type": "object"}, "minProperties": 1,
    }  # fmt: skip
    schema["properties"]["objective"]["anyOf"][0] |= {"enum": list(OBJECTIVES)}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
