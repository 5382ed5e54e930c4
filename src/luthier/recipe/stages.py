"""Several runs in one recipe, each beginning where others ended: instruction tuning → reward model → PPO.

What stands beside ``stages:`` is every stage's; what a stage says itself comes first. ``stage:NAME`` stands for what an
earlier one left: as ``model`` its model, anywhere else its run folder.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from luthier.types import Finding

KEY, MARK = "stages", "stage:"


@dataclass(frozen=True)
class Stage:
    """``values`` and ``origins`` as ``recipe/validate.py`` takes them; ``model`` is what it begins with."""

    name: str
    values: dict[str, Any]
    origins: dict[str, str]

    @property
    def model(self) -> Any:
        model = self.values.get("model")
        return model.get("name") if isinstance(model, dict) else model

    def filled(self, model: Callable[[str], Any], run: Callable[[str], str | None]) -> dict[str, Any]:
        """The values with each mention replaced; ``run`` may give None, and what mentions it is then left out.
        ``model`` gives a name, or the towers of one that is composed."""
        values = copy.deepcopy(self.values)
        if (named := mentioned(self.model)) is not None:
            found, given = model(named), values["model"]
            if isinstance(given, dict):
                own = {key: value for key, value in given.items() if key != "name"}
                values["model"] = own | (found if isinstance(found, dict) else {"name": found})
            else:
                values["model"] = found
        return {key: filled for key, value in values.items() if (filled := _filled(value, run)) is not None}


def split(values: dict[str, Any], origins: dict[str, str], where: str) -> tuple[list[Stage], list[Finding]]:
    """The stages in their order, and what is wrong with what they mention."""
    given = values.get(KEY)
    if not isinstance(given, dict) or not given or not all(isinstance(one, dict) for one in given.values()):
        what, mend = "stages are names with a recipe's keys each", "write `stages: {tuned: {task: chat}, ...}`"
        return [], [Finding("recipe.stages", f"{where}:{KEY}", what, mend)]
    shared = {key: value for key, value in values.items() if key != KEY}
    stages: list[Stage] = []
    findings: list[Finding] = []
    for name, own in given.items():
        prefix = f"{KEY}.{name}."
        mine = {key.removeprefix(prefix): origin for key, origin in origins.items() if key.startswith(prefix)}
        merged = _merged(shared, own)
        for other in sorted(set(_mentions(merged))):
            if other not in [stage.name for stage in stages]:
                known = ", ".join(stage.name for stage in stages) or "none"
                what = f"`{MARK}{other}` names no stage before this one"
                place = origins.get(prefix.rstrip("."), f"{where}:{prefix.rstrip('.')}")
                findings.append(Finding("recipe.stages", place, what, f"stages before it: {known}"))
        stages.append(Stage(str(name), merged, {**origins, **mine}))
    return stages, findings


def mentioned(value: Any) -> str | None:
    return value.removeprefix(MARK) if isinstance(value, str) and value.startswith(MARK) else None


def _mentions(value: Any) -> Iterator[str]:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _mentions(inner)
    elif (named := mentioned(value)) is not None:
        yield named


def _filled(value: Any, run: Callable[[str], str | None]) -> Any:
    """None where nothing is left: an entry of a list whose run is not there goes as a whole."""
    if isinstance(value, list):
        kept = [_filled(inner, run) for inner in value if all(run(name) is not None for name in _mentions(inner))]
        return kept if kept or not value else None
    if isinstance(value, dict):
        filled = {key: inner for key, one in value.items() if (inner := _filled(one, run)) is not None or one is None}
        return filled if filled or not value else None
    named = mentioned(value)
    return value if named is None else run(named)


def _merged(shared: Any, own: Any) -> Any:
    if isinstance(shared, dict) and isinstance(own, dict):
        return {**shared, **{key: _merged(shared.get(key), value) for key, value in own.items()}}
    return copy.deepcopy(own)
