"""What is wrong with a recipe, all of it at once: unknown keys with the nearest name, wrong types, unused sections."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from luthier.methods import METHODS, SHORT_NAMES
from luthier.methods.by_role import ByRole
from luthier.methods.combine import Methods
from luthier.objectives import OBJECTIVES
from luthier.recipe.options import check_options, open_method, place_of
from luthier.recipe.resolved import ResolvedRecipe
from luthier.recipe.roles import by_role, read_towers
from luthier.recipe.sections import Recipe
from luthier.tasks import TASKS
from luthier.types import Finding


def validate(
    values: dict[str, Any], origins: dict[str, str], base: Path, where: str
) -> tuple[ResolvedRecipe | None, list[Finding]]:
    for short, opened in (("model", "model.name"), ("data", "data.train")):
        if short in origins and not isinstance(values.get(short), dict):
            origins[opened] = origins[short]
    findings: list[Finding] = []
    values, named = _open_short_forms(values, origins, where, findings)
    task = _choice(TASKS, values.get("task"), "task", origins, where, findings)
    towers = read_towers(values, origins, where, findings) if by_role(values.get("method")) else None
    methods = [] if towers else _methods(values, named, origins, where, findings)
    if values.get("objective") is None and len(said := [name for name in OBJECTIVES if name in values]) == 1:
        values["objective"] = said[0]  # its section names it
    objective = _choice(OBJECTIVES, values.get("objective"), "objective", origins, where, findings, optional=True)
    sections = {key: values.pop(key) for key in list(values) if key in TASKS or key in METHODS or key in OBJECTIVES}

    options: dict[str, Any] = {}
    for registry, name in ((TASKS, task), *((METHODS, name) for name in methods), (OBJECTIVES, objective)):
        if name is not None:
            section = sections.pop(name, {})
            section = {} if section is None else section
            options[name] = check_options(registry.load(name).Options, section, f"{name}.", origins, where, findings)
    for name in sections:
        place, mend = place_of(name, origins, where), f"remove it, or choose `{name}` as task, method or objective"
        findings.append(Finding("recipe.unused-section", place, f"the section `{name}:` has no effect here", mend))
    recipe = check_options(Recipe, values, "", origins, where, findings)
    if recipe is None or task is None or any(one is None for one in options.values()):
        return None, findings
    chosen: Methods | ByRole = towers or Methods({name: options[name] for name in methods})
    if conflicts := chosen.conflicts():
        findings += conflicts
        first = methods[0] if methods else "lora"  # a check goes on with the first
        chosen = Methods({first: options.get(first) or METHODS.load(first).Options()})
    chosen.beside(base)
    options[task].beside(base)
    return ResolvedRecipe(recipe, options[task], chosen, options.get(objective or ""), base, origins), findings


def _open_short_forms(
    values: dict[str, Any], origins: dict[str, str], where: str, findings: list[Finding]
) -> tuple[dict[str, Any], list[Any]]:
    """``model: X``, ``data: F``, ``method: dora`` and ``method: [{lora: {rank: 8}}, prompt]`` are short forms.

    Returns the values with their sections opened, and the methods' names (or what stands in their place).
    """
    values = dict(values)
    if isinstance(values.get("model"), str):
        values["model"] = {"name": values["model"]}
    if isinstance(values.get("data"), str | list):
        values["data"] = {"train": values["data"]}
    if isinstance(values.get("samples"), str | list):
        values["samples"] = {"prompts": values["samples"]}
    given = values.get("method", "lora")
    if by_role(given):
        return values, []
    if given == []:
        given = [None]  # said, and empty: not the default
    named = []
    for one in given if isinstance(given, list) else [given]:
        name, options = next(iter(one.items())) if isinstance(one, dict) and len(one) == 1 else (one, None)
        name, options = open_method(name, options, values, origins, where, findings)
        named.append(name)
        if options is not None:
            section = values.get(name) or {}
            for key in options if isinstance(options, dict) and isinstance(name, str) else ():
                origins.setdefault(f"{name}.{key}", origins.get("method", "given"))
            values[name] = (
                {**options, **section} if isinstance(options, dict) and isinstance(section, dict) else options
            )
    return values, named


def _methods(
    values: dict[str, Any], named: list[Any], origins: dict[str, str], where: str, findings: list[Finding]
) -> list[str]:
    """The names of the methods, each once; the default where none is right, so that a check goes on."""
    found = [_choice(METHODS, name, "method", origins, where, findings) for name in named]
    names = [name for name in found if name is not None]
    for name in sorted({name for name in names if names.count(name) > 1}):
        what = f"`{name}` is named twice"
        mend = "name it once, with all its options in one section"
        findings.append(Finding("method.combination", place_of("method", origins, where), what, mend))
    names = list(dict.fromkeys(names)) or ["lora"]
    values["method"] = names[0] if len(names) == 1 else names
    return names


def _choice(
    registry: Any, value: Any, key: str, origins: dict[str, str], where: str, findings: list[Finding], *,
    optional: bool = False,
) -> str | None:  # fmt: skip
    if value is None and optional:
        return None
    if isinstance(value, str) and value in registry:
        return value
    known = ", ".join(registry)
    what = f"`{key}` is missing" if value is None else f"unknown {key} {value!r}"
    near = difflib.get_close_matches(
        str(value), [*registry, *(SHORT_NAMES if key == "method" else ())], n=1, cutoff=0.5
    )
    mend = f"did you mean `{near[0]}`?" if near else f"one of: {known}"
    findings.append(Finding(f"recipe.{key}", place_of(key, origins, where), what, mend))
    return None
