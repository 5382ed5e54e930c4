"""A room's catalogue: one explicit line for each file, loaded when it is first asked for."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any


class Registry(dict[str, str]):
    """Name → dotted module. ``load`` imports the module; ``describe`` reads its first docstring line."""

    def load(self, name: str) -> Any:
        return import_module(self[name])

    def describe(self) -> Iterator[tuple[str, str]]:
        for name in self:
            yield name, (self.load(name).__doc__ or "").strip().split("\n")[0]
