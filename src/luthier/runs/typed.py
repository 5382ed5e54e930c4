"""What a person types as an input: a text, a whole row as JSON, or the name of a file of rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.data.files.read import read_rows
from luthier.data.formats.audio import AUDIO
from luthier.data.formats.rows import FORMATS, IMAGE
from luthier.tasks.chat import asked_of
from luthier.types import Refused

ASKING = {"messages", "prompt", "question", "context", "text", "texts", "labels", "adapter"}
"""Columns that rows have which ask something."""
FILES = {*IMAGE, *AUDIO, "sounds", "audios", "path", "url", "image_url"}
"""Columns, and keys of parts of turns, that name a picture or a sound."""
WITHIN = {"messages", "conversations", "prompt", "content", "value", "trajectory", "frames"}


def typed_inputs(lines: Sequence[str], formats: Sequence[str]) -> list[Any]:
    """Each line as it is; or the row that it holds, where it is a JSON object with a column that such rows have.

    ``formats`` are those of the run's task. Any other object is a text: a model may be one that sorts JSON.
    """
    kinds = [FORMATS[name] for name in formats]
    columns = {name for kind in kinds for held in (*kind.needs.values(), *kind.may.values()) for name in held}
    return [_typed(line, columns | ASKING) for line in lines]


def turns(said: Any, shown: Sequence[str] = ()) -> list[dict[str, Any]]:
    """What is said in a conversation as its turns: a text, or a row; its pictures, after ``shown``, stand first."""
    row = said if isinstance(said, dict) else {}
    if isinstance(given := row.get("messages", row.get("prompt")), list):
        return given
    named: Any = next((row[name] for name in IMAGE if row.get(name)), [])
    pictures = [*shown, *(named if isinstance(named, list) else [named])]
    parts = [{"type": "image", "image": one} for one in pictures]
    text = asked_of(said)
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}] if parts else text}]


def _typed(line: str, columns: set[str]) -> Any:
    if not line.lstrip().startswith("{"):
        return line
    try:
        row = json.loads(line)
    except ValueError:
        return line
    return row if isinstance(row, dict) and columns & row.keys() else line


def rows_to_answer(path: str, columns: Mapping[str, str], images: Sequence[Path]) -> list[dict[str, Any]]:
    """The rows of a file, which need no targets: under our names, and with the paths of pictures and sounds in full.

    They are relative to the file, or else to one of the folders ``images``. Raises Refused for what can't be read.
    """
    rows, findings = read_rows(path, base=Path.cwd())
    errors = [one for one in findings if one.severity == "error" and not (rows and one.code == "data.missing")]
    if errors:
        raise Refused(*errors)
    named = []
    for source, row in rows:
        ours = {our: row[theirs] for our, theirs in columns.items() if theirs in row and our not in row}
        folders = [(Path.cwd() / source.file).parent, *images]
        named.append({name: _whole(name, value, folders) for name, value in (row | ours).items()})
    return named


def _whole(name: str, value: Any, folders: Sequence[Path]) -> Any:
    """A value of a row, with each path in it that leads somewhere in full."""
    if name not in FILES | WITHIN:
        return value
    if isinstance(value, list):
        return [_whole(name, one, folders) for one in value]
    if isinstance(value, dict):
        return {key: _whole(key, one, folders) for key, one in value.items()}
    if name in FILES and isinstance(value, str) and value:
        return next((str(folder / value) for folder in folders if (folder / value).is_file()), value)
    return value
