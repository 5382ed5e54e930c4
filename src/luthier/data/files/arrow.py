"""Tables of columns: Parquet files, and the folders that the datasets library saves to disk.

What a data set on a hub says of its columns stands in the table's own metadata: a class is read by its name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from luthier.types import Finding

if TYPE_CHECKING:
    from luthier.data.files.reading import Reading

STATE = "state.json"
NO_ROWS = ("dataset_info.json", STATE, "dataset_dict.json")
"""Files that say what a saved data set is, and hold no rows."""


def read_parquet(stream: IO[bytes], reading: Reading) -> None:
    """A row's line is its index, counted from 1."""
    _read(stream, reading, "Parquet")


def read_arrow(stream: IO[bytes], reading: Reading) -> None:
    """The same of ``data-00000-of-00001.arrow``, as ``Dataset.save_to_disk`` writes it."""
    _read(stream, reading, "Arrow")


def is_saved(folder: Path) -> bool:
    """Whether a folder is what ``Dataset.save_to_disk`` makes."""
    return (folder / STATE).is_file() and any(folder.glob("*.arrow"))


def _read(stream: IO[bytes], reading: Reading, form: str) -> None:
    try:
        import pyarrow
    except ImportError:
        what, mend = f"reading {form} needs pyarrow", 'install it: pip install "luthier[data]"'
        reading.findings.append(Finding("data.needs-extra", reading.file, what, mend))
        return
    try:
        schema, batches = _opened(stream, form)
        named = _classes(schema.metadata or {})
        for batch in batches:
            for row in batch.to_pylist():
                reading.line += 1
                for column, names in named.items():
                    if isinstance(at := row.get(column), int):  # -1 is how hidden labels are written
                        row[column] = names[at] if 0 <= at < len(names) else None
                reading.add(reading.line, row)
    except pyarrow.ArrowException as error:
        reason = str(error).splitlines()[0]
        reading.bad(reading.line + 1, f"not a valid {form} file ({reason})", "get the file again")


def _opened(stream: IO[bytes], form: str) -> tuple[Any, Iterator[Any]]:
    """The schema and the batches of a file."""
    if form == "Arrow":
        from pyarrow import ipc

        opened = ipc.open_stream(stream)
        return opened.schema, iter(opened)
    from pyarrow.parquet import ParquetFile

    table = ParquetFile(stream)
    return table.schema_arrow, table.iter_batches()


def _classes(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    """The names of the classes of each column that has any."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {
            column: [str(name) for name in told["names"]]
            for column, told in features.items()
            if isinstance(told, dict) and told.get("_type") == "ClassLabel" and told.get("names")
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}
