"""Every shell, Python and YAML block of the README and the docs is run, in a folder with no more than the shipped data.

`make demo` and `make test` are not: the one would set up an environment, the other would run this test. What `make
demo` runs, the recipe `sentiment`, is (with fewer steps), and their lines in the Makefile are compared.

Two blocks run as fresh interpreters. The others, whose commands would each import torch anew, run in forks of a process
that has: the same code from the words to the exit code (`shells.py`).
"""

from __future__ import annotations

import shutil
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import pytest
import yaml
from shells import run_block
from typed import REPOSITORY, blocks

from luthier.recipe import read_recipe

PAGES = ["README.md", "docs/quickstart.md", "docs/python.md"]
RECIPES = REPOSITORY / "src/luthier/recipes"


def as_typed(found: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Blocks of one language that follow each other are one session: what the first imports, the next uses."""
    runs = [(language, list(texts)) for language, texts in groupby(found, key=itemgetter(0))]
    return [(language, "\n".join(text for _, text in texts)) for language, texts in runs]


def shown(page: str) -> list[tuple[str, str]]:
    return [block for block in blocks(page) if block[0] != "yaml"]


# Each block of the README needs the data alone, so they run beside each other; other pages go on from block to block.
PARTS = {f"README.md, {at}": [block] for at, block in enumerate(shown("README.md"), 1)}
FRESH = ["README.md, 3", "README.md, 4"]  # Python, and a shell with a pipe
PARTS |= {page: as_typed(shown(page)) for page in PAGES if page != "README.md"}


@pytest.mark.parametrize("name", PARTS)
def test_blocks_run(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    if "luthier copy" not in PARTS[name][0][1]:  # else the page brings it
        shutil.copytree(RECIPES / "data", folder / "data")
    for language, text in PARTS[name]:
        ran = run_block(language, text, folder, tmp_path / "tools", fresh=name in FRESH)
        assert ran.returncode == 0, f"{text}\n{ran.stdout}\n{ran.stderr}"
        assert "Traceback" not in ran.stderr
        assert "Warning" not in ran.stderr, ran.stderr


def test_every_page_shows_something() -> None:
    assert all(PARTS.values())
    assert {PARTS[name][0][0] for name in FRESH} == {"python", "shell"}
    assert len({name.partition(",")[0] for name in PARTS}) == len(PAGES)


def test_no_other_page_has_blocks_that_nobody_runs() -> None:
    pages = [path.relative_to(REPOSITORY).as_posix() for path in REPOSITORY.glob("docs/*.md")]
    others = [page for page in [*pages, "CONTRIBUTING.md", "AGENTS.md"] if page not in PAGES]
    assert {page: blocks(page) for page in others if blocks(page)} == {}


def test_recipes_in_pages_are_valid() -> None:
    found = [text for page in PAGES for language, text in blocks(page) if language == "yaml"]
    assert found
    for text in found:
        recipe, findings = read_recipe(yaml.safe_load(text))
        assert recipe is not None
        assert findings == []


def test_demo_is_the_recipe_that_the_readme_runs() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert "tune src/luthier/recipes/sentiment.yaml" in makefile
    assert "luthier tune sentiment.yaml steps=20" in (REPOSITORY / "README.md").read_text(encoding="utf-8")
