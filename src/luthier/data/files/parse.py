"""One function for each kind of file: bytes to raw rows, each with its line.

Each bad row is one finding at its ``file:line`` (code ``data.malformed`` or ``data.encoding``) and reading goes on,
so that rows + bad rows = rows in the file.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from itertools import chain, islice
from typing import IO, Any

from luthier.data.files import captions, questions
from luthier.data.files.reading import Reading, excerpt
from luthier.types import Finding

BOM = b"\xef\xbb\xbf"
CONVERSATION_KEYS = {"messages", "conversations", "conversation"}
JSON_HINTS = {
    "Unterminated string": "a string is not closed: the line may be cut off",
    "Expecting property name": "names need double quotes, and no comma may stand before a closing brace",
    "Extra data": "more than one value stands here",
    "Invalid control character": "a raw tab or line break stands inside a string: write \\t or \\n",
    "Invalid \\": "a backslash inside a string must be doubled",
    "Expecting value": "JSON has null, true and false, not None, True, False or NA",
}


# ---- text and its encoding


def _encoding_problem(raw: bytes, error: UnicodeDecodeError, offset: int) -> tuple[str, str]:
    try:
        text, guess = raw.decode("cp1252"), "Windows-1252"
    except UnicodeDecodeError:
        text, guess = raw.decode("latin-1"), "Latin-1"
    place = f"byte {offset + error.start} of the file (0x{raw[error.start]:02x}) is not UTF-8"
    mend = f"convert the file: iconv -f {guess.upper()} -t UTF-8"
    return f"{place}: it looks like {guess}, where it reads {excerpt(text, error.start)}", mend


def _is_utf16(start: bytes, reading: Reading) -> bool:
    if not (start.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in start[:64]):
        return False
    reading.bad(1, "not UTF-8: it looks like UTF-16", "convert the file: iconv -f UTF-16 -t UTF-8", "data.encoding")
    return True


def lines(stream: IO[bytes], reading: Reading) -> Iterator[tuple[int, str, tuple[str, str] | None]]:
    """(line, text, encoding problem) of each line; text that is not UTF-8 comes with replacement characters."""
    offset = 0
    for line, raw in enumerate(stream, start=1):
        if line == 1 and _is_utf16(raw, reading):
            return
        body = raw.removeprefix(BOM) if line == 1 else raw
        reading.line = line
        try:
            yield line, body.decode("utf-8"), None
        except UnicodeDecodeError as error:
            problem = _encoding_problem(body, error, offset + len(raw) - len(body))
            yield line, body.decode("utf-8", "replace"), problem
        offset += len(raw)


def _whole(stream: IO[bytes], reading: Reading) -> str:
    """The text of the whole file; "" where it is empty or, with a finding, where it is not UTF-8."""
    raw = stream.read()
    if _is_utf16(raw[:64], reading):
        return ""
    body = raw.removeprefix(BOM)
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        what, mend = _encoding_problem(body, error, len(raw) - len(body))
        reading.bad(body.count(b"\n", 0, error.start) + 1, what, mend, "data.encoding")
        return ""


def read_text(stream: IO[bytes], reading: Reading) -> None:
    """The whole file is one row; line ends become ``\\n``, as in Python's text mode."""
    text = _whole(stream, reading).replace("\r\n", "\n")
    if text.strip():
        reading.add(1, {"text": text})


# ---- JSON


def _bad_json(reading: Reading, line: int, text: str, error: Exception) -> None:
    if not isinstance(error, json.JSONDecodeError):  # nested too deeply, or a number of thousands of digits
        reading.bad(line, f"cannot be read as JSON ({error}): {excerpt(text)}")
        return
    hint = next((hint for start, hint in JSON_HINTS.items() if error.msg.startswith(start)), "")
    if text.strip() in ("{", "["):
        hint = "each row stands in one line; name a file that is one JSON value .json"
    elif error.pos >= len(text.rstrip()):
        hint = "the line ends early: it may be cut off"
    reading.bad(line, f"not valid JSON at column {error.colno} ({error.msg}): {excerpt(text, error.pos)}", hint)


def read_jsonl(stream: IO[bytes], reading: Reading) -> None:
    """One object a line; blank lines are no rows."""
    for line, text, problem in lines(stream, reading):
        if problem:
            reading.bad(line, *problem, "data.encoding")
        elif text.strip():
            try:
                value = json.loads(text := text.rstrip("\r\n"))
            except (ValueError, RecursionError) as error:
                _bad_json(reading, line, text, error)
            else:
                reading.add(line, value, text)


