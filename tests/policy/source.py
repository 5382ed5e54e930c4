"""The package's source as the rules of this folder read it: files, their syntax trees, and what they import."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "luthier"


@dataclass(frozen=True)
class File:
    """One source file; ``name`` is its path in the package (``engine/fit.py``), ``room`` its first folder or file."""

    path: Path
    name: str
    tree: ast.Module
    lines: int

    @property
    def room(self) -> str:
        return self.name.split("/")[0].removesuffix(".py")

    def imports(self) -> Iterator[tuple[str, int]]:
        """(dotted name, line) of each import, those inside functions too; ``from a import b`` tells a and a.b."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((alias.name, node.lineno) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.name}:{node.lineno} imports by a relative name"
                yield str(node.module), node.lineno
                yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)

    def files(self, names: set[str]) -> set[str]:
        """Which of the package's files, by ``names``, it imports as it runs: not what a type checker alone reads."""
        typed = {
            id(node)
            for block in ast.walk(self.tree)
            if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
            for node in ast.walk(block)
        }
        told = [
            dotted
            for node in ast.walk(self.tree)
            if isinstance(node, ast.ImportFrom) and id(node) not in typed
            for dotted in (str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names))
        ]
        return {name for dotted in told if (name := dotted.removeprefix("luthier.").replace(".", "/") + ".py") in names}

    def rooms(self) -> Iterator[tuple[str, int]]:
        """(room, line) of each import from this package."""
        for name, line in self.imports():
            parts = name.split(".")
            if parts[0] == "luthier" and len(parts) > 1:
                yield parts[1], line


@cache
def files() -> list[File]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        name = path.relative_to(PACKAGE).as_posix()
        found.append(File(path, name, ast.parse(text), len(text.splitlines())))
    assert len(found) > 50
    return found


def docstrings(tree: ast.Module) -> set[ast.AST]:
    """Every string that stands alone as a statement: documentation, not code."""
    return {
        node.value for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
