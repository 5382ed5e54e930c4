"""One section of a recipe against the options that it may hold: each mistake with its place and the nearest key."""

from __future__ import annotations

import copy
import difflib
from typing import Any

from pydantic import BaseModel, ValidationError

from luthier.methods import METHODS, SHORT_NAMES
from luthier.recipe.sections import Recipe
from luthier.tasks import TASKS
from luthier.types import Finding


def place_of(key: str, origins: dict[str, str], where: str) -> str:
    parts = key.split(".")
    for end in range(len(parts), 0, -1):
        origin = origins.get(".".join(parts[:end]))
        if origin and origin != "given":
            return f"{origin}:{key}"
    return f"{where}:{key}"


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
