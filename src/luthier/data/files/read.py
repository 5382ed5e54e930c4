"""A path to raw rows, each with the place that it came from: a file, a folder or a data set on a hub."""

from __future__ import annotations

import difflib
import gzip
import re
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, cast

from luthier.data.files.arrow import NO_ROWS, is_saved, read_arrow, read_parquet
from luthier.data.files.conll import read_conll, read_conllu, read_txt
from luthier.data.files.lerobot import is_lerobot, read_lerobot
from luthier.data.files.parse import (
    read_delimited,
    read_json,
    read_jsonl,
)
from luthier.data.files.problems import read_python
from luthier.data.files.questions import with_answers
from luthier.data.files.reading import BAD_ROW_CODES, Reading, Row, TooManyBad
from luthier.data.files.shard_names import shard_names
from luthier.data.files.shards import class_folders, read_classes, read_tar
from luthier.data.files.token_files import read_token
from luthier.data.formats.audio import AUDIO
from luthier.data.formats.audio import ENDINGS as SOUNDS
from luthier.data.formats.rows import IMAGE
from luthier.data.media.pictures import ENDINGS as PICTURES
from luthier.data.media.tones import read_tones
from luthier.environments.demonstrations import read_demonstrations
from luthier.types import Finding, Source

READERS: dict[str, Callable[[IO[bytes], Reading], None]] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": partial(read_delimited, delimiter=","),
    ".tsv": partial(read_delimited, delimiter="\t"),
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    ".conll": read_conll,
    ".iob": read_conll,
    ".conllu": read_conllu,
    ".txt": read_txt,
    ".token": read_token,
    ".tar": read_tar,
    ".tgz": read_tar,
}
MADE: dict[str, Callable[[str], tuple[list[Row], list[Finding]]]] = {
    "python": read_python,
    "minigrid": read_demonstrations,
    "tones": read_tones,
}
LIMIT_BAD = 1000
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(:[^/]+)?")
PAPERS = {"readme", "license", "licence", "notice", "citation", "changelog"}
SPLIT_WORDS = re.compile(r"(?:^|[^a-z])(train|test|dev|val|valid|validation|eval)(?=[^a-z]|$)")


def read_rows(path: str, *, base: Path, limit_bad: int = LIMIT_BAD) -> tuple[list[Row], list[Finding]]:
    """Read a file (or those of its rows that are of a ``split``: ``file:train+restval``), files by one name
    (``shard-{00..12}.tar``, ``*.tar``), a folder, a hub data set (``owner/name[:split]``, or ``hub:owner/name:split``),
    or what is made on the spot (``MADE``): functions of Python's library, ``python:stdlib``, demonstrations,
    ``minigrid:<environment>:<episodes>``, sounds of telephone keys, ``tones:keypad``.

    ``path`` is relative to ``base``. After ``limit_bad`` bad rows in one file its reading stops with the error
    ``data.too-many-bad``. Nothing is raised: every problem is a finding.
    """
    if path.startswith("hub:"):
        return _read_hub(path.removeprefix("hub:"))
    if path.partition(":")[0] in MADE:
        return MADE[path.partition(":")[0]](path)
    target = base / Path(path).expanduser()
    if is_lerobot(target):
        return read_lerobot(target, path)
    if target.is_dir():
        return _read_folder(target, path, limit_bad)
    if target.exists():
        rows, findings = _read_file(target, path, limit_bad)
        return rows, findings + _several_splits(path, rows)
    if several := shard_names(path, base):
        read = [read_rows(one, base=base, limit_bad=limit_bad) for one in several]
        return [row for rows, _ in read for row in rows], [one for _, findings in read for one in findings]
    name, _, split = path.rpartition(":")
    if name and (base / Path(name).expanduser()).is_file():
        return _of_split(*_read_file(base / Path(name).expanduser(), name, limit_bad), path, split)
    missing = _missing(path, target)
    return _read_hub(path, missing) if _may_be_on_hub(path, base) else ([], [missing])


def _splits(rows: list[Row]) -> list[str]:
    """The splits that the rows say they are of; none where one says nothing."""
    told = [row.get("split") for _, row in rows]
    return sorted({one for one in told if isinstance(one, str)}) if all(isinstance(one, str) for one in told) else []


