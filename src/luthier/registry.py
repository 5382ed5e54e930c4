"""A room's catalogue: one explicit line for each file, loaded when it is first asked for."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.abc import InspectLoader
from importlib.util import find_spec
from typing import Any


class Registry(dict[str, str]):
    """Name → dotted module. ``load`` imports the module; ``describe`` reads the first line of its docstring from its
    source, as importing all of them would import torch."""

    def load(self, name: str) -> Any:
        return import_module(self[name])

    def describe(self) -> Iterator[tuple[str, str]]:
        for name, module in self.items():
            text = sys.modules[module].__doc__ if module in sys.modules else _written(module)
            yield name, (text or "").strip().split("\n")[0]


def _written(module: str) -> str | None:
    found = find_spec(module)
    source = found.loader.get_source(module) if found and isinstance(found.loader, InspectLoader) else None
    return ast.get_docstring(ast.parse(source or ""))
