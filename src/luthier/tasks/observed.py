"""Observations as a policy is given them, and an episode with another one's words or pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from luthier.data.formats.choose import to_example
from luthier.data.formats.episodes import BESIDE_EPISODE, EPISODE, IMAGE
from luthier.types import INLINE, Example, Refused

SHOWN = 40  # actions of an episode
UNDONE = "?"  # stands where an action is asked for, while a row is read


def observed(given: Any) -> Example:
    """``{"image", "instruction", "state"}`` as they are now, or those of an episode so far as its ``trajectory``.

    Raises Refused with what is wrong.
    """
    row = dict(given) if isinstance(given, dict) else {"image": given}
    name = next((name for name in EPISODE["trajectory"] if name in row), "")
    if not name:
        step = {part: row[part] for part in (*IMAGE, "state") if row.get(part) is not None}
        text = next((row[one] for one in (*BESIDE_EPISODE["instruction"], "text") if row.get(one) is not None), None)
        row, name = {"trajectory": [step], "instruction": text, "units": row.get("units")}, "trajectory"
    done = isinstance(row[name], list) and all(isinstance(one, dict) and "action" in one for one in row[name])
    if not done and isinstance(row[name], list):
        row[name] = [one | {"action": UNDONE} if isinstance(one, dict) else one for one in row[name]]
    found = to_example(INLINE, row, "episode")
    if not isinstance(found, Example):
        raise Refused(*found)
    if not done:
        found.steps = [replace(step, action=None) for step in found.steps or ()]
    return found


def other_text(examples: Sequence[Example], at: int) -> Example | None:
    """The example with the instruction of the next one that has another; None where all have one."""
    own = examples[at]
    others = (examples[(at + by) % len(examples)].text for by in range(1, len(examples)))
    other = next((text for text in others if text != own.text), None)
    return None if other is None else replace(own, text=other)


def other_pictures(examples: Sequence[Example], at: int) -> Example | None:
    """The example with the pictures of the next one, again from the first where those are fewer."""
    own, other = examples[at], examples[(at + 1) % len(examples)]
    if not own.images or not other.images or own.images == other.images:
        return None
    return replace(own, images=[other.images[place % len(other.images)] for place in range(len(own.images))])


def told_actions(actions: Sequence[Any]) -> str:
    """Actions as a reader should see them: names, or numbers to three digits."""
    told = [one if isinstance(one, str) else f"({', '.join(f'{value:.3g}' for value in one)})" for one in actions
            if one is not None]  # fmt: skip
    return ", ".join(told[:SHOWN]) + (", …" if len(told) > SHOWN else "")
