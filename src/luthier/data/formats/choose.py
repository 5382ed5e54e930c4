"""Which format the rows of a file have, and files to examples."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luthier.data.files.read import LIMIT_BAD, Row, bad_rows, read_rows
from luthier.data.formats.fields import Columns, Format
from luthier.data.formats.rows import FORMATS, to_example
from luthier.types import Example, Finding

__all__ = ["FORMATS", "ReadResult", "read_examples", "recognise", "to_example"]

ENTRY_KEYS = {"path", "weight", "share"}


@dataclass
class ReadResult:
    """What was read: ``rows_read`` = examples + rows that ``findings`` say are bad.

    ``format`` is a key of ``FORMATS``, several joined by " + " where files differ but all hold conversations, or None
    where none was recognised.
    """

    examples: list[Example] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    format: str | None = None
    rows_read: int = 0


def recognise(
    rows: Sequence[Row], columns: Columns | None = None, *, where: str = "data", prefer: Sequence[str] = ()
) -> str | list[Finding]:
    """The name of the one format that the rows have (a key of ``FORMATS``), or why there is none.

    Looks at every row. The formats that a task takes are tried first (``prefer``), so that the same columns may be a
    conversation to one and a question with its context to another. ``columns`` maps our names to the file's columns
    and narrows the choice to the formats that know them all. A minority of rows that fit no format is left to
    ``to_example``, which says what each lacks.
    """
    columns = columns or {}
    order = [*prefer, *(name for name in FORMATS if name not in prefer)]
    formats = {name: FORMATS[name] for name in order if FORMATS[name].knows(columns)}
    problems = _column_problems(rows, columns, where)
    if problems or not rows:
        return problems or [Finding("data.empty", where, "has 0 rows")]
    if not formats:
        names = ", ".join(columns)
        known = "; ".join(f"{name}: {', '.join([*fmt.needs, *fmt.may])}" for name, fmt in FORMATS.items())
        return [Finding("data.columns", "columns", f"no format has all of {names}", f"the formats are {known}")]
    groups = _group(rows, formats, columns)
    unknown = groups.pop(None, [])
    if not groups or 2 * len(unknown) > len(rows):
        return [_unknown(unknown, len(rows), formats, columns)]
    if len(groups) > 1:
        counts = [f"{len(sources)} rows are {name} (first: {sources[0][0]})" for name, sources in groups.items()]
        mend = "split the file by format, or map one with columns:"
        return [Finding("data.mixed-formats", where, "; ".join(counts), mend)]
    return str(next(iter(groups)))


def read_examples(
    paths: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]],
    *,
    base: Path,
    columns: Columns | None = None,
    fmt: str | None = None,
    limit_bad: int = LIMIT_BAD,
    prefer: Sequence[str] = (),
    change: Callable[[list[Row]], tuple[list[Row], list[Finding]]] | None = None,
    images: Sequence[Path] = (),
) -> ReadResult:
    """Read one or several files to examples.

    Each path is what ``read_rows`` takes, or ``{"path": ..., "weight": ...}``, where the weight multiplies the loss
    of each of its rows. ``fmt`` names the format instead of recognising it; of those that fit, the
    ones in ``prefer`` come first. ``change`` is done to the rows of a file before their format is recognised; rows
    that it leaves out it tells as findings. Pictures that do not lie beside the file that names them are looked for in
    the folders ``images``. Nothing is raised: problems are findings.
    """
    result = ReadResult()
    entries = [paths] if isinstance(paths, str | Mapping) else paths
    if fmt is not None and fmt not in FORMATS:
        near = difflib.get_close_matches(fmt, FORMATS, n=1)
        mend = f"did you mean {near[0]}?" if near else f"the formats are {', '.join(FORMATS)}"
        result.findings.append(Finding("data.unknown-format", "format", f"{fmt!r} is not a format", mend))
        return result
    formats: list[tuple[str, str]] = []
    for number, entry in enumerate(entries):
        path, weight = _entry(entry, result.findings)
        if not path:
            continue
        rows, findings = read_rows(path, base=base, limit_bad=limit_bad)
        result.findings += findings
        result.rows_read += len(rows) + bad_rows(findings)
        if any(finding.code == "data.missing" for finding in findings):
            continue  # questions whose answers are not there
        if change is not None and rows:
            rows, findings = change(rows)
            result.findings += findings
        if not rows:
            continue
        found: str | list[Finding] = _column_problems(rows, columns or {}, path) if fmt else []
        found = found or fmt or recognise(rows, columns, where=path, prefer=prefer)
        if isinstance(found, str):
            formats.append((path, found))
            _convert(rows, found, columns, (number, weight), (base, images), result)
        else:
            result.findings += found or []
    _join_formats(formats, result)
    return result


def _convert(
    rows: Iterable[Row], fmt: str, columns: Columns | None, entry: tuple[int, float],
    places: tuple[Path, Sequence[Path]], result: ReadResult,
) -> None:  # fmt: skip
    for source, row in rows:
        example = to_example(source, row, fmt, columns)
        if isinstance(example, Example):
            example.entry = entry[0]
            _locate_files(example, *places)
            example.weight *= entry[1]
            result.examples.append(example)
        else:
            result.findings += example


def _locate_files(example: Example, base: Path, images: Sequence[Path]) -> None:
    """Paths are relative to the file that names them; those of pictures, or else to one of the folders ``images``."""
    folder = (base / example.source.file).parent
    for some in (example.images, example.negative_images):
        if some:
            some[:] = [one if isinstance(one, bytes) else _located(one, folder, images) for one in some]
    if example.sounds:
        example.sounds = [folder / one if isinstance(one, Path) else one for one in example.sounds]


def _located(picture: Path, folder: Path, images: Sequence[Path]) -> Path:
    """Where it is first found; where it is not, in the last folder."""
    places = [folder / picture, *(one / picture for one in images)]
    return next((place for place in places if place.exists()), places[-1])


def _join_formats(formats: list[tuple[str, str]], result: ReadResult) -> None:
    names = list(dict.fromkeys(name for _, name in formats))
    result.format = " + ".join(names) or None
    if len(names) > 1 and not all(FORMATS[name].talks for name in names):
        what = "files of different kinds make no one set: " + "; ".join(f"{path} is {name}" for path, name in formats)
        result.findings.append(Finding("data.mixed-formats", "data", what, "train on them one at a time"))


def _entry(entry: str | Mapping[str, Any], findings: list[Finding]) -> tuple[str, float]:
    if isinstance(entry, str):
        return entry, 1.0
    if not isinstance(entry.get("path"), str):
        findings.append(Finding("data.missing", "data", f"{dict(entry)} names no path", "write {path: rows.jsonl}"))
        return "", 1.0
    for key in entry.keys() - ENTRY_KEYS:
        mend = _did_you_mean(str(key), ENTRY_KEYS)
        findings.append(Finding("data.entry", "data", f"unknown key {key!r} with {entry['path']}", mend))
    weight = entry.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not (math.isfinite(weight) and weight > 0):
        what = f"the weight of {entry['path']} must be a finite number above 0, this is {weight!r}"
        findings.append(Finding("data.weight", "data", what))
        weight = 1.0
    return str(entry["path"]), float(weight)


def _group(rows: Sequence[Row], formats: Mapping[str, Format], columns: Columns) -> dict[str | None, list[Row]]:
    """Rows by the format that they fit; None holds those that fit no format."""
    groups: dict[str | None, list[Row]] = {}
    seen: dict[tuple[tuple[str, bool], ...], str | None] = {}
    for source, row in rows:
        keys = tuple((key, value is None) for key, value in row.items())
        if keys not in seen:
            seen[keys] = _format_of(row, formats, columns)
        groups.setdefault(seen[keys], []).append((source, row))
    return groups


def _format_of(row: Mapping[str, Any], formats: Mapping[str, Format], columns: Columns) -> str | None:
    """The first format that fits by columns that are not null, or else by columns that are there.

    Libraries that make one table of mixed rows fill what a row lacks with null. A text whose label is null stays
    a text-label row (its label is missing): plain text is only tried by columns that are there.
    """
    filled = (name for name, fmt in formats.items() if name != "plain-text" and fmt.fits(row, columns, filled=True))
    present = (name for name, fmt in formats.items() if fmt.fits(row, columns))
    return next(filled, None) or next(present, None)


def _column_problems(rows: Sequence[Row], columns: Columns, where: str) -> list[Finding]:
    """What ``columns`` names that no format knows, or that no row has."""
    ours = {name for fmt in FORMATS.values() for name in (*fmt.needs, *fmt.may)} | {"weight"}
    theirs = {key for _, row in rows for key in row} if columns else set()
    findings = []
    for name, column in columns.items():
        if name not in ours:
            what, mend = f"{name!r} is not a name that rows are mapped to", _did_you_mean(name, ours)
            findings.append(Finding("data.columns", f"columns.{name}", what, mend))
        elif rows and column not in theirs:
            what = f"no row of {where} has a column {column!r}; the columns are {', '.join(sorted(theirs))}"
            findings.append(Finding("data.columns", f"columns.{name}", what, _did_you_mean(column, theirs)))
    return findings


def _did_you_mean(name: str, names: Iterable[str]) -> str:
    lower = {known.lower(): known for known in names}
    near = difflib.get_close_matches(name.lower(), lower, n=1)
    return f"did you mean {lower[near[0]]}?" if near else f"known are {', '.join(sorted(lower.values()))}"


def _unknown(unknown: list[Row], total: int, formats: Mapping[str, Format], columns: Columns) -> Finding:
    source, row = unknown[0]
    known = "; ".join(f"{name} ({', '.join(fmt.needs)})" for name, fmt in formats.items())
    what = f"{len(unknown)} of {total} rows fit no known format: the columns are {', '.join(row) or 'none'}"
    mend = f"{_suggestion(row, formats, columns)}The formats known are {known}; map other names with columns:"
    return Finding("data.unknown-format", str(source), what, mend)


def _suggestion(row: Mapping[str, Any], formats: Mapping[str, Format], columns: Columns) -> str:
    """The format that lacks least (of these, the one that says most), with the row's nearest columns for its own."""
    best, score = "", (math.inf, 0)
    lower = {key.lower(): key for key in row}
    for name, fmt in formats.items():
        near: dict[str, str] = {}
        lacking: list[str] = []
        for need, held_by in fmt.needs.items():
            if fmt.column(need, row, columns) is None:
                free = [key for key in lower if lower[key] not in near.values()]
                matches = [m for column in held_by for m in difflib.get_close_matches(column, free, n=1, cutoff=0.75)]
                near |= {need: lower[matches[0]]} if matches else {}
                lacking += [] if matches else [" or ".join(held_by)]
        if len(lacking) < len(fmt.needs) and (len(lacking), -len(fmt.needs)) < score:
            score = (len(lacking), -len(fmt.needs))
            missing = f", and lacks {' and '.join(lacking)}" if lacking else ""
            mapping = ", ".join(f"{need}: {column}" for need, column in near.items())
            best = f"{name} is nearest{missing}{f', with columns: {{{mapping}}}' if near else ''}. "
    return best
