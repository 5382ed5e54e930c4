"""Documents cut into passages of a given number of tokens, by paragraphs where possible; each knows its file and line.

A text file is cut at blank lines. Paragraphs that fit together become one passage; the last of them that fit into the
overlap begin the next one too. A paragraph that is longer than a passage is cut between words. Of a file of rows
(JSONL, CSV, ...) each row is a document.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from luthier.data.files.read import READERS, read_rows, suffix_of
from luthier.types import Finding, Refused

TEXTS = (".txt", ".md", ".rst", ".text")
COLUMNS = ("text", "passage", "contexts", "context", "document", "content", "body")
PARAGRAPH = re.compile(r"\S(?:.*\S)?(?:[^\S\n]*\n[^\S\n]*\S.*)*")  # lines that no blank line parts


@dataclass(frozen=True)
class Passage:
    """``line`` and ``last_line`` count from 1; in a file of rows they are the row's."""

    text: str
    file: str
    line: int
    last_line: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Cut:
    """``spans(text)`` gives (start, end) of each token of a text alone, in characters."""

    spans: Callable[[str], Sequence[tuple[int, int]]]
    tokens: int
    overlap: int


def find_files(path: Path) -> tuple[list[Path], list[str]]:
    """The files under a folder (or the file itself) that can be read, in order, and the names of those that can't."""
    if not path.exists():
        raise Refused(Finding("index.missing", str(path), "there is no such file or folder", "give the documents"))
    found = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file() and not _hidden(p, path))
    kept = [file for file in found if suffix_of(file.name) in TEXTS or suffix_of(file.name) in READERS]
    if not kept:
        endings = ", ".join((*TEXTS, *READERS))
        raise Refused(Finding("index.empty", str(path), "there is no file here that can be read", f"known: {endings}"))
    return kept, [str(file) for file in found if file not in kept]


def cut_file(file: Path, shown: str, cut: Cut) -> list[Passage]:
    """Raises Refused where the file can't be read, or a row has no text."""
    if suffix_of(file.name) in TEXTS:
        try:
            document = file.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            what = f"this is no UTF-8 text ({error.reason} at byte {error.start})"
            raise Refused(Finding("index.encoding", shown, what, "save it as UTF-8, or move it away")) from None
        return [Passage(document[a:b], shown, *_lines(document, a, b)) for a, b in passages(document, cut)]
    rows, findings = read_rows(str(file.resolve()), base=Path("/"))
    errors = [finding for finding in findings if finding.severity == "error"]
    made: list[Passage] = []
    for source, row in rows:
        told = next((row[name] for name in COLUMNS if row.get(name)), None)
        texts: list[Any] = told if isinstance(told, list) else [told]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            mend = f"name the column one of {', '.join(COLUMNS)}"
            errors.append(Finding("data.empty-text", f"{shown}:{source.line}", "there is no text in this row", mend))
            continue
        for text in texts:
            made += [Passage(text[a:b], shown, source.line, source.line) for a, b in passages(text, cut)]
    if errors:
        raise Refused(*errors)
    return made


def passages(text: str, cut: Cut) -> Iterator[tuple[int, int]]:
    """(start, end) of each passage in ``text``, in characters."""
    pieces: list[tuple[int, int, int]] = []  # of the passage in hand: start, end, tokens
    carried = 0  # how many of them the last passage had already
    for start, end, size in _pieces(text, cut):
        if pieces and sum(piece[2] for piece in pieces) + size > cut.tokens:
            if len(pieces) > carried:
                yield pieces[0][0], pieces[-1][1]
            pieces = _tail(pieces, min(cut.overlap, cut.tokens - size))
            carried = len(pieces)
        pieces.append((start, end, size))
    if len(pieces) > carried:
        yield pieces[0][0], pieces[-1][1]


def _tail(pieces: list[tuple[int, int, int]], most: int) -> list[tuple[int, int, int]]:
    """The last paragraphs that have at most ``most`` tokens together."""
    kept: list[tuple[int, int, int]] = []
    for piece in reversed(pieces):
        if sum(one[2] for one in kept) + piece[2] > most:
            break
        kept.insert(0, piece)
    return kept


def _pieces(text: str, cut: Cut) -> Iterator[tuple[int, int, int]]:
    """Paragraphs as (start, end, tokens); a long one in windows that overlap, from word to word."""
    for found in PARAGRAPH.finditer(text):
        paragraph, at = found.group(), found.start()
        spans = cut.spans(paragraph)
        if len(spans) <= cut.tokens:
            yield at, found.end(), len(spans)
            continue
        starts = [i for i, (a, _) in enumerate(spans) if a == 0 or paragraph[a - 1].isspace() or paragraph[a].isspace()]
        first = 0
        while first < len(spans):
            last = len(spans) if len(spans) - first <= cut.tokens else _latest(starts, first, first + cut.tokens)
            yield at + spans[first][0], at + spans[last - 1][1], last - first
            if last == len(spans):
                break
            after = bisect_left(starts, max(first + 1, last - cut.overlap))
            first = min(starts[after], last) if after < len(starts) else last


def _latest(starts: Sequence[int], after: int, most: int) -> int:
    """The last beginning of a word up to token ``most``; in the middle of a word where there is none."""
    at = bisect_right(starts, most)
    return starts[at - 1] if at and starts[at - 1] > after else most


def _lines(text: str, start: int, end: int) -> tuple[int, int]:
    first = text.count("\n", 0, start) + 1
    return first, first + text.count("\n", start, end)


def file_digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _hidden(file: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(root).parts)
