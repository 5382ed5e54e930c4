"""compare.json and compare.html: what several methods gave on the same rows, what each costs, and which to take."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from luthier.reports.compare_console import ordered
from luthier.reports.compare_parts import cells, costs, differences, forgetting, how, methods, missing, scores, search
from luthier.reports.data import findings_list
from luthier.reports.figures import count, duration, unbroken
from luthier.reports.html import document, footer, section
from luthier.reports.markup import Html, element, join, table

# A list of numbers is written on one line: thousands of outcomes, and a file that can still be read.
NUMBERS = re.compile(r"\[\s+((?:-?[\d.e+-]+|null)(?:,\s+(?:-?[\d.e+-]+|null))*)\s+\]")


def write_comparison(folder: Path, result: dict[str, Any]) -> None:
    """Both files, each whole or not at all."""
    _write(folder / "compare.json", to_json(result))
    _write(folder / "compare.html", page(result, folder.name))


def to_json(result: dict[str, Any]) -> str:
    text = json.dumps(result, indent=1, ensure_ascii=False, default=str)
    return NUMBERS.sub(lambda found: "[" + re.sub(r"\s+", "", found[1]) + "]", text) + "\n"


def _write(path: Path, text: str) -> None:
    unfinished = path.with_name(f"{path.name}.part")
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def page(result: dict[str, Any], name: str) -> str:
    """The whole document, from compare.json alone."""
    result = result | {"methods": ordered(result)}
    parts = [section(key, heading, part(result)) for key, heading, part in SECTIONS]
    return document(f"{name} · comparison", opening(result, name), parts, footer(result.get("luthier")))


def opening(result: dict[str, Any], name: str) -> Html:
    """What to take, and the facts of the comparison."""
    first = result["reasons"][0]
    take = (
        f"Take {result['recommended']}. " if len(result["tied"]) > 1 or "difference" in str(result["methods"]) else ""
    )
    kind = element("p", "Comparison", class_="kicker")
    return element(
        "header", kind, element("h1", name), element("p", unbroken(take + first), class_="verdict"), facts(result)
    )


def facts(result: dict[str, Any]) -> Html:
    rows, same = result["rows"], result["same"]
    spent = sum(cell.get("wall_seconds") or 0 for method in result["methods"] for cell in method["cells"])
    chosen = f"{count(rows['selection'])} to choose on" if rows["selection"] else "nothing is chosen"
    shown = [
        ("Task", result["task"], result["model"]),
        ("Methods", count(len(result["methods"])), f"{count(len(result['seeds']))} seed(s) each"),
        ("Rows to compare on", count(rows["evaluation"]), ", ".join(result["evaluation"])),
        ("Rows to train on", count(rows["train"]), chosen),
        ("Same for all", ", ".join(_words(key, value) for key, value in same.items()), "and the evaluation"),
        ("Time", duration(spent) if spent else None, "of all runs"),
    ]
    items = [
        element("div", element("dt", key), element("dd", value, element("small", aside)))
        for key, value, aside in shown
        if value
    ]
    return element("dl", items, class_="facts")


def _words(key: str, value: float) -> str:
    """ "1 epoch", "300 steps", "32 rows a batch"."""
    unit = {"epochs": "epoch", "steps": "step", "batch_size": "row"}[key]
    return f"{value:g} {unit}{'' if value == 1 else 's'}{' a batch' if key == 'batch_size' else ''}"


def recommendation(result: dict[str, Any]) -> Html:
    """The rest of the reasons, and the rule."""
    rest = [element("p", unbroken(reason)) for reason in result["reasons"][1:]]
    return join(rest, element("p", "The rule: ", result["rule"], class_="more"))


def machine(result: dict[str, Any]) -> Html:
    told = {**(result.get("machine") or {}), **(result.get("versions") or {}), "written": result.get("created")}
    rows: list[list[Any]] = [[key, value] for key, value in told.items()]
    return table(["What", "Value"], rows, caption="Machine and versions")


def findings(result: dict[str, Any]) -> Html:
    return findings_list(result["findings"]) if result["findings"] else Html("")


SECTIONS = (
    ("recommendation", "What to take", recommendation),
    ("scores", "Scores", scores),
    ("methods", "Methods", methods),
    ("missing", "Without a score", missing),
    ("costs", "Score against cost", costs),
    ("differences", "Differences from the best", differences),
    ("forgetting", "Forgetting", forgetting),
    ("rates", "Learning rates", search),
    ("how", "How it was measured", how),
    ("findings", "Findings", findings),
    ("runs", "Every run", cells),
    ("machine", "Machine and versions", machine),
)
