"""What is wrong with a recipe, all of it at once: unknown keys with the nearest name, wrong types, unused sections."""

from __future__ import annotations

import copy
import difflib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from luthier.methods import METHODS, SHORT_NAMES
from luthier.methods.by_role import ByRole
from luthier.methods.combine import Methods
from luthier.objectives import OBJECTIVES
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


def open_method(
    name: Any, options: Any, values: dict[str, Any], origins: dict[str, str], where: str, findings: list[Finding]
) -> tuple[Any, Any]:
    """A method's name and options, with its short name and a bare list of paths opened."""
    if isinstance(options, list) and name in METHODS:
        options = {METHODS.load(name).Options.listed: options}
    if isinstance(name, str) and name in SHORT_NAMES:
        short, (name, preset) = name, SHORT_NAMES[name]
        options = {**preset, **(options or {})} if isinstance(options, dict | None) else options
        findings += _against(short, name, preset, [options, values.get(name)], origins, where)
    return name, options


def _against(
    short: str, name: str, preset: dict[str, Any], given: list[Any], origins: dict[str, str], where: str
) -> list[Finding]:
    """Options beside a short name that say the opposite of what it stands for."""
    found = []
    for key, value in preset.items():
        for section in given:
            if isinstance(section, dict) and section.get(key, value) != value:
                what = f"`method: {short}` means `{name}.{key}: {value}`, and `{key}: {section[key]}` is given with it"
                mend = f"write `method: {name}` with the `{key}` that you mean"
                found.append(Finding("recipe.combination", place_of(f"{name}.{key}", origins, where), what, mend))
    return found


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


def place_of(key: str, origins: dict[str, str], where: str) -> str:
    parts = key.split(".")
    for end in range(len(parts), 0, -1):
        origin = origins.get(".".join(parts[:end]))
        if origin and origin != "given":
            return f"{origin}:{key}"
    return f"{where}:{key}"


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


def check_options(
    kind: type[BaseModel], values: Any, prefix: str, origins: dict[str, str], where: str, findings: list[Finding]
) -> Any:
    """Validate; each mistake is a finding, and what is left without the mistaken keys is validated again."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = error.errors()
    values = copy.deepcopy(values)
    for problem in problems:
        names = [str(part) for part in problem["loc"] if isinstance(part, str) and part.isidentifier()]
        finding = _explain(kind, problem, names, place_of(f"{prefix}{'.'.join(names)}".rstrip("."), origins, where))
        told = prefix == "" and names[:1] in (["task"], ["method"], ["objective"])  # with the nearest name, before
        if finding not in findings and not told:
            findings.append(finding)
    for holder, key in [found for problem in problems if (found := _innermost(values, problem["loc"]))]:
        holder.pop(key, None)
    try:
        return kind.model_validate(values)
    except (
        ValidationError
    ):  # each value may be right, but not beside another one: a check goes on with them as they are
        return None if kind is Recipe or not isinstance(values, dict) else kind.model_construct(**values)


def _innermost(values: Any, loc: tuple[int | str, ...]) -> tuple[dict[str, Any], str] | None:
    """The deepest mapping that ``loc`` leads through, and its key there: what to leave out."""
    found = None
    for part in loc:
        if not isinstance(values, dict) or part not in values:
            break
        found = (values, str(part))
        values = values[part]
    return found


def _explain(kind: type[BaseModel], problem: Any, names: list[str], place: str) -> Finding:
    leaf = names[-1] if names else ""
    if problem["type"] == "extra_forbidden":
        known = _known_keys(kind, names[:-1])
        near = difflib.get_close_matches(leaf, known, n=1, cutoff=0.6)
        mend = f"did you mean `{near[0]}`?" if near else f"known keys: {', '.join(known)}"
        return Finding("recipe.unknown-key", place, f"unknown key `{leaf}`", mend)
    if problem["type"] == "missing":
        return Finding("recipe.missing-key", place, f"`{leaf}` is missing", f"add `{leaf}: ...`")
    what = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return Finding("recipe.value", place, what, "give values that go together")
    what = what[0].lower() + what[1:]
    return Finding("recipe.value", place, f"`{leaf}` got {problem['input']!r}: {what}", "give a value of that kind")


def _known_keys(kind: type[BaseModel], path: list[str]) -> list[str]:
    for name in path:
        annotation = kind.model_fields[name].annotation if name in kind.model_fields else None
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            kind = annotation
    known = list(kind.model_fields)
    return known + list(METHODS) + list(TASKS) if kind is Recipe else known
