"""Small copies of the pictures of those rows that a run's report shows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from luthier.reports.folder import read_lines
from luthier.reports.gallery import thumbnail
from luthier.runs.folder import write_json
from luthier.types import Example

MOST = 4
SIDE = 128


def keep_thumbnails(folder: Path, examples: Iterable[Example]) -> None:
    """thumbnails.json: of each row in samples.jsonl and errors.jsonl by its source, up to four pictures as data URLs.
    No file where none of them has a picture."""
    told = {row["source"] for name in ("samples", "errors") for row in read_lines(folder / f"{name}.jsonl")}
    found: dict[str, Any] = {}
    for example in examples:
        if example.images and str(example.source) in told:
            found[str(example.source)] = [thumbnail(one, SIDE) for one in example.images[:MOST]]
    if found:
        write_json(folder / "thumbnails.json", found)
