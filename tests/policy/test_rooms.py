"""Who may know whom: imports between the rooms of the house, lazy ones too."""

from __future__ import annotations

import ast

import pytest
from source import PACKAGE, docstrings, files

from luthier.methods import METHODS
from luthier.objectives import OBJECTIVES
from luthier.tasks import TASKS

# What a room must never import. The formula's symbols know nothing of each other but through `types`.
ABOVE = {"recipe", "checks", "runs", "plan", "comparison", "cli", "export"}  # what conducts the others
NEVER = {
    "engine": {"methods", "objectives", "tasks", "fusion", "reports", *ABOVE},
    "objectives": {"methods", "tasks", "engine", "reports", *ABOVE},
    "methods": {"objectives", "tasks", "engine", "reports", *ABOVE},
    "fusion": {"methods", "objectives", "tasks", "engine", "reports", "models", "data", *ABOVE},
    "models": {"methods", "objectives", "tasks", "engine", "reports", *ABOVE},
    "data": {"methods", "objectives", "tasks", "engine", "models", *ABOVE},
    "tasks": {"methods", "objectives", "engine", "reports", *ABOVE},
    "reports": {"methods", "objectives", "engine", "models", "comparison", "cli"},
    "plan": {"comparison", "cli"},
    "comparison": {"plan", "cli"},
    "types": {"*"},
}
# Every room may; a name here is a file or folder beside them.
HEAVY = {"torch", "transformers", "peft", "accelerate", "sklearn", "numpy", "safetensors", "pydantic", "datasets"}


@pytest.mark.parametrize("room", NEVER)
def test_a_room_never_imports(room: str) -> None:
    forbidden = NEVER[room]
    assert any(file.room == room for file in files())
    found = [
        f"{file.name}:{line} imports {other}"
        for file in files()
        if file.room == room
        for other, line in file.rooms()
        if other != room and (other in forbidden or "*" in forbidden)
    ]
    assert found == []


def test_the_rooms_of_the_table_exist() -> None:
    """A renamed room must not slip out of the rules."""
    there = {path.stem for path in PACKAGE.iterdir()} | {"*"}
    assert {name for names in NEVER.values() for name in names} | NEVER.keys() <= there


def test_the_engine_names_no_method_objective_or_task() -> None:
    """Neither as a word of code nor in a string; documentation may."""
    names = {*METHODS, *OBJECTIVES, *TASKS} - {"plan"}  # of a run, here: its numbers
    found = []
    for file in files():
        if file.room != "engine":
            continue
        documented = docstrings(file.tree)
        for node in ast.walk(file.tree):
            word = {
                ast.Name: "id", ast.Attribute: "attr", ast.arg: "arg", ast.FunctionDef: "name", ast.keyword: "arg",
            }.get(type(node))  # fmt: skip
            said = vars(node)[word] if word else node.value if isinstance(node, ast.Constant) else None
            if said in names and node not in documented:
                found.append(f"{file.name}:{getattr(node, 'lineno', 0)} says {said}")
    assert found == []


def test_no_file_imports_itself_by_way_of_others() -> None:
    """But by way of a run in use: what judges or teaches a run, or what it searches, may be another run."""
    left = {file.name: file.files({file.name for file in files()}) for file in files() if file.name != "runs/run.py"}
    assert sum(map(len, left.values())) > 500
    while done := [name for name, needs in left.items() if not needs & left.keys()]:
        left = {name: needs for name, needs in left.items() if name not in done}
    assert left == {}


def test_the_command_line_only_calls() -> None:
    """No heavy package, nowhere; and no file of it is long."""
    found = [
        f"{file.name}:{line} imports {name}"
        for file in files()
        if file.room == "cli"
        for name, line in file.imports()
        if name.split(".")[0] in HEAVY
    ]
    assert found == []


def test_nothing_imports_the_command_line() -> None:
    found = [f"{file.name}:{line}" for file in files() for room, line in file.rooms() if room == "cli"]
    assert [place for place in found if not place.startswith(("cli/", "__main__.py"))] == []


def test_importing_a_module_does_nothing() -> None:
    """At the top of a file stand definitions and constants, not calls made for what they do."""
    allowed = {"__main__.py"}
    found = [
        f"{file.name}:{node.lineno}"
        for file in files()
        for node in file.tree.body
        if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant) and file.name not in allowed
    ]
    assert found == []
