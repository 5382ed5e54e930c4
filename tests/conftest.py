"""What all tests share: no network, the real data and weights where they are, and tiny models made once a session."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# What xdist hands out one test after the other. Of any other file all tests go to one process, or dear fixtures of the
# module would be made in both.
SPREAD = {"test_readme.py"}
# The dearest files, which begin the day; what comes last is what the other process may have to wait for.
FIRST = ["test_readme.py", "test_recipes.py", "test_processes.py", "test_kills.py", "test_compare_verb.py"]

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The order and the groups of `--dist loadgroup --no-loadscope-reorder`."""
    if not getattr(config.option, "loadgroup", False):
        return
    items.sort(key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST))
    for item in items:
        if item.path.name not in SPREAD:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """``shared("data/rt_polarity")`` is that folder or file of the shared data and weights; skips where it is not."""

    def find(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"needs {name} in the folder `shared` beside the repository, which is not here")
        return path

    return find


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """``tiny_folder("llama", pad=None)`` is a saved tiny model's folder; each is made once a session."""
    import tiny

    made: dict[str, str] = {}

    def folder(name: str, **changes: Any) -> str:
        key = f"{name} {sorted(changes.items())}"
        if key not in made:
            made[key] = tiny.save(name, tmp_path_factory.mktemp(name), **changes)
        return made[key]

    return folder
