"""Read a run folder as it is on disk: whole, stopped half-way, or still being written."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luthier.types import Finding, Refused

Record = dict[str, Any]


@dataclass(frozen=True)
class RunFolder:
    """What the files of a run say. ``result`` is None until the run has written one."""

    path: Path
    run: Record
    result: Record | None
    records: list[Record]
    samples: list[Record]
    recipe: str
    errors: list[Record] = field(default_factory=list)
    confusion: Record | None = None
    thumbnails: dict[str, list[str | None]] = field(default_factory=dict)
    """Of a row, by its source: its pictures as data URLs."""

    def kind(self, kind: str) -> list[Record]:
        return [record for record in self.records if record.get("kind") == kind]

    def metric(self, when: str) -> Record | None:
        """The chosen metric "before" or "after" training, where it was measured and is a number."""
        result = self.result or {}
        found = (result.get(when) or {}).get(result.get("metric"))
        return found if found and found.get("value") is not None else None


def read_run(path: Path) -> RunFolder:
    """Raises Refused where there is no ``run.json``; every other file may be missing."""
    path = Path(path)
    if not (path / "run.json").is_file():
        mend = "give the folder of a run; `luthier ls runs` lists them"
        raise Refused(Finding("run.missing", str(path), "there is no run.json in this folder", mend))
    result = path / "result.json"
    recipe, confused, shown = path / "recipe.yaml", path / "confusion.json", path / "thumbnails.json"
    return RunFolder(
        path=path,
        run=loads((path / "run.json").read_text(encoding="utf-8")),
        result=loads(result.read_text(encoding="utf-8")) if result.is_file() else None,
        records=_once(read_lines(path / "metrics.jsonl")),
        samples=read_lines(path / "samples.jsonl"),
        recipe=recipe.read_text(encoding="utf-8") if recipe.is_file() else "",
        errors=read_lines(path / "errors.jsonl"),
        confusion=loads(confused.read_text(encoding="utf-8")) if confused.is_file() else None,
        thumbnails=loads(shown.read_text(encoding="utf-8")) if shown.is_file() else {},
    )


def loads(text: str) -> Any:
    """JSON with null for NaN and infinities, which Python's reader would let through."""
    return json.loads(text, parse_constant=lambda name: None)


def read_lines(path: Path) -> list[Record]:
    """The objects of a JSON-lines file. A line that a kill tore in two is passed over."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            record = loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def _once(records: list[Record]) -> list[Record]:
    """One record for each (kind, step), the last; an evaluation repeated after a resume is shown once."""
    last = {(record.get("kind"), record.get("step")): at for at, record in enumerate(records)}
    return [
        record
        for at, record in enumerate(records)
        if record.get("kind") == "event" or last[record.get("kind"), record.get("step")] == at
    ]


def recipe_rows(text: str) -> list[tuple[str, str, str]]:
    """(dotted key, value, origin) of each line of a resolved recipe, ``key: value  # origin``."""
    rows, section = [], ""
    for line in text.splitlines():
        body, mark, origin = line.rpartition("  # ")
        body = body if mark else line
        key, colon, value = body.strip().partition(":")
        section = section if line.startswith(" ") else ""
        if colon and not value.strip():
            section = f"{key}."
        elif colon:
            rows.append((section + key, value.strip(), origin.strip() if mark else ""))
        elif body.strip():
            rows.append(("", body.strip(), ""))
    return rows
