"""Rows that are an episode: what was asked for, and step by step what was seen and done.

    {"instruction": "go to the red ball",
     "trajectory": [{"image": "a/0.png", "action": "left"}, {"image": "a/1.png", "action": "forward"}]}
    {"instruction": "lift the cup", "units": "m, rad",
     "trajectory": [{"image": ["top.png", "hand.png"], "state": [0.1, 0.0], "action": [0.01, -0.2]}]}

An action is a name (or a whole number, which is one too), or a list of numbers; a state is a list of numbers. In one
episode all steps have as many pictures, numbers of a state and numbers of an action as its first one.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from luthier.data.files.reading import kind
from luthier.data.formats.fields import Fields
from luthier.types import Example, Picture, Step

EPISODE = {"trajectory": ("trajectory", "frames")}
BESIDE_EPISODE = {"instruction": ("instruction", "mission", "task", "language_instruction"), "units": ("units",)}
IMAGE = ("image", "images", "picture")


def episode(fields: Fields) -> Example:
    """Text, all pictures in order, and the steps."""
    column, given = fields.column("trajectory"), fields.get("trajectory")
    images: list[Picture] = []
    if not isinstance(given, list) or not given:
        told = "an empty list" if given == [] else kind(given)
        fields.report("data.type", column, f"must be a list of steps, this is {told}")
        given = []
    steps = [_step(fields, one, f"{column}[{at}]", images) for at, one in enumerate(given)]
    _alike(fields, steps, column)
    text = fields.optional("instruction") or None
    return Example(fields.source, text=text, images=images or None, steps=steps, units=fields.optional("units") or None)


def _step(fields: Fields, given: Any, at: str, images: list[Picture]) -> Step:
    """One step; its pictures go to the end of ``images``."""
    if not isinstance(given, dict):
        fields.report("data.type", at, f"a step is an object, this is {kind(given)}")
        return Step()
    pictures, first = _pictures(fields, given, at), len(images)
    images += pictures
    state = None if given.get("state") is None else numbers(fields, given["state"], f"{at}.state")
    action: Any = given.get("action")
    if isinstance(action, list):
        action = numbers(fields, action, f"{at}.action")
    elif isinstance(action, bool) or not isinstance(action, str | int) or action == "":
        told = "is missing" if action is None else f"is a name or a list of numbers, this is {kind(action)}"
        fields.report("data.action", f"{at}.action", told, "give what was done at this step")
        action = None
    else:
        action = str(action)
    if not pictures and state is None:
        fields.report("data.action", at, "has neither a picture nor a state: there is nothing to act on")
    return Step(tuple(range(first, len(images))), state, action)


def _pictures(fields: Fields, given: dict[str, Any], at: str) -> list[Picture]:
    name = next((name for name in IMAGE if given.get(name) is not None), None)
    if name is None:
        return []
    found: list[Picture] = []
    for one in given[name] if isinstance(given[name], list) else [given[name]]:
        one = one.get("bytes") or one.get("path") if isinstance(one, dict) else one
        if isinstance(one, bytes):
            found.append(one)
        elif isinstance(one, str) and one.strip():
            found.append(Path(one))
        else:
            fields.report("data.type", f"{at}.{name}", f"must be the path of a picture, this is {kind(one)}")
    return found


def numbers(fields: Fields, given: Any, at: str) -> tuple[float, ...]:
    """A list of finite numbers."""
    listed = given if isinstance(given, list) else [given]
    good = [isinstance(one, int | float) and not isinstance(one, bool) and math.isfinite(float(one)) for one in listed]
    if not listed or not all(good):
        bad = listed[good.index(False)] if listed else given
        fields.report("data.action", at, f"must be a list of finite numbers, and holds {bad!r}")
        return ()
    return tuple(float(one) for one in listed)


def _alike(fields: Fields, steps: list[Step], column: str) -> None:
    """Every step is made as the first one is."""
    if fields.findings or not steps:
        return
    first = _shape(steps[0])
    for at, step in enumerate(steps):
        for name, here, there in zip(("image", "state", "action"), _shape(step), first, strict=True):
            if here != there:
                what = f"has {here}, and the first step {there}"
                fields.report("data.action", f"{column}[{at}].{name}", what, "make all steps of a row alike")


def _shape(step: Step) -> tuple[str, str, str]:
    state = "no state" if step.state is None else f"{len(step.state)} numbers"
    action = f"{len(step.action)} numbers" if isinstance(step.action, tuple) else "a name"
    return f"{len(step.images)} picture(s)", state, action
