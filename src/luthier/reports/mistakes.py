"""What was taken for what, and the rows that came out worst, each with its parts marked in the text."""

from __future__ import annotations

from typing import Any

from luthier.reports.figures import count
from luthier.reports.folder import Record, RunFolder
from luthier.reports.markup import Html, element, join, table

MATRIX = 12  # names up to which all pairs are shown, beyond it the most frequent mistakes
PAIRS = 20


def mistakes(folder: RunFolder) -> Html:
    details = (folder.result or {}).get("details") or {}
    return join(_confusion(details.get("confusion") or {}), _worst(details.get("worst") or []))


def _confusion(found: Record) -> Html | None:
    names, counts = found.get("names") or [], found.get("counts") or {}
    if not names:
        return None
    if len(names) <= MATRIX:
        rows: list[list[Any]] = [
            [name, *(_cell(counts.get(name, {}).get(other, 0), name == other) for other in names)] for name in names
        ]
        head = ["Expected ↓ found →", *names]
        return table(head, rows, caption="What was taken for what", numeric={*range(1, len(head))})
    pairs = [(number, a, b) for a, row in counts.items() for b, number in row.items() if a != b]
    rows = [[a, b, count(number)] for number, a, b in sorted(pairs, key=lambda pair: -pair[0])[:PAIRS]]
    return table(["Expected", "Found", "Times"], rows, caption="The most frequent mistakes", numeric={2})


def _cell(number: int, right: bool) -> Any:
    return element("b", count(number)) if right else count(number) if number else ""


def _worst(rows: list[Record]) -> Html | None:
    if not rows:
        return None
    shown = [
        element(
            "article",
            element("p", element("code", row["source"]), class_="aside"),
            element("dl", _line("Target", row["text"], row["expected"]), _line("Found", row["text"], row["found"])),
            class_="sample",
        )
        for row in rows
    ]
    return join(element("h3", "The worst rows"), shown)


def _line(name: str, text: str, spans: list[Record]) -> Html:
    return element("div", element("dt", name), element("dd", marked(text, spans)), class_=name.lower())


def marked(text: str, spans: list[Record]) -> Html:
    """The text with its parts as ``<mark>``, each followed by its label."""
    parts: list[Any] = []
    at = 0
    for span in spans:
        inside = element("mark", text[span["start"] : span["end"]], element("small", span["label"]))
        parts += [text[at : span["start"]], inside]
        at = span["end"]
    return join(parts, text[at:])
