"""Pictures as folders of classes and as tar shards: rows made of what the files are called.

**Classes** (as ImageNet is kept): ``photos/dress/1.jpg`` is a row with the picture and the label ``dress``.

**WebDataset** (github.com/webdataset/webdataset): files of a tar that are called alike up to the first dot are one
row, ``a/17.jpg`` and ``a/17.cls``. Pictures (``.jpg``, ``.png``, ...) are its ``image``, or ``images``, in the order
of their endings; ``.cls`` is its ``label``, ``.txt`` its ``text``, and what a ``.json`` holds are columns; any other
text file is a column under its ending. Nothing is unpacked to disk.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import IO, Any

from luthier.data.files.reading import Reading, Row
from luthier.data.media.pictures import ENDINGS
from luthier.types import Finding, Source

COLUMNS = {"cls": "label", "txt": "text"}
MOST_BYTES = 500_000_000
"""Of one file in a tar."""


def class_folders(target: Path) -> list[Path]:
    """Folders right in ``target`` that hold pictures, at whatever depth."""
    inside = sorted(one for one in target.iterdir() if one.is_dir() and not one.name.startswith("."))
    return [one for one in inside if any(path.suffix.lower() in ENDINGS for path in one.rglob("*"))]


def read_classes(target: Path, shown: str, classes: list[Path]) -> tuple[list[Row], list[Finding]]:
    """A row for each picture, called by its own path; files that are no pictures are counted."""
    rows: list[Row] = []
    others: list[str] = []
    for folder in classes:
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
            name = path.relative_to(target).as_posix()
            if path.suffix.lower() not in ENDINGS:
                others.append(name)
                continue
            rows.append((Source(f"{shown.rstrip('/')}/{name}", 1), {"image": path.name, "label": folder.name}))
    findings = []
    if others:
        what = f"{len(others)} in its classes not read: {', '.join(others[:10])}{', ...' if len(others) > 10 else ''}"
        findings.append(Finding("data.unknown-file", shown, what, severity="warning"))
    return rows, findings


def read_tar(stream: IO[bytes], reading: Reading) -> None:
    """A row's line is its number in the tar."""
    key = ""
    parts: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=stream, mode="r|*") as opened:
            for member in opened:
                folder, _, name = member.name.rpartition("/")
                stem, dot, ending = name.partition(".")
                if not member.isfile() or not stem or not dot:
                    continue
                if member.size > MOST_BYTES:
                    reading.bad(reading.line + 1, f"{member.name} has {member.size:,} bytes, over {MOST_BYTES:,}")
                    continue
                if (own := f"{folder}/{stem}") != key:
                    _add(reading, key, parts)
                    key, parts = own, {}
                held = opened.extractfile(member)
                parts[ending.lower()] = held.read() if held is not None else b""
        _add(reading, key, parts)
    except (tarfile.TarError, EOFError) as error:
        reading.bad(reading.line + 1, f"the tar is broken from here on ({error})", "get the file again")


def _add(reading: Reading, key: str, parts: dict[str, bytes]) -> None:
    if not parts:
        return
    reading.line += 1
    row: dict[str, Any] = {}
    pictures = sorted(ending for ending in parts if f".{ending.rpartition('.')[2]}" in ENDINGS)
    for ending in sorted(parts.keys() - {*pictures}, key=lambda one: one != "json"):
        try:
            text = parts[ending].decode("utf-8")
            found = json.loads(text) if ending == "json" else text.strip()
        except ValueError as error:
            reading.bad(reading.line, f"{key.lstrip('/')}.{ending} can't be read ({error})")
            return
        row |= found if ending == "json" and isinstance(found, dict) else {COLUMNS.get(ending, ending): found}
    if pictures:
        held = [parts[ending] for ending in pictures]
        row.pop("images" if len(held) == 1 else "image", None)
        row |= {"image": held[0]} if len(held) == 1 else {"images": held}
    reading.add(reading.line, row)
