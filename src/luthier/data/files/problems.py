"""Functions to write: a row that holds one with its tests, and those of Python's own standard library."""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from luthier.data.formats.fields import Fields
from luthier.types import Example, Finding, Problem, Source

STDLIB = "python:stdlib"
LONGEST = 60  # lines of a function
LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "__pycache__", "turtledemo"}

PROBLEM = {"prompt": ("prompt",), "entry_point": ("entry_point",), "solution": ("canonical_solution", "solution")}
TESTS = {"tests": ("test", "tests")}


def code_problem(fields: Fields) -> Example:
    """HumanEval's rows (Chen et al. 2021, arXiv 2107.03374): a function that is begun, how it goes on, its tests."""
    prompt, name = fields.text("prompt", target=True), fields.text("entry_point", target=True)
    solution, tests = fields.text("solution", target=True), fields.optional("tests")
    if not fields.findings:
        for column, source in (("solution", prompt + solution), ("tests", tests)):
            try:
                ast.parse(source)
            except (SyntaxError, ValueError) as error:
                after = " after its prompt" if column == "solution" else ""
                fields.report("data.code", fields.column(column), f"is no Python{after}: {error}")
    return Example(fields.source, text=prompt, targets=[solution], problem=Problem(name, tests))


def read_python(path: str) -> tuple[list[tuple[Source, dict[str, Any]]], list[Finding]]:
    """Rows of ``python:stdlib``: every function of the standard library that has a docstring, as a problem without
    tests. They are those of the Python that runs this, in the order of their files."""
    if path != STDLIB:
        return [], [Finding("data.missing", path, "there is no such corpus", f"the one of Python is `{STDLIB}`")]
    root, rows = Path(sysconfig.get_paths()["stdlib"]), []
    for file in sorted(root.rglob("*.py")):
        inside = file.relative_to(root)
        if LEFT_OUT.isdisjoint(inside.parts):
            rows += [(Source(f"{STDLIB}/{inside.as_posix()}", line), row) for line, row in _functions(file)]
    return rows, []


def _functions(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        text = file.read_text(encoding="utf-8")
        tree = ast.parse(text)
    except (SyntaxError, ValueError, OSError):
        return
    lines = text.splitlines(keepends=True)
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or not ast.get_docstring(node):
            continue
        told, first = node.body[0], node.body[1] if len(node.body) > 1 else None
        if first is None or first.lineno <= (told.end_lineno or 0) or node.end_lineno is None:
            continue  # nothing but a docstring
        begun, rest = lines[node.lineno - 1 : told.end_lineno], lines[told.end_lineno : node.end_lineno]
        if len(rest) > LONGEST:
            continue
        prompt, solution = (_dedented(some, node.col_offset) for some in (begun, rest))
        try:
            if node.col_offset:
                ast.parse(prompt + solution)
        except SyntaxError:  # a docstring or a continued line that stands further left
            continue
        yield node.lineno, {"prompt": prompt, "entry_point": node.name, "canonical_solution": solution}


def _dedented(lines: list[str], by: int) -> str:
    return "".join(line[by:] if not line[:by].strip() else line for line in lines)