def _several_splits(path: str, rows: list[Row]) -> list[Finding]:
    splits = _splits(rows)
    if len(splits) < 2 or not any(SPLIT_WORDS.search(split) for split in splits):
        return []
    what = f"its rows say that they are of splits ({', '.join(splits)}), and all are read as one set"
    return [Finding("data.folder-splits", path, what, f"name those you want: {path}:{splits[-1]}", severity="warning")]


def _of_split(rows: list[Row], findings: list[Finding], path: str, split: str) -> tuple[list[Row], list[Finding]]:
    """The rows whose ``split`` is among those asked for, ``train+restval``."""
    there, asked = _splits(rows), split.split("+")
    if rows and (unknown := [one for one in asked if one not in there]):
        has = f"the splits of its rows are {', '.join(there)}" if there else "not all of its rows have a `split`"
        return [], [*findings, Finding("data.missing", path, f"there is no split {unknown[0]!r}", has)]
    return [row for row in rows if row[1].get("split") in asked], findings


def bad_rows(findings: list[Finding]) -> int:
    """How many rows the findings of ``read_rows`` say could not be read."""
    return sum(finding.code in BAD_ROW_CODES for finding in findings)


def _read_file(target: Path, shown: str, limit_bad: int) -> tuple[list[Row], list[Finding]]:
    read = READERS.get(suffix_of(target.name))
    if read is None:
        what = f"a file that ends in {target.suffix or 'nothing'} cannot be read"
        return [], [
            Finding("data.unknown-file", shown, what, f"known endings, each also with .gz: {', '.join(READERS)}")
        ]
    reading = Reading(shown, limit_bad)
    try:
        with target.open("rb") as raw:
            if raw.read(len(LFS_POINTER)) == LFS_POINTER:
                what = "this is a git-lfs pointer, not the data itself"
                return [], [Finding("data.lfs-pointer", shown, what, "fetch the data: git lfs pull")]
        with _open(target) as stream:
            read(stream, reading)
        with_answers(target, reading, read_json)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        what = f"the gzip data is broken from here on ({error})"
        mend = "the file may have come incompletely: get it again"
        reading.findings.append(Finding("data.malformed", f"{shown}:{reading.line + 1}", what, mend))
    except OSError as error:
        reading.findings.append(Finding("data.unreadable", shown, f"cannot be read: {error.strerror or error}"))
    except TooManyBad:
        what = f"{limit_bad} bad rows: reading stopped at line {reading.line}"
        reading.findings.append(
            Finding("data.too-many-bad", shown, what, "mend the first of them; the rest may follow")
        )
    if not reading.rows and not reading.findings:
        reading.findings.append(
            Finding("data.empty", shown, "has 0 rows" + (", only a header" if reading.line else ""))
        )
    return reading.rows, reading.findings


def _read_folder(target: Path, shown: str, limit_bad: int) -> tuple[list[Row], list[Finding]]:
    rows: list[Row] = []
    findings: list[Finding] = []
    entries = sorted(entry for entry in target.iterdir() if not entry.name.startswith("."))
    saved = NO_ROWS if is_saved(target) else ()
    files = [entry for entry in entries if entry.is_file() and _is_data(entry.name) and entry.name not in saved]
    classes = class_folders(target)
    if not files and classes:
        return _read_classes(target, shown, classes)
    splits = {word for entry in files for word in SPLIT_WORDS.findall(entry.name.lower())}
    if len(splits) > 1:
        what = f"its files are named like splits ({', '.join(sorted(splits))}), and all are read as one set"
        findings.append(Finding("data.folder-splits", shown, what, "name the files one by one", severity="warning"))
    if not files:
        mend = f"known endings, each also with .gz: {', '.join(READERS)}"
        findings.append(Finding("data.empty", shown, "no data file in this folder", mend))
    for entry in files:
        found_rows, found = _read_file(entry, f"{shown.rstrip('/')}/{entry.name}", limit_bad)
        rows += found_rows
        findings += found
    own = [entry for entry in entries if entry.name in saved]
    if any(name in row for _, row in rows for name in (*IMAGE, *AUDIO)):  # they are what rows name
        own += [one for one in entries if one in classes or one.suffix.lower() in (*PICTURES, *SOUNDS)]
    others = [entry.name for entry in entries if entry not in files and entry not in own]
    if others:
        what = f"{len(others)} not read: {', '.join(others[:10])}{', ...' if len(others) > 10 else ''}"
        findings.insert(0, Finding("data.unknown-file", shown, what, severity="warning"))
    return rows, findings


