"""Rows that are an instruction and what is done to follow it: a list of steps, or a sequence of commands.

    {"instruction": "Warm the cup.", "steps": ["take the cup", "open the microwave"]}
    {"command": "jump twice", "actions": "I_JUMP I_JUMP"}

A step is a text, or an object with its ``action`` and ``args``. One text is a sequence as it is written.
"""

from __future__ import annotations

from typing import Any

from luthier.data.files.reading import kind
from luthier.data.formats.fields import Fields
from luthier.types import Example

PLAN = {"instruction": ("instruction", "command", "goal", "task"), "steps": ("steps", "plan", "actions")}
LINE = "\n"
"""Between the steps of a list, in the example's target."""


def instruction_steps(fields: Fields) -> Example:
    """Text, and one target: the steps of a list a line each."""
    column, given = fields.column("steps"), fields.get("steps")
    if isinstance(given, str):
        target = fields.text("steps", target=True)
    elif isinstance(given, list) and given:
        target = LINE.join(_step(fields, one, f"{column}[{at}]") for at, one in enumerate(given))
    else:
        told = "an empty list" if given == [] else kind(given)
        fields.report("data.empty-target", column, f"must be a list of steps or a text, this is {told}")
        target = ""
    return Example(fields.source, text=fields.text("instruction", target=True), targets=[target])


def _step(fields: Fields, given: Any, at: str) -> str:
    """One line."""
    if isinstance(given, dict) and isinstance(given.get("action"), str):
        args = given.get("args") or []
        given = " ".join([given["action"], *map(str, args if isinstance(args, list) else [args])])
    if not isinstance(given, str):
        fields.report("data.type", at, f"a step is a text, or an object with an `action`, this is {kind(given)}")
        return ""
    if not given.strip():
        fields.report("data.empty-target", at, "is empty: there is nothing to do")
    return " ".join(given.split())