def read_json(stream: IO[bytes], reading: Reading) -> None:
    """A list of objects, an object that holds one such list, or one object; JSON lines under this name too."""
    text = _whole(stream, reading)
    if not text.strip():
        return
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            read_jsonl(io.BytesIO(text.encode()), reading)
        else:
            _bad_json(reading, error.lineno, text, error)
        return
    except (ValueError, RecursionError) as error:
        _bad_json(reading, 1, text, error)
        return
    if isinstance(value, list):
        _add_elements(reading, value, text, text.index("["))
    elif isinstance(value, dict):
        _add_object(reading, value, text)
    else:
        reading.add(1, value)


def _add_object(reading: Reading, value: dict[str, Any], text: str) -> None:
    if found := captions.published(value) or questions.published(value):
        for place, what, mend in found[1]:
            reading.bad(place, what, mend)
        for number, row in found[0]:
            reading.add(number, row, text)
        return
    lists = {name for name, part in value.items() if isinstance(part, list) and part and isinstance(part[0], dict)}
    if not lists or lists & CONVERSATION_KEYS:
        reading.add(1, value, text)
    elif len(lists) > 1:
        names = ", ".join(sorted(lists))
        reading.bad(1, f"the object holds several lists of rows ({names})", "keep one of them in a file")
    else:
        name = lists.pop()
        places = [place.end() - 1 for place in re.finditer(re.escape(json.dumps(name)) + r"\s*:\s*\[", text)]
        _add_elements(reading, value[name], text, places[0] if len(places) == 1 else None)


def _add_elements(reading: Reading, values: list[Any], text: str, opens: int | None) -> None:
    """``opens``: where the list's bracket stands, or None where that is not sure; then a row's line is its index."""
    decoder, skip = json.JSONDecoder(), re.compile(r"[\s,]*")
    at, line = (opens or 0) + 1, text.count("\n", 0, opens or 0) + 1
    seen = at
    for index, value in enumerate(values, start=1):
        if opens is not None:
            at = skip.match(text, at).end()  # type: ignore[union-attr]
            line += text.count("\n", seen, at)
            seen, (_, at) = at, decoder.raw_decode(text, at)
        reading.add(index if opens is None else line, value, text[seen:at] if opens is not None else text)


# ---- tables


def read_delimited(stream: IO[bytes], reading: Reading, delimiter: str) -> None:
    """A table with a header line. A row's line is the physical one that it starts in; every value is a string. A header
    without commas and with bars, as Flickr30k's, says that these part a ``.csv``; values have no blanks around them."""
    problems: dict[int, tuple[str, str]] = {}
    first = list(islice(found := lines(stream, reading), 1))
    barred = delimiter == "," and any("|" in text and "," not in text for _, text, _ in first)
    delimiter = "|" if barred else delimiter

    def texts() -> Iterator[str]:
        for line, text, problem in chain(first, found):
            if problem:
                problems[line] = problem
            yield text

    limit = csv.field_size_limit(2**31 - 1)
    try:
        records = _records(csv.reader(texts(), delimiter=delimiter, strict=True))
        start, _, header = next(records, (0, 0, []))
        if start in problems:
            reading.bad(start, *problems[start], "data.encoding")
            return
        if isinstance(header, str) or len(set(header)) < len(header):
            what = header if isinstance(header, str) else f"the header names a column twice: {', '.join(header)}"
            reading.findings.append(Finding("data.header", f"{reading.file}:{start}", what))
            return
        names = [name.strip() for name in header]
        for start, end, fields in records:
            bad = next((line for line in range(start, end + 1) if line in problems), None)
            if bad is not None:
                reading.bad(bad, *problems[bad], "data.encoding")
            elif isinstance(fields, str):
                reading.bad(start, fields, "double the quotes inside a quoted field, and close each")
            elif len(fields) != len(names):
                what = f"{len(fields)} fields, where the header names {len(names)}: {excerpt(delimiter.join(fields))}"
                reading.bad(start, what, "quote a field that holds the delimiter")
            else:
                values = [field.strip() for field in fields] if barred else fields
                reading.add(start, dict(zip(names, values, strict=True)))
    finally:
        csv.field_size_limit(limit)


def _records(reader: Any) -> Iterator[tuple[int, int, list[str] | str]]:
    """(first line, last line, fields or what is wrong) of each record that is not blank."""
    while True:
        start = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            what = f"not a valid record ({error})"
            if "end of data" in str(error):
                what = f"a quote that opens here is never closed: lines {start} to {reader.line_num} cannot be read"
            yield start, reader.line_num, what
        else:
            if fields:
                yield start, reader.line_num, fields