def _read_classes(target: Path, shown: str, classes: list[Path]) -> tuple[list[Row], list[Finding]]:
    """Folders of pictures, one a class; those that are called like splits are none."""
    splits = [folder.name for folder in classes if SPLIT_WORDS.fullmatch(folder.name.lower())]
    if splits:
        what = f"its folders are splits ({', '.join(splits)}), and not classes"
        return [], [Finding("data.folder-splits", shown, what, f"name one of them: {shown.rstrip('/')}/{splits[0]}")]
    return read_classes(target, shown, classes)


def _read_hub(name: str, missing: Finding | None = None) -> tuple[list[Row], list[Finding]]:
    """``missing`` says that there is no such file, where the name could also have been a path."""
    before, mend = (f"{missing.what}, and ", missing.mend) if missing else ("", "")
    try:
        import datasets
    except ImportError:
        what = f"{before}a data set on a hub is read with the datasets library, which is not installed"
        code = missing.code if missing else "data.needs-extra"
        return [], [Finding(code, name, what, mend or 'install it: pip install "luthier[data]"')]
    repo, _, split = name.partition(":")
    split = split or "train"
    try:
        table = datasets.load_dataset(repo, split=split)
    except Exception as error:  # the library passes on errors of its own, of its builders and of the network
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        what = f"{before}{repo} (split {split}) is not a hub data set that can be reached: {reason}"
        return [], [Finding("data.missing", name, what, mend or "check the path, or the network for a hub data set")]
    classes = {key: part for key, part in table.features.items() if isinstance(part, datasets.ClassLabel)}
    for key, part in table.features.items():
        if type(part).__name__ in ("Audio", "Image"):  # as they are stored: decoding is ours
            table = table.cast_column(key, type(part)(decode=False))
    rows: list[Row] = []
    for index, row in enumerate(table, start=1):
        # A class is read by its name; -1 is how a test split with hidden labels writes "none".
        for key, part in classes.items():
            row[key] = None if row[key] is None or row[key] < 0 else part.int2str(row[key])
        rows.append((Source(f"hub:{repo}:{split}", index), row))
    return rows, [] if rows else [Finding("data.empty", name, "has 0 rows")]


def _missing(path: str, target: Path) -> Finding:
    folder = target.parent
    if not folder.is_dir():
        return Finding("data.missing", path, f"no such file: the folder {folder} does not exist")
    names = {entry.name.lower(): entry.name for entry in folder.iterdir()}
    near = [names[name] for name in difflib.get_close_matches(target.name.lower(), names, n=3)]
    mend = f"did you mean {' or '.join(near)}?" if near else ""
    return Finding("data.missing", path, f"no such file: {target}", mend)


def _may_be_on_hub(path: str, base: Path) -> bool:
    """Whether a path that leads nowhere can be a hub id: not in a folder that exists, not named like a data file.

    What exists in the working folder alone is a slip in the path; the datasets library would silently take it.
    """
    owner, slash, _ = path.partition("/")
    in_folder = bool(slash) and (base / owner).exists()
    return bool(HUB_ID.fullmatch(path)) and not in_folder and suffix_of(path) not in READERS and not Path(path).exists()


def _open(target: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(target)) if target.name.lower().endswith(".gz") else target.open("rb")


def suffix_of(name: str) -> str:
    """The ending that says what a file holds, in small letters, without the ``.gz`` after it."""
    return Path(name.lower().removesuffix(".gz")).suffix


def _is_data(name: str) -> bool:
    return suffix_of(name) in READERS and name.split(".")[0].lower() not in PAPERS
