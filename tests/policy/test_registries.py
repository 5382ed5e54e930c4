"""The catalogues of the rooms: each file is registered, each entry is a file, and the pages list the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from source import PACKAGE, ROOT, files

from luthier.fusion import FUSIONS
from luthier.methods import METHODS
from luthier.methods.common import MethodOptions
from luthier.objectives import OBJECTIVES
from luthier.options import Options
from luthier.registry import Registry
from luthier.tasks import TASKS

ROOMS = {"methods": METHODS, "objectives": OBJECTIVES, "tasks": TASKS, "fusion": FUSIONS}
# Files of a room that are shared by its entries.
SHARED = {
    "methods": {"beside", "bottleneck", "by_role", "combine", "common", "injected", "members", "rank_budget"},
    "objectives": {
        "chunked",
        "coupled",
        "divergence",
        "likelihood",
        "online",
        "policy",
        "preference",
        "sequence",
        "similarity",
        "trajectory",
    },
    "tasks": {
        "actions",
        "answers",
        "common",
        "extract",
        "language",
        "letters",
        "matched",
        "observed",
        "pictures",
        "shown",
        "shown_turns",
        "sounds",
        "source",
    },
    "fusion": {"common"},
}
PROMISED = {"methods": ("Options", "DEFAULTS", "adapt"), "objectives": ("Options", "Objective"),
            "tasks": ("Options", "DEFAULTS", "Task"), "fusion": ("Options", "Fusion")}  # fmt: skip


@pytest.mark.parametrize("room", ROOMS)
def test_each_file_of_a_room_is_registered_under_its_name(room: str) -> None:
    there = {path.stem for path in (PACKAGE / room).glob("*.py")} - {"__init__"} - SHARED[room]
    assert dict(ROOMS[room]) == {name: f"luthier.{room}.{name}" for name in there}


@pytest.mark.parametrize("room", ROOMS)
def test_each_entry_has_what_its_room_promises(room: str) -> None:
    for name in ROOMS[room]:
        module = ROOMS[room].load(name)
        assert [promised for promised in PROMISED[room] if promised not in vars(module)] == [], name
        assert issubclass(module.Options, MethodOptions if room == "methods" else Options)
        assert module.Options(), "every option has a default"
    assert all(text.endswith((".", ":")) or text for _, text in ROOMS[room].describe())


def test_no_name_is_in_two_rooms() -> None:
    """The section of a recipe is found by its name alone."""
    names = [name for registry in ROOMS.values() for name in registry]
    assert len(names) == len(set(names))


def test_every_registry_is_in_this_test() -> None:
    made = {file.room for file in files() if file.name.endswith("__init__.py") and "Registry(" in text(file.path)}
    assert made == {*ROOMS, "export"}


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def pages() -> list[Path]:
    return [path for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))] if path.is_file()]


@pytest.mark.parametrize("room", ROOMS)
def test_the_pages_name_every_entry(room: str) -> None:
    """Each method, objective and task stands in code type on some page; the README has tasks and methods."""
    if not pages():
        pytest.skip("there are no pages yet")
    told = set(re.findall(r"`([\w-]+)", "\n".join(text(path) for path in pages())))
    assert set(ROOMS[room]) <= told
    if room != "objectives":
        assert set(ROOMS[room]) <= set(re.findall(r"\w+", text(ROOT / "README.md")))


def test_a_registry_loads_only_what_is_asked_for() -> None:
    registry = Registry(one="json", none="no.such.module")
    assert registry.load("one").__name__ == "json"
    with pytest.raises(ModuleNotFoundError):
        registry.load("none")
