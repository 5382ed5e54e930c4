"""A row of a file as fields asked for by our names; what is wrong with it gathers as findings."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luthier.data.files.reading import kind
from luthier.data.text.turns import ROLES, read_turns
from luthier.types import Example, Finding, Message, Picture, Sound, Source, Waveform

Columns = Mapping[str, str]
"""Our name → the file's column, for files whose columns are named otherwise."""


@dataclass(frozen=True)
class Format:
    """What a format needs and may have (our name → the columns that hold it, the first found wins).

    Formats that ``talk`` become conversations: files of several such formats make one set.
    """

    needs: Mapping[str, tuple[str, ...]]
    may: Mapping[str, tuple[str, ...]]
    build: Callable[[Fields], Example]
    talks: bool = False

    def column(self, name: str, row: Mapping[str, Any], columns: Columns) -> str | None:
        """The column of ``row`` that holds ``name``, or None."""
        held_by = (columns[name],) if name in columns else self.needs.get(name) or self.may.get(name, (name,))
        return next((column for column in held_by if column in row), None)

    def fits(self, row: Mapping[str, Any], columns: Columns, *, filled: bool = False) -> bool:
        """Whether every column that is needed is there (and, if ``filled``, not null)."""
        found = [self.column(name, row, columns) for name in self.needs]
        return all(column is not None and not (filled and row[column] is None) for column in found)

    def knows(self, names: Mapping[str, Any]) -> bool:
        return all(name in self.needs or name in self.may or name == "weight" for name in names)


@dataclass
class Fields:
    """One row, asked for by our names; what is wrong with it gathers in ``findings``."""

    source: Source
    row: dict[str, Any]
    format: Format
    columns: Columns
    findings: list[Finding] = field(default_factory=list)

    def column(self, name: str) -> str:
        return self.format.column(name, self.row, self.columns) or name

    def get(self, name: str) -> Any:
        return self.row.get(self.column(name))

    def report(self, code: str, at: str, what: str, mend: str = "") -> None:
        self.findings.append(Finding(code, f"{self.source}:{at}", what, mend))

    def text(self, name: str, *, target: bool = False) -> str:
        """A text; a ``target`` may not be empty."""
        value = self.get(name)
        if not isinstance(value, str):
            self.report("data.type", self.column(name), f"must be text, this is {kind(value)}")
            return ""
        if target and not value.strip():
            self.report("data.empty-target", self.column(name), "is empty: there is nothing to learn")
        return value

    def texts(self, name: str) -> list[str]:
        """One text or several, none of them empty: the first is learned, all are references."""
        found = self.get(name)
        several = found if isinstance(found, list) else [found]
        if not all(isinstance(text, str) for text in several):
            self.report("data.type", self.column(name), f"must be a text or a list of texts, this is {kind(found)}")
            return []
        if not several or not all(text.strip() for text in several):
            self.report("data.empty-target", self.column(name), "is empty: there is nothing to learn")
        return several

    def optional(self, name: str) -> str:
        """A text that may be missing, null or empty."""
        return "" if self.get(name) is None else self.text(name)

    def pictures(self, name: str) -> list[Picture]:
        """One picture or several: each a path, or its bytes as data sets on a hub hold them."""
        value = self.get(name)
        found = self.as_pictures(value if isinstance(value, list) else [value], self.column(name))
        if not found and not self.findings:
            self.report("data.type", self.column(name), "names no picture")
        return found

    def as_pictures(self, values: list[Any], at: str) -> list[Picture]:
        """Each of them a path or bytes, or reported."""
        found: list[Picture] = []
        for one in values:
            if isinstance(one, dict):
                one = one.get("bytes") or one.get("path")
            if isinstance(one, bytes):
                found.append(one)
            elif isinstance(one, str) and one.strip():
                found.append(Path(one))
            else:
                self.report("data.type", at, f"must be the path of a picture, this is {kind(one)}")
        return found

    def as_sounds(self, values: list[Any], at: str) -> list[Sound]:
        """Each of them as ``sounds`` reads one, or reported."""
        return [sound for one in values for sound in self.sounds(at, one)]

    def sounds(self, name: str, value: Any = None) -> list[Sound]:
        """One sound, that of a column where no ``value`` is given: a path, the bytes of a file, or an array with its
        rate, as data sets on a hub hold them."""
        value = self.get(name) if value is None else value
        if isinstance(value, dict) and value.get("array") is not None:
            return self._waveform(name, value["array"], value.get("sampling_rate"))
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            return [value]
        if isinstance(value, str) and value.strip():
            return [Path(value)]
        if isinstance(value, list):
            return self._waveform(name, value, None)
        self.report("data.type", self.column(name), f"must be the path of a sound, this is {kind(value)}")
        return []

    def _waveform(self, name: str, array: Any, rate: Any) -> list[Sound]:
        import numpy as np

        try:
            samples = np.asarray(array, dtype="<f4")
        except (TypeError, ValueError):
            samples = np.zeros((0, 0, 0))
        if samples.ndim not in (1, 2):
            self.report("data.type", self.column(name), "must be samples: a list of numbers, or one a channel")
            return []
        channels = 1 if samples.ndim == 1 else max(1, min(samples.shape))
        if samples.ndim == 2 and samples.shape[0] == channels:  # a list for each channel
            samples = samples.T
        told = rate if isinstance(rate, int | float) and not isinstance(rate, bool) and math.isfinite(rate) else 0
        return [Waveform(np.ascontiguousarray(samples).tobytes(), int(told), channels)]

    def turns(
        self, name: str, roles: Mapping[str, str] = ROLES, pictures: list[Any] | None = None
    ) -> list[Message]:  # fmt: skip
        return read_turns(self.get(name), self.column(name), self.report, roles, pictures)

    def tools(self) -> list[dict[str, Any]] | None:
        """The tools that the assistant may call: a list of objects, or the same written as JSON."""
        value = self.get("tools")
        if isinstance(value, str) and value.strip():
            try:
                value = json.loads(value)
            except ValueError as error:
                self.report("data.type", self.column("tools"), f"is not valid JSON ({error})")
                return None
        if value and not (isinstance(value, list) and all(isinstance(tool, dict) for tool in value)):
            self.report("data.type", self.column("tools"), f"must be a list of objects, this is {kind(value)}")
        return value or None

    def weight(self) -> float:
        """The row's weight, 1 where there is no such column; a table's text is read as a number."""
        if self.format.column("weight", self.row, self.columns) is None:
            return 1.0
        value = self.get("weight")
        try:
            weight = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            weight = math.nan
        if not (math.isfinite(weight) and weight > 0):
            self.report("data.weight", self.column("weight"), f"must be a finite number above 0, this is {value!r}")
        return weight
