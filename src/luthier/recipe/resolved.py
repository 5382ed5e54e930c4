"""A recipe in which every value is known, and where each came from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luthier.data.files.shard_names import shard_names
from luthier.methods.by_role import ByRole
from luthier.methods.combine import Methods
from luthier.recipe.sections import AugmentSection, Recipe

# Keys that say where and how fast, not what: a run resumes under the same hash when they change.
INCIDENTAL = {"out", "name", "track", "keep", "micro_tokens", "samples"}
# Keys whose values may be paths, relative to the recipe's folder.
PATHS = {
    "model.name",
    "model.image",
    "model.audio",
    "model.text",
    "model.template",
    "data.train",
    "data.eval",
    "data.images",
    "data.index",
    "samples.prompts",
    "distill.teacher",
    "reinforce.rewards",
    "ppo.value_from",
}


@dataclass
class ResolvedRecipe:
    """A validated recipe with its sections: what `prepare` hands to the rooms."""

    recipe: Recipe
    task_options: Any
    methods: Methods | ByRole
    objective_options: Any
    base: Path
    origins: dict[str, str] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """sha256 of everything that changes the result."""
        kept = {key: value for key, value in self.as_dict().items() if key not in INCIDENTAL}
        return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def as_dict(self) -> dict[str, Any]:
        values = self.recipe.model_dump()
        values["model"] = {k: v for k, v in values["model"].items() if v is not None}
        if isinstance(self.methods, ByRole):
            values["method"] = self.methods.told()
        if not values["samples"]["prompts"]:
            values.pop("samples")
        if self.recipe.augment == AugmentSection():
            values.pop("augment")
        for key in ("batch_norm", "image_backend"):
            if values[key] == "auto":  # nothing asks for it
                values.pop(key)
        for name, options in self._sections():
            dumped = options.model_dump()
            if dumped:
                values[name] = {**values.get(name, {}), **dumped}
        return values

    def _sections(self) -> list[tuple[str, Any]]:
        named = [(self.recipe.task, self.task_options), *self.methods.options.items()]
        return [*named, (self.recipe.objective or "", self.objective_options)]

    def rows(self) -> list[tuple[str, Any, str]]:
        """(dotted key, value, origin) of each resolved value, for printing."""
        flat = flatten(self.as_dict())
        return [(key, value, self._origin(key)) for key, value in flat.items() if value not in (None, {}, [])]

    def _origin(self, key: str) -> str:
        """Of a mapping also where only a name inside it was given, as on the command line."""
        inside = (origin for name, origin in self.origins.items() if name.startswith(f"{key}."))
        return self.origins.get(key) or next(inside, "default")

    def set(self, key: str, value: Any, origin: str) -> None:
        """Resolve one value that was left open."""
        setattr(self.recipe, key, value)
        self.origins[key] = origin

    def _located(self, value: Any) -> Any:
        """Paths that lead somewhere, in full; hub ids and names as they are."""
        if isinstance(value, list):
            return [self._located(item) for item in value]
        if isinstance(value, dict):
            named = {key: self._located(value[key]) for key in ("path", "function", "model") if key in value}
            return {**value, **named}
        if isinstance(value, str) and ".py:" in value:  # a function of a file
            file, _, name = value.rpartition(":")
            return f"{self._located(file)}:{name}"
        found = isinstance(value, str) and ((self.base / value).exists() or bool(shard_names(value, self.base)))
        return str((self.base / value).resolve()) if found else value

    def to_yaml(self) -> str:
        """The resolved recipe; each line says where its value came from. It can be run again from any folder."""
        lines, done = [], set()
        runs = {f"{name}.{key}": one for name, one in self.methods.options.items() for key in one.paths}
        values = self.as_dict()
        if isinstance(self.methods, ByRole):
            values["method"] = self.methods.told(located=True)
        for key, value in flatten(values).items():
            if value is None or value == {}:
                continue  # an empty list is said: it may stand against a default
            origin = self._origin(key)
            value = self._located(value) if key in PATHS else value
            if key in runs:  # found as the method found them
                value = [str(path.resolve()) for path in runs[key].located(value)]
            section, _, leaf = key.rpartition(".")
            if section and section not in done:
                lines.append(f"{section}:")
            done.add(section)
            text = json.dumps(value, ensure_ascii=False)
            lines.append(f"{'  ' if section else ''}{leaf}: {text}  # {origin}")
        return "\n".join(lines) + "\n"


def flatten(values: dict[str, Any]) -> dict[str, Any]:
    """{"lora": {"rank": 8}} → {"lora.rank": 8}; a mapping inside a section is a value, of a person's own names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= {f"{key}.{inner}": one for inner, one in value.items()} if isinstance(value, dict) else {key: value}
    return flat
