"""A recipe as it is given: a YAML file or a dictionary, with ``key=value`` overrides. Keeps the line of each key."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from luthier.recipe.resolved import ResolvedRecipe, flatten
from luthier.recipe.stages import KEY
from luthier.recipe.validate import validate
from luthier.types import Finding, Refused

MOST_VALUES = 100_000
Given = tuple[dict[str, Any], dict[str, str], Path, str, list[Finding]]
"""Values, the origin of each, the folder that paths start from, where they were given, and what is wrong so far."""


def read_recipe(
    source: str | Path | dict[str, Any], overrides: Sequence[str] = ()
) -> tuple[ResolvedRecipe | None, list[Finding]]:
    """Read, override and validate, collecting every mistake.

    Where task, model and data are known the recipe comes back even with mistakes in it (those keys left at their
    defaults), so that a check can go on and tell what else is wrong. Raises Refused when the file can't be read at all.
    """
    given = read_values(source, overrides)
    of_one_run(given[0], given[3])
    return validated(given)


def validated(given: Given) -> tuple[ResolvedRecipe | None, list[Finding]]:
    """What was given for one run."""
    values, origins, base, where, findings = given
    recipe, mistakes = validate(values, origins, base, where)
    return recipe, findings + mistakes


def of_one_run(values: dict[str, Any], where: str) -> None:
    """Raises Refused for one with stages."""
    if KEY in values:
        what, mend = "a recipe with stages is read by `tune` and `check` alone", "give a recipe of one run"
        raise Refused(Finding("recipe.stages", where, what, mend))


def read_values(source: str | Path | dict[str, Any], overrides: Sequence[str] = ()) -> Given:
    """What was given, not yet validated. Raises Refused when the file can't be read at all."""
    values, origins, base, where = _given(source)
    return values, origins, base, where, _override(values, origins, list(overrides))


def _given(source: str | Path | dict[str, Any]) -> tuple[dict[str, Any], dict[str, str], Path, str]:
    if isinstance(source, dict):
        values = copy.deepcopy(source)
        return values, dict.fromkeys(flatten(values), "given"), Path.cwd(), "recipe"
    path = Path(source)
    if not path.is_file():
        near = difflib.get_close_matches(
            path.name, [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        )
        mend = (
            f"did you mean {', '.join(near)}?"
            if near
            else "give the path of a YAML file; `luthier ls recipes` lists ready ones"
        )
        raise Refused(Finding("recipe.missing", str(path), "there is no such recipe", mend))
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        if _written_out(node, {}) > MOST_VALUES:
            raise yaml.YAMLError(f"its anchors stand for more than {MOST_VALUES:,} values")
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(
            Finding("recipe.yaml", str(path), f"not readable as YAML: {error}", "mend the line it names")
        ) from None
    if not isinstance(values, dict):
        raise Refused(
            Finding("recipe.yaml", str(path), "a recipe is a mapping of keys to values", "begin with `task: ...`")
        )
    origins = {key: f"{path}:{line}" for key, line in _lines(node).items()}
    return values, origins, path.parent.resolve(), str(path)


def _written_out(node: Any, known: dict[int, int]) -> int:
    """How many values a document holds once each alias is written out; one inside itself counts as too many."""
    if id(node) not in known:
        known[id(node)] = MOST_VALUES
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [part for pair in inner for part in pair] if isinstance(node, yaml.MappingNode) else inner
        known[id(node)] = 1 + sum(_written_out(part, known) for part in parts)
    return known[id(node)]


def _lines(node: yaml.Node | None, prefix: str = "") -> dict[str, int]:
    lines: dict[str, int] = {}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            dotted = f"{prefix}{key.value}"
            lines[dotted] = key.start_mark.line + 1
            lines |= _lines(value, f"{dotted}.")
    return lines


def _override(values: dict[str, Any], origins: dict[str, str], overrides: list[str]) -> list[Finding]:
    findings = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            findings.append(Finding("recipe.override", text, "an override is key=value", "for example lora.rank=16"))
            continue
        target = values
        *sections, leaf = key.split(".")
        for section in sections:
            inner = target.get(section)
            if section in ("model", "data") and isinstance(inner, str | list):  # the short form, opened
                inner = {"name" if section == "model" else "train": inner}
            target[section] = inner if isinstance(inner, dict) else {}
            target = target[section]
        try:
            target[leaf] = yaml.safe_load(value)
        except yaml.YAMLError:
            target[leaf] = value
        origins[key] = "command line"
    return findings
