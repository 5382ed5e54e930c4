"""What a person types as an input: a text, or a whole row as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from luthier.data.rows import FORMATS

ASKING = {"messages", "prompt", "question", "context", "text", "texts", "labels", "adapter"}
"""Columns that rows have which ask something."""


def typed_inputs(lines: Sequence[str], formats: Sequence[str]) -> list[Any]:
    """Each line as it is; or the row that it holds, where it is a JSON object with a column that such rows have.

    ``formats`` are those of the run's task. Any other object is a text: a model may be one that sorts JSON.
    """
    kinds = [FORMATS[name] for name in formats]
    columns = {name for kind in kinds for held in (*kind.needs.values(), *kind.may.values()) for name in held}
    return [_typed(line, columns | ASKING) for line in lines]


def _typed(line: str, columns: set[str]) -> Any:
    if not line.lstrip().startswith("{"):
        return line
    try:
        row = json.loads(line)
    except ValueError:
        return line
    return row if isinstance(row, dict) and columns & row.keys() else line
