"""What has been read of a file: its rows, each with its line, and a finding for each bad one."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from luthier.types import Finding, Source

Row = tuple[Source, dict[str, Any]]

BAD_ROW_CODES = ("data.malformed", "data.encoding")
LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")


class TooManyBad(Exception):
    """So many rows of one file are bad that reading it further has no use."""


@dataclass
class Reading:
    """What has been read of one file: good rows, and a finding for each bad one. ``line`` is the last one read."""

    file: str
    limit_bad: int
    rows: list[Row] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    line: int = 0

    def add(self, line: int, value: Any, text: str = "") -> None:
        """Keep a row. ``text`` is its JSON, which alone can hold half a surrogate pair (``\\ud83d``)."""
        if not isinstance(value, dict):
            self.bad(line, f"a row must be an object with named fields, this is {kind(value)}: {excerpt(str(value))}")
        elif "\\u" in text and LONE_SURROGATE.search(json.dumps(value, ensure_ascii=False)):
            self.bad(line, "holds half a surrogate pair, which is no character", "mend the \\ud8.. escape")
        else:
            self.rows.append((Source(self.file, line), value))

    def bad(self, line: int | str, what: str, mend: str = "", code: str = "data.malformed") -> None:
        self.findings.append(Finding(code, f"{self.file}:{line}", what, mend))
        if len(self.findings) >= self.limit_bad:
            raise TooManyBad


def kind(value: Any) -> str:
    """The type of a value in the words of JSON: "a string", "null", "a list"."""
    words = {str: "a string", bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return "null" if value is None else words.get(type(value), f"a {type(value).__name__}")


def excerpt(text: str, at: int = 0) -> str:
    """60 characters around a place, quoted."""
    start = max(0, min(at - 30, len(text) - 60))
    return repr(text[start : start + 60])
