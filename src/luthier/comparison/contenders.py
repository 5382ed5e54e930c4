"""The methods of a comparison, as they are asked for: ``features,lora(rank=4),adapter+bitfit``."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from luthier.methods import METHODS
from luthier.recipe.roles import by_role
from luthier.recipe.validate import validate
from luthier.types import Finding, Refused

# Keys of the recipe that may differ between methods; everything else is the same for all.
OWN_KEYS = ("learning_rate", "epochs", "steps")
NAME = re.compile(r"([\w-]+)(?:\((.*)\))?", re.DOTALL)


@dataclass(frozen=True)
class Contender:
    """``label`` is how it was asked for; ``parts`` are (method or short name, options); ``own`` recipe values."""

    label: str
    parts: list[tuple[str, dict[str, Any]]]
    own: dict[str, Any] = field(default_factory=dict)
    roles: dict[str, Any] | None = None
    """Methods by role, instead of ``parts``."""

    @property
    def slug(self) -> str:
        return re.sub(r"[^\w.]+", "-", self.label).strip("-").lower()

    def recipe(self, values: dict[str, Any]) -> dict[str, Any]:
        """The recipe with this method and its own section; the sections of other methods go."""
        given = values.get("method")
        shared = dict(given) if isinstance(given, dict) and len(given) == 1 else {}
        kept = {key: value for key, value in values.items() if key not in METHODS and key != "method"}
        if self.roles is not None:
            return {**kept, "method": copy.deepcopy(self.roles)}
        chosen: list[Any] = []
        for name, options in self.parts:
            section = {**(shared.get(name) or {}), **((values.get(name) or {}) if name in METHODS else {}), **options}
            chosen.append({name: section} if section else name)
        return {**kept, "method": chosen if len(chosen) > 1 else chosen[0], **self.own}


def read_contenders(methods: str | Sequence[Any]) -> list[Contender]:
    """Raises Refused with every mistake of form; whether the names are methods is asked by `check_contenders`."""
    texts = _split(methods, ",") if isinstance(methods, str) else list(methods)
    findings: list[Finding] = []
    found = [_contender(text, findings) for text in texts if text]
    labels = [contender.label for contender in found if contender]
    for label in sorted({label for label in labels if labels.count(label) > 1}):
        findings.append(_wrong(label, "this method is named twice", "name it once, or give each other options"))
    if not labels and not findings:
        findings.append(_wrong("methods", "no method to compare", f"name some of {', '.join(METHODS)}"))
    if findings:
        raise Refused(*findings)
    return [contender for contender in found if contender]


def check_contenders(
    contenders: Sequence[Contender], values: dict[str, Any], origins: dict[str, str], base: Path, where: str
) -> None:
    """Every method's name and options, validated as its recipe will be. Raises Refused with all that is wrong."""
    findings: list[Finding] = []
    for contender in contenders:
        for finding in validate(copy.deepcopy(contender.recipe(values)), dict(origins), base, where)[1]:
            own = finding.where.rpartition(":")[2].partition(".")[0] in (*METHODS, "method")
            place = f"--methods {contender.label}" if own else finding.where
            told = Finding(finding.code, place, finding.what, finding.mend, finding.why, finding.severity)
            findings += [told] if told not in findings else []
    if any(finding.severity == "error" for finding in findings):
        raise Refused(*findings)


def _contender(given: Any, findings: list[Finding]) -> Contender | None:
    if isinstance(given, str) and given.lstrip().startswith("{"):
        given = _mapping(given, findings)
    if by_role(given):
        return Contender("+".join(f"{role}={_role_told(one)}" for role, one in given.items()), [], {}, given)
    if isinstance(given, dict | list):
        parts = [_opened(part) for part in (given if isinstance(given, list) else [given])]
        label = "+".join(name + (f"({_told(options)})" if options else "") for name, options in parts)
    else:
        label, parts = re.sub(r"\s+", "", str(given)), []
        for text in _split(str(given), "+"):
            part = _parsed(text, findings)
            if part is None:
                return None
            parts.append(part)
    own = {key: value for _, options in parts for key, value in options.items() if key in OWN_KEYS}
    rest = [(name, {key: value for key, value in options.items() if key not in OWN_KEYS}) for name, options in parts]
    return Contender(label, rest, own)


def _mapping(text: str, findings: list[Finding]) -> Any:
    """``{vision: lora, text: full}`` as YAML has it."""
    try:
        return yaml.safe_load(re.sub(r":(?=\S)", ": ", text))
    except yaml.YAMLError:
        findings.append(_wrong(text, "this is no mapping", "write it as in a recipe: {vision: lora, text: full}"))
        return None


def _role_told(given: Any) -> str:
    if isinstance(given, dict):
        return "&".join(f"{name}({_told(own)})" if isinstance(own, dict) else f"{name}={own}" if own is not None
                        else name for name, own in given.items())  # fmt: skip
    return str(given)


def _opened(part: Any) -> tuple[str, dict[str, Any]]:
    """``"lora"`` and ``{"lora": {"rank": 4}}``, as a recipe has them."""
    if isinstance(part, dict) and len(part) == 1:
        ((name, options),) = part.items()
        return str(name), dict(options or {})
    return str(part), {}


def _told(options: dict[str, Any]) -> str:
    return ",".join(f"{key}={value}" for key, value in options.items()).replace(" ", "")


def _parsed(text: str, findings: list[Finding]) -> tuple[str, dict[str, Any]] | None:
    """``lora(rank=4, targets=[q, v])`` → ("lora", {"rank": 4, "targets": ["q", "v"]})."""
    match = NAME.fullmatch(text.strip())
    if match is None:
        findings.append(_wrong(text, "this is no method", "write a name, or name(option=value, ...)"))
        return None
    options = {}
    for pair in _split(match[2] or "", ","):
        key, equals, value = pair.partition("=")
        try:
            options[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            equals = ""
        if not equals:
            findings.append(_wrong(text, f"`{pair.strip()}` is no option", "write option=value, as in lora(rank=4)"))
            return None
    return match[1], options


def _split(text: str, sign: str) -> list[str]:
    """Parts at a sign that stands in no bracket, empty ones left out."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == sign and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def _wrong(where: str, what: str, mend: str) -> Finding:
    return Finding("compare.methods", f"--methods {where}" if where != "methods" else "--methods", what, mend)
