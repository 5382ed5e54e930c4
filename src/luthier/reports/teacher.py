"""Student and teacher on the same rows held out, and how much of the gap between them was closed."""

from __future__ import annotations

from typing import Any

from luthier.reports.figures import decimals, label, span
from luthier.reports.folder import Record, RunFolder
from luthier.reports.markup import Html, element, join, table


def teacher(folder: RunFolder) -> Html:
    """Nothing for a run without a teacher, or without rows held out."""
    result = folder.result or {}
    found = result.get("teacher")
    if not found or not result.get("after"):
        return Html("")
    before, after, metrics = result.get("before") or {}, result["after"], found["metrics"]
    names = sorted((name for name in after if name in metrics), key=lambda name: name != result["metric"])
    rows = [_row(name, before.get(name), after[name], metrics[name]) for name in names]
    head = ["Metric", "Student before", "Student after", "Teacher", "95 % interval of the teacher"]
    numbers = table(head, rows, caption="Student and teacher on the same rows", numeric={1, 2, 3, 4})
    return join(element("p", sentence(result)), numbers)


def sentence(result: Record) -> str:
    """ "The teacher runs/big reaches accuracy 0.87 on the same rows: the student closed 76 % of the gap." """
    found, name = result["teacher"], result["metric"]
    theirs, after = found["metrics"][name], result["after"][name]
    places = decimals(theirs, after)
    text = f"The teacher {found['name']} reaches {label(name)} {theirs['value']:.{places}f} on the same rows"
    before = (result.get("before") or {}).get(name)
    up = 1 if result["higher_is_better"] else -1
    if found["closed"] is None or before is None or up * (theirs["value"] - before["value"]) <= 0:
        return f"{text}, no better than the student before training."
    if up * (after["value"] - theirs["value"]) >= 0:
        return f"{text}: the student is level with it or above."
    if found["closed"] < 0:
        return f"{text}: the student is further from it than before."
    return f"{text}: the student closed {found['closed']:.0%} of the gap."


def _row(name: str, before: Record | None, after: Record, theirs: Record) -> list[Any]:
    places = decimals(theirs, after)
    values = [f"{one['value']:.{places}f}" if one else "–" for one in (before, after, theirs)]
    return [label(name), values[0], element("b", values[1]), values[2], span(theirs, places) or "–"]
