"""Write docs/recipe.md from the JSON schema of a recipe: ``python docs/recipe_page.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from luthier.methods import METHODS
from luthier.objectives import OBJECTIVES
from luthier.recipe import json_schema
from luthier.tasks import TASKS

PAGE = Path(__file__).parent / "recipe.md"
OPENING = """\
# Recipe

<!-- Written by docs/recipe_page.py from the recipe's JSON schema. Change the schema, not this page. -->

A recipe is a YAML file, a dictionary in Python, or keys on the command line. Three keys are needed: `task`, `model` and
`data`; every other has a default. `key=value` on the command line overrides a key of the file, `section.key=value` one
of a section. Paths are relative to the recipe's folder.

    task: chat
    model: Qwen/Qwen3-0.6B          # short for  model: {name: Qwen/Qwen3-0.6B}
    data: chats.jsonl               # short for  data: {train: chats.jsonl}
    method: lora
    lora:
      rank: 16

An unknown key, a value of the wrong kind and a section that nothing uses are refused, all at once, each with the
nearest name. Every run prints the resolved recipe, each value with its origin: a line of the file, `command line`,
`task`, `method`, `model`, `data`, `machine` or `default`; the same stands in `recipe.yaml` of the run folder and can
be run again. The same as JSON schema: `luthier schema`.

Where the default is "–", the task, the method, the model or the machine decides.
"""


def page() -> str:
    schema = json_schema()
    sections = [
        ("model", "ModelSection"),
        ("data", "DataSection"),
        ("samples", "SamplesSection"),
        ("augment", "AugmentSection"),
    ]
    for registry in (TASKS, METHODS, OBJECTIVES):
        sections += [
            (name, _reference(schema["properties"][name])) for name in registry if name in schema["properties"]
        ]
    own = {name for name, _ in sections}
    plain = {name: entry for name, entry in schema["properties"].items() if name not in own}
    parts = [OPENING, "## Keys", _table(plain, schema["required"])]
    for name, definition in sections:
        parts += [f"## `{name}:`", _about(name), _table(**_inside(schema["$defs"][definition]))]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _inside(definition: dict[str, Any]) -> dict[str, Any]:
    return {"properties": definition["properties"], "required": definition.get("required", [])}


def _reference(entry: dict[str, Any]) -> str:
    return str(next(kind["$ref"] for kind in entry["anyOf"] if "$ref" in kind)).rpartition("/")[2]


def _about(name: str) -> str:
    for word, registry in (("task", TASKS), ("method", METHODS), ("objective", OBJECTIVES)):
        if name in registry:
            return f"With `{word}: {name}`. {dict(registry.describe())[name]}"
    return {
        "model": "The pretrained model.",
        "data": "The rows: see [data formats](data.md).",
        "augment": "How pictures and sounds are varied while training; what is judged is not.",
        "samples": "Fixed prompts that the model answers as training goes on; the report shows the answers over time.",
    }[name]


def _table(properties: dict[str, Any], required: list[str]) -> str:
    lines = ["| key | kind | default | meaning |", "|---|---|---|---|"]
    for name, entry in properties.items():
        default = "needed" if name in required else _default(entry.get("default"))
        meaning = entry.get("description", "").replace("|", "\\|")
        lines.append(f"| `{name}` | {_kind(entry)} | {default} | {meaning} |")
    return "\n".join(lines)


def _default(value: Any) -> str:
    return "–" if value is None else f"`{json.dumps(value, ensure_ascii=False)}`"


def _kind(entry: dict[str, Any]) -> str:
    """A schema's type in words: ``number above 0``, ``linear, cosine or constant``, ``list of texts``."""
    if "anyOf" in entry:
        kinds = [_kind(one) for one in entry["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in entry:
        return ", ".join(f"`{value}`" for value in entry["enum"])
    if "const" in entry:
        return f"`{entry['const']}`"
    if entry.get("type") == "array":
        return f"list of {_kind(entry['items'])}" if entry.get("items") else "list"
    word = {"string": "text", "boolean": "yes or no", "object": "mapping", "integer": "whole number"}
    return word.get(entry.get("type", ""), entry.get("type", "value")) + _bounds(entry)


def _bounds(entry: dict[str, Any]) -> str:
    words = {"exclusiveMinimum": "above", "minimum": "from", "exclusiveMaximum": "below", "maximum": "to"}
    found = [f"{word} {entry[key]:g}" for key, word in words.items() if key in entry]
    return f" {' '.join(found)}" if found else ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
