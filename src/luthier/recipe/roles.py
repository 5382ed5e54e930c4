"""``method`` by role: ``{vision: lora, text: {adapter: {size: 8}, learning_rate: 1e-3}, projector: full}``.

A role has the name of a method, several as a list or as a mapping with their options, and a `learning_rate`; or it is
`frozen`.
"""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import Field

from luthier.methods import METHODS, SHORT_NAMES
from luthier.methods.by_role import FROZEN, ByRole, Tower
from luthier.methods.combine import Methods
from luthier.options import Options
from luthier.recipe.options import check_options, open_method, place_of
from luthier.types import ROLES, Finding, nearest

RATE = "learning_rate"


class Rate(Options):
    learning_rate: float | None = Field(None, gt=0, description="of a role, at its highest")


def by_role(method: Any) -> bool:
    """Whether methods are addressed by role: a mapping in which at least one key is a role, or nearly one."""
    if not isinstance(method, dict) or any(key in ROLES for key in method):
        return isinstance(method, dict)
    if any(key in METHODS or key in SHORT_NAMES for key in method):
        return False
    return any(difflib.get_close_matches(str(key), ROLES, n=1, cutoff=0.6) for key in method)


def read_towers(values: dict[str, Any], origins: dict[str, str], where: str, findings: list[Finding]) -> ByRole | None:
    """None where no role could be read; every mistake is a finding. ``values["method"]`` is left as it will be told."""
    towers: dict[str, Tower] = {}
    for role, given in values["method"].items():
        if role not in ROLES:
            place = place_of(f"method.{role}", origins, where)
            what = f"unknown role {role!r}" + (", a method beside roles" if role in METHODS else "")
            findings.append(Finding("recipe.method", place, what, nearest(str(role), ROLES)))
            continue
        made = _tower(role, given, values, origins, where, findings)
        if made is not None:
            towers[role] = made
    made_of = ByRole(towers) if towers else None
    values["method"] = made_of.told() if made_of else "lora"
    return made_of


def _tower(
    role: str, given: Any, values: dict[str, Any], origins: dict[str, str], where: str, findings: list[Finding]
) -> Tower | None:
    """The methods of a role; None where it has a mistake in it, which is told."""
    if given in (FROZEN, None, [FROZEN]):
        return Tower(None)
    place, rate, options, before = f"method.{role}", None, {}, len(findings)
    for name, own in _listed(given):
        if name == RATE:
            rate = own
            continue
        name, own = open_method(name, own, {}, origins, where, findings)
        if name not in METHODS:
            mend = nearest(str(name), [*METHODS, *SHORT_NAMES, FROZEN])
            findings.append(Finding("recipe.method", place_of(place, origins, where), f"unknown method {name!r}", mend))
        elif name in options:
            said = f"`{name}` is named twice"
            findings.append(Finding("method.combination", place_of(place, origins, where), said, "name it once"))
        else:
            kind, section = METHODS.load(name).Options, {} if own is None else own
            options[name] = check_options(kind, section, f"{place}.{name}.", origins, where, findings)
    if rate is not None:
        rate = check_options(Rate, {RATE: rate}, f"{place}.", origins, where, findings).learning_rate
    if not options and len(findings) == before:
        mend = f"give it one: {', '.join(METHODS)}; or `frozen`"
        findings.append(Finding("recipe.method", place_of(place, origins, where), f"`{role}` has no method", mend))
    return None if len(findings) > before else Tower(Methods(options), rate)


def _listed(given: Any) -> list[tuple[Any, Any]]:
    """(method or `learning_rate`, its options or value) of what a role is given."""
    if isinstance(given, dict):
        return list(given.items())
    return [pair for one in (given if isinstance(given, list) else [given])
            for pair in (one.items() if isinstance(one, dict) else [(one, None)])]  # fmt: skip
